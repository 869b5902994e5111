package wal

import (
	"slices"
	"testing"

	"github.com/jackc/pglogrepl"
)

func TestWithoutPageHeader(t *testing.T) {
	const block, segment = 8192, 16 << 20
	for at, want := range map[pglogrepl.LSN]pglogrepl.LSN{
		segment + 40:           segment,              // a segment's first page, empty
		segment + 24:           segment + 24,         // inside its header: never seen
		segment + block + 24:   segment + block,      // a page, empty
		segment + block + 40:   segment + block + 40, // a page with 16 bytes of a record
		segment + 3*block + 24: segment + 3*block,
		segment + 5000:         segment + 5000,
		segment + 2*block:      segment + 2*block,
	} {
		if got := withoutPageHeader(at, block, segment); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
}

// TestOpenNowSeesWhatIsCommittedBeforeItsEnd: a snapshot goes on showing what it has shown, its end lies behind all of that,
// and a scan can be interrupted for whole rows.
func TestOpenNowSeesWhatIsCommittedBeforeItsEnd(t *testing.T) {
	s := newSource(t)
	s.exec("create table plain (id uuid primary key default gen_random_uuid(), k text, payload text)")
	s.exec("insert into plain (k, payload) select 'k' || g % 3, case when g % 2 = 0 then 'p' || g end from generate_series(1, 30) g")
	before := s.lsn("select pg_current_wal_insert_lsn()")
	now, end, busy, err := OpenNow(t.Context(), s.options, "one")
	if err != nil || busy {
		t.Fatal(busy, err)
	}
	defer now.Close()
	if end < before {
		t.Errorf("the end is %s, and the rows were committed before %s", end, before)
	}
	if _, _, busy, err := OpenNow(t.Context(), s.options, "one"); err != nil || !busy {
		t.Errorf("a second one that wants to be alone: busy %t, %v", busy, err)
	}
	s.exec("delete from plain where k = 'k1'")
	s.exec("insert into plain (k) values ('later')")
	selection := Selection{Table: "public.plain", ID: "id", Columns: []string{"id", "k"}, NewestOf: []string{"k"}, NullOf: "payload"}
	var first []string
	for range 2 {
		var ids []string
		newest, null := 0, 0
		err := now.Scan(t.Context(), selection, func([]Column) error { return nil }, func(r Row) error {
			if r.Values[0] == nil || r.Values[1] == nil || r.Values[2] != nil {
				t.Fatalf("values %q, want the first two", r.Values)
			}
			ids = append(ids, string(r.Values[0]))
			if r.Newest {
				newest++
			}
			if r.Null {
				null++
			}
			return now.Fetch(t.Context(), "public.plain", []Place{r.Place}, func(_ Place, values [][]byte) error {
				if string(values[0]) != ids[len(ids)-1] || (values[2] == nil) != r.Null {
					t.Errorf("the row at %v is %q", r.Place, values)
				}
				return nil
			})
		})
		if err != nil || len(ids) != 30 || newest != 3 || null != 15 {
			t.Fatalf("%d rows, %d newest, %d null, %v", len(ids), newest, null, err)
		}
		if first != nil && !slices.Equal(ids, first) {
			t.Error("the second scan has another order")
		}
		first = ids
	}
}

// TestOpenNowsEndIsSent: somebody else's open transaction has left log behind that a quiet server would not write out, and
// so not send.
func TestOpenNowsEndIsSent(t *testing.T) {
	t.Parallel()
	s, _ := ownSource(t, nil) // nobody else writes there
	s.exec("begin")
	s.exec("insert into outbox (payload) values ('open')")
	now, end, _, err := OpenNow(t.Context(), s.options, "")
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	if flushed := s.lsn("select pg_current_wal_flush_lsn()"); flushed < end {
		t.Errorf("the log is written out up to %s, and the end is %s", flushed, end)
	}
}

// TestFlushedIsBehindEveryCommit, also of a transaction that did not wait for the log.
func TestFlushedIsBehindEveryCommit(t *testing.T) {
	t.Parallel()
	s, _ := ownSource(t, map[string]string{"wal_writer_delay": "10s"})
	s.exec("set synchronous_commit = off")
	s.exec("insert into outbox (payload) values ('committed')")
	committed := s.lsn("select pg_current_wal_insert_lsn()")
	setup, err := OpenSetup(t.Context(), s.options)
	if err != nil {
		t.Fatal(err)
	}
	defer setup.Close()
	if flushed, err := setup.Flushed(t.Context()); err != nil || flushed < committed {
		t.Errorf("Flushed() = %s, %v, and a row was committed before %s", flushed, err, committed)
	}
}
