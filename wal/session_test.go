package wal

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/decode"
)

// hostile gives the database settings that would change or end everything, if they held for us.
func (s *source) hostile() {
	s.t.Helper()
	settings := map[string]string{
		"client_encoding": "latin1", "standard_conforming_strings": "off", "datestyle": "SQL, DMY", "timezone": "Asia/Tokyo",
		"intervalstyle": "sql_standard", "bytea_output": "escape", "extra_float_digits": "-5",
		"statement_timeout": "1s", "lock_timeout": "1s", "idle_in_transaction_session_timeout": "1s", "transaction_timeout": "1s",
	}
	if s.version() < transactionTimeoutSince {
		delete(settings, "transaction_timeout")
	}
	for name, value := range settings {
		s.exec(fmt.Sprintf("alter database %s set %s = %s", pgx.Identifier{s.db.Config().Database}.Sanitize(), name, quoteLiteral(value)))
	}
}

func (s *source) version() int {
	s.t.Helper()
	var v int
	if err := s.db.QueryRow(s.t.Context(), "select current_setting('server_version_num')::int").Scan(&v); err != nil {
		s.t.Fatal(err)
	}
	return v
}

// types are columns with a value each, and the text that must arrive where that is ours to say.
func types() []struct{ name, value, text string } {
	return []struct{ name, value, text string }{
		{"smallint", "-32768", "-32768"},
		{"integer", "2147483647", "2147483647"},
		{"bigint", "-9223372036854775808", "-9223372036854775808"},
		{"numeric", "12345678901234567890.1234567890", "12345678901234567890.1234567890"},
		{"numeric", "'NaN'", "NaN"},
		{"real", "0.1", "0.1"},
		{"double precision", "0.1::float8 + 0.2::float8", "0.30000000000000004"},
		{"double precision", "'-Infinity'", "-Infinity"},
		{"boolean", "true", "t"},
		{"text", "U&'€uro \\65E5\\672C \\+01F600'", "€uro 日本 😀"},
		{"text", "''", ""},
		{"text", "'a' || chr(10) || chr(9) || chr(92) || 'n'", "a\n\t\\n"},
		{"varchar(20)", "'ä'", "ä"},
		{"char(5)", "'ab'", "ab   "},
		{`"char"`, "'x'", "x"},
		{"name", "'n'", "n"},
		{"bytea", `'\x00ff0a5c'`, `\x00ff0a5c`},
		{"bytea", `''`, `\x`},
		{"date", "'2026-11-22'", "2026-11-22"},
		{"time", "'10:00:00.5'", "10:00:00.5"},
		{"timetz", "'10:00:00+09'", "10:00:00+09"},
		{"timestamp", "'2026-11-22 10:00:00.123456'", "2026-11-22 10:00:00.123456"},
		{"timestamptz", "'2026-11-22 10:00:00.123456+09'", "2026-11-22 01:00:00.123456+00"},
		{"timestamptz", "'infinity'", "infinity"},
		{"timestamptz", "'0044-03-15 12:00:00+00 BC'", "0044-03-15 12:00:00+00 BC"},
		{"interval", "'1 day -02:03:04'", "1 day -02:03:04"},
		{"uuid", "'0a8b6a52-6f3e-4c1e-9a41-b1f9a2f3c001'", "0a8b6a52-6f3e-4c1e-9a41-b1f9a2f3c001"},
		{"json", `'{"b": 1,  "a": [1,2]}'`, `{"b": 1,  "a": [1,2]}`},
		{"jsonb", `'{"b": 1,  "a": [12345678901234567890.123, "ä"]}'`, `{"a": [12345678901234567890.123, "ä"], "b": 1}`},
		{"inet", "'10.0.0.1/8'", "10.0.0.1/8"},
		{"macaddr", "'08:00:2b:01:02:03'", "08:00:2b:01:02:03"},
		{"point", "'(0.1,2)'", "(0.1,2)"},
		{"int4range", "'[1,5]'", "[1,6)"},
		{"tstzrange", "'[2026-11-22 10:00+00,)'", `["2026-11-22 10:00:00+00",)`},
		{"integer[]", "'{1,NULL,3}'", "{1,NULL,3}"},
		{"text[]", `array['a,b', 'c"d', null, 'NULL', '']`, `{"a,b","c\"d",NULL,"NULL",""}`},
		{"timestamptz[]", "'{2026-11-22 10:00:00+09}'", `{"2026-11-22 01:00:00+00"}`},
		{"pair", "row(1, 'x y')", `(1,"x y")`},
		{"mood", "'so so'", "so so"},
		{"positive", "7", "7"},
		{"bit(3)", "'101'", "101"},
		{"tsvector", "'a fat cat'", "'a' 'cat' 'fat'"},
		{"pg_lsn", "'0/16B3748'", "0/16B3748"},
		{"money", "1234.5", "$1,234.50"},
		{"regclass", "'outbox'", "outbox"},
		{"oid", "4294967295", "4294967295"},
		{"text", "null", "null"},
		{"bytea", "null", "null"},
	}
}

