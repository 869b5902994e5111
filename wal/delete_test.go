package wal

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestAPartitionInUseIsNotLeftHalfDetached: to detach it takes the end of every transaction that uses the table, and until then
// nobody sees its rows. So it is not begun beside a transaction that goes on; and one that comes in between is said, with
// the way out.
func TestAPartitionInUseIsNotLeftHalfDetached(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.exec("create table parts (id int, at timestamptz) partition by range (at)")
	s.exec("create table parts_1 partition of parts for values from ('2020-01-01 00:00:00+00') to ('2020-02-01 00:00:00+00')")
	s.exec("insert into parts values (1, '2020-01-05 00:00:00+00')")
	d, err := OpenDeleter(t.Context(), s.options, []string{"public.parts"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	past, why, err := d.Past(t.Context(), "public.parts", time.Now())
	if err != nil || len(past) != 1 || why != "" {
		t.Fatalf("Past: %v, %q, %v", past, why, err)
	}
	var content Content
	if err := d.conn.QueryRow(t.Context(), contentSQL(past[0].Name, "id")).Scan(&content.Rows, &content.hash); err != nil {
		t.Fatal(err)
	}
	other, err := pgx.Connect(t.Context(), s.options.DSN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close(context.Background()) })
	use := func(sql string) {
		t.Helper()
		if _, err := other.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	use("begin; select * from parts")
	if dropped, err := d.Drop(t.Context(), past[0], "id", content); dropped || !IsLocked(err) {
		t.Errorf("Drop of a partition in use: %t, %v", dropped, err)
	}
	if n := s.query("select count(*) from parts"); n != "1" {
		t.Fatalf("%s rows are seen, want the one that is there", n)
	}

	// As if the other had come after the look.
	d.detachLimit = 100 * time.Millisecond
	if err := d.detachBesideWriters(t.Context(), past[0]); err == nil || IsLocked(err) || !strings.Contains(err.Error(), "detach partition parts_1 finalize") {
		t.Errorf("a detach that takes too long: %v", err)
	}
	if _, why, err := d.Past(t.Context(), "public.parts", time.Now()); err != nil || !strings.Contains(why, "half detached") {
		t.Errorf("it is not said that a partition is half detached: %q, %v", why, err)
	}
	if limit := s.short(d); limit != "50ms/20s" {
		t.Errorf("the session's limits are %s", limit)
	}
	use("rollback")
	s.exec("alter table parts detach partition parts_1 finalize")
	s.exec("alter table parts attach partition parts_1 for values from ('2020-01-01 00:00:00+00') to ('2020-02-01 00:00:00+00')")
	d.detachLimit = detachLimit
	if dropped, err := d.Drop(t.Context(), past[0], "id", content); !dropped || err != nil {
		t.Errorf("Drop when nobody uses it: %t, %v", dropped, err)
	}
}

// short returns the limits of a deleter's session.
func (s *source) short(d *Deleter) (limits string) {
	s.t.Helper()
	if err := d.conn.QueryRow(s.t.Context(), "select current_setting('lock_timeout') || '/' || current_setting('statement_timeout')").Scan(&limits); err != nil {
		s.t.Fatal(err)
	}
	return limits
}
