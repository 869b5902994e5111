package wal

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// wayOut is what the error tells to run. It is what follows the last colon but one in the middle of the sentence, so the
// test looks for the statement itself.
func wayOut(t *testing.T, err error) string {
	t.Helper()
	text := err.Error()
	for _, begin := range []string{": begin; ", ": alter publication "} {
		if i := strings.LastIndex(text, begin); i >= 0 {
			sql, _, _ := strings.Cut(text[i+2:], ", before anything")
			return sql
		}
	}
	t.Fatalf("the error %q tells no statement", err)
	return ""
}

// Each refusal names a way out, and following the ways out, one after the other, leads to a publication that is good.
//
//nolint:tparallel // the cases share a database, which takes longer to make than all of them
func TestPublicationThatWouldHideRowsIsRefusedWithTheWayOut(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	for name, c := range map[string]struct {
		prepare, publication string
		says                 []string // by each refusal in turn
		since                int
	}{
		"good":                      {"", "for table outbox with (publish = 'insert')", nil, 0},
		"ours":                      {"", "", nil, 0},
		"updates":                   {"", "for table outbox", []string{"inserts and nothing else"}, 0},
		"updates only":              {"", "for table outbox with (publish = 'update')", []string{"inserts and nothing else"}, 0},
		"truncates":                 {"", "for table outbox with (publish = 'insert, truncate')", []string{"inserts and nothing else"}, 0},
		"nothing":                   {"", "for table outbox with (publish = '')", []string{"inserts and nothing else"}, 0},
		"empty":                     {"", "with (publish = 'insert')", []string{"public.outbox is not in publication"}, 0},
		"another table":             {"create table other (i int)", "for table outbox, other with (publish = 'insert')", []string{"public.other"}, 0},
		"another table only":        {"create table other (i int)", "for table other with (publish = 'insert')", []string{"public.outbox is not in", "public.other"}, 0},
		"its namesake":              {"create schema s; create table s.outbox (i int)", "for table s.outbox with (publish = 'insert')", []string{"public.outbox is not in", "s.outbox"}, 0},
		"a row filter":              {"", "for table outbox where (id > 0) with (publish = 'insert')", []string{"row filter"}, 0},
		"a column list":             {"", "for table outbox (id, payload) with (publish = 'insert')", []string{"column list"}, 0},
		"every column":              {"", "for table outbox (id, aggregatetype, aggregateid, type, payload) with (publish = 'insert')", nil, 0},
		"a dropped column":          {"alter table outbox drop column type", "for table outbox with (publish = 'insert')", nil, 0},
		"a generated column":        {"alter table outbox add g text generated always as ('g' || payload) stored", "for table outbox with (publish = 'insert')", nil, 0},
		"a generated one, too":      {"alter table outbox add g text generated always as ('g' || payload) stored", "for table outbox with (publish = 'insert', publish_generated_columns = stored)", nil, 180000},
		"all tables":                {"create table other (i int)", "for all tables", []string{"for all tables"}, 0},
		"all tables, being one":     {"", "for all tables with (publish = 'insert')", []string{"for all tables"}, 0},
		"a schema":                  {"create table other (i int)", "for tables in schema public with (publish = 'insert')", []string{"public.other"}, 0},
		"a schema of one":           {"", "for tables in schema public with (publish = 'insert')", nil, 0},
		"partitions under names":    {partitioned, "for table outbox with (publish = 'insert')", []string{"names of its partitions"}, 0},
		"partitions of a schema":    {partitioned, "for tables in schema public with (publish = 'insert')", []string{"public.outbox is not in", "names of its partitions"}, 0},
		"partitions under the root": {partitioned, "", nil, 0},
		"everything at once":        {partitioned + "; create table other (i int)", "for table outbox, other where (i > 0)", []string{"inserts and nothing else", "names of its partitions", "public.other"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := &source{t: t, db: s.db, options: s.options}
			if c.since > s.version() {
				t.Skip("not in this version of Postgres")
			}
			s.execMany("drop publication if exists tidemark; drop schema if exists s cascade; drop table if exists outbox, other; " + outboxTable + ";" + c.prepare)
			if c.publication == "" {
				if err := CreatePublication(t.Context(), s.options); err != nil {
					t.Fatal(err)
				}
			} else {
				s.exec("create publication tidemark " + c.publication)
			}
			conn := s.connect()
			for _, says := range c.says {
				missing, err := conn.CheckPublication(t.Context())
				if err == nil || missing || !IsPermanent(err) {
					t.Fatalf("CheckPublication() = %v, %v, want a permanent error about %q", missing, err, says)
				}
				if !strings.Contains(err.Error(), says) {
					t.Fatalf("the error %q is not about %q", err, says)
				}
				if strings.Contains(says, "for all tables") {
					s.execMany(wayOut(t, err)) // several statements
				} else {
					s.exec(wayOut(t, err))
				}
			}
			if missing, err := conn.CheckPublication(t.Context()); err != nil || missing {
				t.Errorf("CheckPublication() = %v, %v in the end", missing, err)
			}
			s.mustPublish()
		})
	}
}