// The rows that were there before the slot and those of the stream are made by the same output functions under the same
// settings, so that it makes no difference by which way a row comes.
func TestTextIsTheSameByBothWaysWhateverTheSettings(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.exec(`create type pair as (n int, t text)`)
	s.exec(`create type mood as enum ('good', 'so so')`)
	s.exec(`create domain positive as int check (value > 0)`)
	table := &strings.Builder{}
	insert := &strings.Builder{}
	var want []string
	table.WriteString("create table every_type (id serial")
	insert.WriteString("insert into every_type values (default")
	for i, c := range types() {
		fmt.Fprintf(table, ", c%d %s", i, c.name)
		fmt.Fprintf(insert, ", %s", c.value)
		want = append(want, c.text)
	}
	s.exec(table.String() + ")")
	s.options.Tables = []string{"public.every_type"}
	s.hostile()
	s.exec(insert.String() + ")")

	c, start, snapshot := s.slotWithSnapshot()
	var existing []string
	err := snapshot.Rows(t.Context(), "public.every_type", "id", func(columns []Column) error {
		streamed, err := c.Columns(t.Context(), "public.every_type")
		if err != nil || !reflect.DeepEqual(columns, streamed) {
			t.Errorf("the columns of the rows are %v, those of the table %v, %v", columns, streamed, err)
		}
		return nil
	}, func(values [][]byte) error {
		for _, v := range values {
			existing = append(existing, textOf(v))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	snapshot.Close()
	st := s.startAt(c, start)
	s.exec(insert.String() + ")")
	var streamed []string
	for streamed == nil {
		if m := st.next(); m[0] == 'I' {
			streamed = tuple(t, m)
		}
	}
	for i, c := range types() {
		if got := existing[i+1]; got != want[i] {
			t.Errorf("%s %s: the row that was there is %q, want %q", c.name, c.value, got, want[i])
		}
		if got := streamed[i+1]; got != want[i] {
			t.Errorf("%s %s: the row in the stream is %q, want %q", c.name, c.value, got, want[i])
		}
	}
}

// slotWithSnapshot makes publication, slot and the slot's snapshot.
func (s *source) slotWithSnapshot() (*Conn, pglogrepl.LSN, *Snapshot) {
	s.t.Helper()
	if err := CreatePublication(s.t.Context(), s.options); err != nil {
		s.t.Fatal(err)
	}
	c := s.connect()
	start, name, err := c.CreateSlot(s.t.Context(), false)
	if err != nil {
		s.t.Fatal(err)
	}
	snapshot, err := c.OpenSnapshot(s.t.Context(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(snapshot.Close)
	return c, start, snapshot
}

func textOf(v []byte) string {
	if v == nil {
		return "null"
	}
	return string(v)
}

// tuple returns the texts of an Insert, "null" for a null.
func tuple(t *testing.T, m []byte) []string {
	t.Helper()
	at := 1 + 4 + 1 // 'I', Int32 OID, 'N'
	n := int(binary.BigEndian.Uint16(m[at:]))
	at += 2
	values := make([]string, 0, n)
	for range n {
		switch kind := m[at]; kind {
		case 'n':
			values = append(values, "null")
			at++
		case 't':
			size := int(binary.BigEndian.Uint32(m[at+1:]))
			values = append(values, string(m[at+5:at+5+size]))
			at += 5 + size
		default:
			t.Fatalf("a column of kind %q", kind)
		}
	}
	return values
}

// By both ways a row becomes the same event.
func TestEventIsTheSameByBothWays(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.exec(`drop table outbox`)
	s.exec(`create table outbox (id uuid, aggregatetype text, aggregateid text, type text, payload bytea, headers jsonb, at timestamptz)`)
	const insert = `insert into outbox values ('0a8b6a52-6f3e-4c1e-9a41-b1f9a2f3c001', 'order', 'k', 'placed', '\x00ff', '{"a": "ä", "n": null}', '2026-11-22 10:00:00.123456+09')`
	s.hostile()
	s.exec(insert)
	c, start, snapshot := s.slotWithSnapshot()
	decoder, err := decode.New(decode.Options{Source: "s", Tables: []decode.Table{{
		Name:    "public.outbox",
		Columns: decode.Columns{ID: "id", Key: "aggregateid", Type: "type", Topic: "aggregatetype", Payload: "payload", Headers: "headers", Timestamp: "at"},
		Topic:   "outbox.event.{aggregatetype}", Headers: []decode.HeaderTemplate{{Name: "at", Value: "{at}"}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	var existing, streamed decode.Event
	var rows *decode.Existing
	err = snapshot.Rows(t.Context(), "public.outbox", "id", func(columns []Column) (err error) {
		of := make([]decode.Column, len(columns))
		for i, c := range columns {
			of[i] = decode.Column(c)
		}
		rows, err = decoder.Existing("public.outbox", of)
		return err
	}, func(values [][]byte) error {
		rows.Event(values, decode.Position{}, time.Time{}, &existing)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	snapshot.Close()
	st := s.startAt(c, start)
	s.exec(insert)
	for kind := decode.Skip; kind != decode.Row; {
		if kind, err = decoder.Decode(st.next(), &streamed); err != nil {
			t.Fatal(err)
		}
	}
	if existing.Poison != nil || string(existing.Value) != "\x00\xff" || existing.Topic != "outbox.event.order" {
		t.Errorf("the row that was there is %+v", existing)
	}
	for _, ev := range []*decode.Event{&existing, &streamed} { // what differs by nature
		ev.Position, ev.CommitTime = decode.Position{}, time.Time{}
		for i, h := range ev.Headers {
			if h.Key == "tidemark-position" {
				ev.Headers[i].Value = nil
			}
		}
	}
	if !reflect.DeepEqual(existing, streamed) {
		t.Errorf("the row that was there is\n%+v\nand in the stream\n%+v", existing, streamed)
	}
}

// A role that works for people has time limits. None of them may end what takes as long as Kafka does.
func TestTimeLimitsOfTheRoleDoNotHold(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.exec("insert into outbox (payload) select 'before' from generate_series(1, 2)")
	s.hostile()
	c, start, snapshot := s.slotWithSnapshot()
	pause := func() { // longer than the limits
		timer := time.NewTimer(1500 * time.Millisecond)
		defer timer.Stop()
		<-timer.C
	}
	n := 0
	err := snapshot.Rows(t.Context(), "public.outbox", "id", func([]Column) error { return nil }, func([][]byte) error {
		if n++; n == 1 {
			pause()
		}
		return nil
	})
	if err != nil || n != 2 {
		t.Fatalf("%d rows, %v, want 2", n, err)
	}
	if err := snapshot.Rows(t.Context(), "public.outbox", "id", func([]Column) error { return nil }, func([][]byte) error { return nil }); err != nil {
		t.Fatalf("a second table: %v", err)
	}
	snapshot.Close()

	// The connection that made the slot has idled all the while. Then a transaction comes that is larger than all the
	// buffers on the way, and takes long.
	st := s.startAt(c, start)
	s.exec("insert into outbox (payload) select repeat('x', 100000) from generate_series(1, 300)")
	for range 10 {
		st.next()
	}
	done := make(chan struct{})
	go func() { pause(); close(done) }() // ends by itself
	if err := st.Hold(t.Context(), done); err != nil {
		t.Fatal(err)
	}
	if kinds, _ := st.transaction(); len(kinds) != 300+3-10 { // Begin, Relation, Commit
		t.Errorf("%d messages", len(kinds))
	}
}
