package wal

import (
	"reflect"
	"strings"
	"testing"

	"github.com/tidemark/tidemark/devstack"
)

func (s *source) fingerprint(c *Conn) Fingerprint {
	s.t.Helper()
	f, err := c.Fingerprint(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

// Whatever may have kept rows from being published leaves another fingerprint, also when it is taken back; and what cannot
// have, leaves the same.
//
//nolint:tparallel // the cases share a database, which takes longer to make than all of them
func TestFingerprintTellsWhatMayHaveHiddenRows(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	const good = "create publication tidemark for table outbox with (publish = 'insert', publish_via_partition_root = true)"
	for name, c := range map[string]struct {
		publication string
		then        []string // one transaction each
		same        bool
	}{
		"nothing":                         {good, nil, true},
		"written to":                      {good, []string{"insert into outbox default values", "delete from outbox", "truncate outbox"}, true},
		"another table added":             {good, []string{"create table other (i int)", "alter publication tidemark add table other"}, true},
		"another table added and dropped": {good, []string{"create table other (i int)", "alter publication tidemark add table other", "alter publication tidemark drop table other"}, true},
		"another table filtered":          {good, []string{"create table other (i int)", "alter publication tidemark add table other where (i > 0)"}, true},
		"set to what it is":               {good, []string{"create table other (i int)", "alter publication tidemark add table other", "alter publication tidemark set table outbox"}, true},
		"another publication":             {good, []string{"create publication second for table outbox", "drop publication second"}, true},
		"a column more":                   {good, []string{"alter table outbox add more text", "create index on outbox (more)", "alter table outbox replica identity full"}, true},
		"its partitions change":           {partitioned + "; " + good, []string{"create table outbox_2 partition of outbox for values in (2)", "alter table outbox detach partition outbox_1", "drop table outbox_1"}, true},
		"dropped":                         {good, []string{"alter publication tidemark drop table outbox"}, false},
		"dropped and added":               {good, []string{"alter publication tidemark drop table outbox", "alter publication tidemark add table outbox"}, false},
		"published again":                 {good, []string{"alter publication tidemark set (publish = 'update')", "alter publication tidemark set (publish = 'insert')"}, false},
		"filtered":                        {good, []string{"alter publication tidemark set table outbox where (id > 0)", "alter publication tidemark set table outbox"}, false},
		"some columns":                    {good, []string{"alter publication tidemark set table outbox (id, payload)", "alter publication tidemark set table outbox"}, false},
		"partitions under their name":     {good, []string{"alter publication tidemark set (publish_via_partition_root = false)", "alter publication tidemark set (publish_via_partition_root = true)"}, false},
		"created again":                   {good, []string{"drop publication tidemark", good}, false},
		"gone":                            {good, []string{"drop publication tidemark"}, false},
		"renamed for a while":             {good, []string{"alter publication tidemark rename to other", "alter publication other rename to tidemark"}, false},
		"the table created again":         {good, []string{"drop table outbox", outboxTable, "alter publication tidemark add table outbox"}, false},
		"the table renamed":               {good, []string{"alter table outbox rename to other"}, false},
		"the table renamed and back":      {good, []string{"alter table outbox rename to other", "alter table other rename to outbox"}, true}, // whose rows come under another name, which ends the relay
		"a schema":                        {"create publication tidemark for tables in schema public with (publish = 'insert')", []string{"create table other (i int)"}, true},
		"a schema and another":            {"create publication tidemark for tables in schema public with (publish = 'insert')", []string{"create schema s", "alter publication tidemark add tables in schema s"}, true},
		"a schema dropped and added":      {"create publication tidemark for tables in schema public with (publish = 'insert')", []string{"alter publication tidemark drop tables in schema public", "alter publication tidemark add tables in schema public"}, false},
		"unlogged":                        {"create publication tidemark for tables in schema public with (publish = 'insert')", []string{"alter table outbox set unlogged"}, false},
		"of another schema":               {"create publication tidemark for tables in schema public with (publish = 'insert')", []string{"create schema s", "alter table outbox set schema s"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := &source{t: t, db: s.db, options: s.options}
			s.execMany("drop publication if exists tidemark; drop schema if exists s cascade; drop table if exists outbox, other; " + outboxTable)
			s.execMany(c.publication)
			conn := s.connect()
			before := s.fingerprint(conn)
			if before.Publication == "" || before.Tables["public.outbox"] == "" || len(before.Tables) != 1 {
				t.Fatalf("the fingerprint is %+v", before)
			}
			for _, sql := range c.then {
				s.execMany(sql)
			}
			after := s.fingerprint(conn)
			if reflect.DeepEqual(before, after) != c.same {
				t.Errorf("%+v before, %+v after", before, after)
			}
			lookout := conn.Lookout()
			defer lookout.Close()
			if got, err := lookout.Fingerprint(t.Context()); err != nil || !reflect.DeepEqual(got, after) {
				t.Errorf("over another connection %+v, %v, want %+v", got, err, after)
			}
		})
	}
}

// A partition that is an outbox table of its own is published because of the table that it belongs to.
func TestFingerprintOfAPartition(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.execMany(partitioned)
	s.options.Tables = []string{"outbox_1", "public.none"}
	s.exec("create publication tidemark for table outbox with (publish = 'insert')")
	c := s.connect()
	before := s.fingerprint(c)
	if before.Tables["public.outbox_1"] == "" || before.Tables["public.none"] != "" {
		t.Errorf("the fingerprint is %+v", before)
	}
	s.exec("alter publication tidemark drop table outbox")
	s.exec("alter publication tidemark add table outbox")
	if after := s.fingerprint(c); after.Tables["public.outbox_1"] == before.Tables["public.outbox_1"] || after.Publication != before.Publication {
		t.Errorf("%+v before, %+v after", before, after)
	}
}

// The catalogue's upkeep leaves the fingerprint as it is. The server is the test's own: the slots of others would keep rows
// from being frozen.
func TestFingerprintOutlivesUpkeepAndNotTheServer(t *testing.T) {
	t.Parallel()
	s, pg := ownSource(t, nil)
	if err := CreatePublication(t.Context(), s.options); err != nil {
		t.Fatal(err)
	}
	s.execMany("create schema s; create table s.other (i int); alter publication tidemark add tables in schema s")
	s.options.Tables = append(s.options.Tables, "s.other")
	c := s.connect()
	want := s.fingerprint(c)
	for _, sql := range []string{"vacuum freeze", "vacuum full", "vacuum (freeze, full)", "reindex database app"} {
		s.exec(sql)
		if got := s.fingerprint(c); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v before, %+v after", sql, want, got)
		}
	}
	if n := s.query("select count(*) from pg_class where relname in ('pg_publication', 'pg_publication_rel', 'pg_publication_namespace')" +
		" and relfrozenxid::text::bigint > (select max(xmin::text::bigint) from (select xmin from pg_publication union all select xmin from pg_publication_rel union all select xmin from pg_publication_namespace) x)"); n != "3" {
		t.Errorf("%s of the three tables are frozen", n)
	}

	lookout := c.Lookout()
	defer lookout.Close()
	if got, err := lookout.Fingerprint(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if err := pg.Restart(t.Context(), devstack.StopFast); err != nil {
		t.Fatal(err)
	}
	if _, err := lookout.Fingerprint(t.Context()); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("a server that was started again: %v", err)
	}
}