const partitioned = `drop table outbox; create table outbox (id bigint generated always as identity, payload text, n int default 1) partition by list (n);
	create table outbox_1 partition of outbox for values in (1)`

func (s *source) execMany(sql string) {
	s.t.Helper()
	if _, err := s.db.PgConn().Exec(s.t.Context(), sql).ReadAll(); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// mustPublish checks that a row of the outbox table comes through the publication, whole and under the table's name.
func (s *source) mustPublish() {
	s.t.Helper()
	c := s.connect()
	start, _, err := c.CreateSlot(s.t.Context(), false)
	if err != nil {
		s.t.Fatal(err)
	}
	st := s.startAt(c, start)
	s.exec("insert into outbox (payload) values ('p')")
	s.exec("update outbox set payload = 'q'")
	s.exec("truncate outbox")
	s.exec("insert into outbox (payload) values ('last')")
	var kinds, root string
	for last := false; !last; {
		m := st.next()
		kinds += string(m[:1])
		switch m[0] {
		case 'R': // that of a partition is announced as well, and not used
			if strings.HasPrefix(string(m[5:]), "public\x00outbox\x00") {
				root = string(m[1:5])
			}
		case 'I':
			if string(m[1:5]) != root {
				s.t.Error("a row comes under another name")
			}
			values := tuple(s.t, m)
			last = strings.Contains(strings.Join(values, " "), "last")
		}
	}
	if got := strings.ReplaceAll(kinds, "R", ""); got != "BICBI" {
		s.t.Errorf("the messages are %s", kinds)
	}
	st.Close()
	s.dropSlot()
}

func TestPublicationIsMissing(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := s.connect()
	if missing, err := c.CheckPublication(t.Context()); !missing || err != nil {
		t.Errorf("CheckPublication() = %v, %v, want missing", missing, err)
	}
	for range 2 { // the second finds that somebody was quicker
		if err := CreatePublication(t.Context(), s.options); err != nil {
			t.Fatal(err)
		}
	}
	if missing, err := c.CheckPublication(t.Context()); missing || err != nil {
		t.Errorf("CheckPublication() = %v, %v, want none", missing, err)
	}
}

// Names are a person's to choose, and the replication connection takes no parameters: they have to be quoted.
func TestNamesAreQuoted(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.hostile() // with backslashes that escape
	s.options.Publication = `It's "the\' outbox, isn't it`
	s.options.Tables = []string{`Sa"l'e\s.Out box'"`, "outbox"}
	s.exec(`create schema "Sa""l'e\s"`)
	s.exec(`create table "Sa""l'e\s"."Out box'""" ("I'd\" int)`)
	st := s.stream()
	c := s.connect()
	if missing, err := c.CheckPublication(t.Context()); missing || err != nil {
		t.Errorf("CheckPublication() = %v, %v", missing, err)
	}
	columns, err := c.Columns(t.Context(), s.options.Tables[0])
	if err != nil || len(columns) != 1 || columns[0] != (Column{`I'd\`, 23}) {
		t.Errorf("Columns() = %v, %v", columns, err)
	}
	s.exec(`insert into "Sa""l'e\s"."Out box'""" values (1)`)
	if kinds, _ := st.transaction(); kinds != "BRIC" {
		t.Errorf("the messages are %s", kinds)
	}
	// And the ways out, with these names.
	s.exec("alter publication " + quoteIdentifier(s.options.Publication) + " set table outbox")
	_, err = c.CheckPublication(t.Context())
	if err == nil {
		t.Fatal("a table is missing, and nothing is said")
	}
	s.exec(wayOut(t, err))
	if missing, err := c.CheckPublication(t.Context()); missing || err != nil {
		t.Errorf("CheckPublication() = %v, %v", missing, err)
	}
}

func TestColumns(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.exec("alter table outbox drop column type")
	s.exec("alter table outbox add at timestamptz")
	c := s.connect()
	for _, table := range []string{"public.outbox", "outbox"} {
		got, err := c.Columns(t.Context(), table)
		want := []Column{{"id", 20}, {"aggregatetype", 25}, {"aggregateid", 25}, {"payload", 25}, {"at", 1184}}
		if err != nil || len(got) != len(want) {
			t.Fatalf("Columns(%s) = %v, %v", table, got, err)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("column %d is %v, want %v", i, got[i], want[i])
			}
		}
	}
	for _, table := range []string{"public.none", "none.outbox", "none", "public.Outbox", "'", "", "."} {
		_, err := c.Columns(t.Context(), table)
		if !IsPermanent(err) || !strings.Contains(err.Error(), "does not exist in database "+c.System.Database) || !strings.Contains(err.Error(), "tidemark init") {
			t.Errorf("Columns(%q): %v", table, err)
		}
	}
}

func TestDomainsLeadToTheTypeBeneath(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.exec("create domain blob as bytea")
	s.exec("create domain smaller as blob check (length(value) < 10)")
	domains, err := s.connect().Domains(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"blob", "smaller"} {
		var oid uint32
		if err := s.db.QueryRow(t.Context(), "select $1::text::regtype::oid", name).Scan(&oid); err != nil {
			t.Fatal(err)
		}
		if domains[oid] != 17 {
			t.Errorf("domain %s, %d, leads to %d, want bytea", name, oid, domains[oid])
		}
	}
}

func TestCreatePublicationSaysWhatToDo(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	o := s.options
	role := o.Slot // roles are the server's, and this name nobody else has
	s.exec("create role " + role + " login")
	t.Cleanup(func() { _, _ = s.db.Exec(context.Background(), "drop role "+role) })
	o.AdminDSN = as(t, o.DSN, role, "")
	if err := CreatePublication(t.Context(), o); !IsPermanent(err) || !strings.Contains(err.Error(), CreatePublicationSQL(o)) || !strings.Contains(err.Error(), "source.admin_dsn") {
		t.Errorf("without the right to it: %v", err)
	}
	o = s.options
	o.Tables = []string{"public.none"}
	if err := CreatePublication(t.Context(), o); !IsPermanent(err) || !strings.Contains(err.Error(), "public.none") || !strings.Contains(err.Error(), "tidemark init") {
		t.Errorf("without the table: %v", err)
	}
	// A table that is locked is not waited for forever: whoever wants to write to it would wait behind.
	tx, err := connectDB(t, s.options.DSN).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // its end is all
	// As VACUUM locks it. (A stronger lock would be logged, and the slots of other tests would wait for it.)
	if _, err := tx.Exec(t.Context(), "lock table outbox in share update exclusive mode"); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := CreatePublication(t.Context(), s.options); !IsPermanent(err) || !strings.Contains(err.Error(), "pg_blocking_pids") {
		t.Errorf("while the table is locked: %v", err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it waited for %s", took)
	}
}

// Replacing the publication in one transaction, as the error about one for all tables says, misses no row of a slot that
// streams meanwhile.
func TestPublicationReplacedInOneTransactionMissesNothing(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.exec("create publication tidemark for all tables with (publish = 'insert')")
	c := s.connect()
	_, err := c.CheckPublication(t.Context())
	if err == nil {
		t.Fatal("a publication for all tables is let pass")
	}
	start, _, errSlot := c.CreateSlot(t.Context(), false)
	if errSlot != nil {
		t.Fatal(errSlot)
	}
	long, errLong := connectDB(t, s.options.DSN).BeginTx(t.Context(), pgx.TxOptions{}) // begun before, committed after
	if errLong != nil {
		t.Fatal(errLong)
	}
	insert := "insert into outbox default values"
	// It may not have written to the table by then: ALTER and DROP PUBLICATION wait for that.
	if _, err := long.Exec(t.Context(), "select pg_current_xact_id()"); err != nil {
		t.Fatal(err)
	}
	s.exec(insert)
	s.execMany(wayOut(t, err))
	s.exec(insert)
	if _, err := long.Exec(t.Context(), insert); err != nil {
		t.Fatal(err)
	}
	if err := long.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := s.startAt(c, start)
	for range 3 {
		if kinds, _ := st.transaction(); strings.ReplaceAll(kinds, "R", "") != "BIC" {
			t.Errorf("the messages are %s", kinds)
		}
	}
}
