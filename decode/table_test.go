package decode

import (
	"testing"
)

func TestNewNamesTheTableAndTheKeyOfEverythingThatIsWrong(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*Table)
		want   []string
	}{
		{"no schema", func(t *Table) { t.Name = "outbox" }, []string{`"outbox"`, "table:", "schema.name"}},
		{"no id", func(t *Table) { t.Columns.ID = "" }, []string{"columns.id:"}},
		{"no payload", func(t *Table) { t.Columns.Payload = "" }, []string{"columns.payload:"}},
		{"no topic", func(t *Table) { t.Columns.Topic = "" }, []string{"topic:"}},
		{"topic template", func(t *Table) { t.Topic = "a{" }, []string{"topic:", `"a{"`}},
		{"key template", func(t *Table) { t.Key = "{}" }, []string{"key:", `"{}"`}},
		{"header template", func(t *Table) { t.Headers = []HeaderTemplate{{"ok", "x"}, {"h", "}"}} }, []string{`headers[1] "h":`, `"}"`}},
		{"header without a name", func(t *Table) { t.Headers = []HeaderTemplate{{"", "x"}} }, []string{"headers[0]"}},
		{"header of tidemark", func(t *Table) { t.Headers = []HeaderTemplate{{"tidemark-position", "x"}} }, []string{"headers[0]", "tidemark's own"}},
		{"mark of a repair", func(t *Table) { t.Headers = []HeaderTemplate{{"tidemark-replay", "x"}} }, []string{"headers[0]", "tidemark's own"}},
		{"on_null", func(t *Table) { t.OnNull = 3 }, []string{"on_null:"}},
		{"several", func(t *Table) { t.Key, t.Topic, t.Columns.ID = "{", "}", "" }, []string{"key:", "topic:", "columns.id:"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			table := plainTable()
			test.change(&table)
			_, err := New(Options{Tables: []Table{table}})
			wantError(t, err, append(test.want, table.Name)...)
		})
	}
	_, err := New(Options{Tables: []Table{plainTable(), plainTable()}})
	wantError(t, err, "public.outbox", "twice")
}

func TestAMissingColumnIsNamedByItsMeanings(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*Table)
		want   []string
	}{
		{
			"column and template", func(t *Table) { t.Columns.Topic, t.Topic = "aggregatetype", "x.{aggregatetype}" },
			[]string{`column "aggregatetype" (columns.topic / topic template) is not in table public.outbox; it has: id, topic, key, payload`},
		},
		{"case matters", func(t *Table) { t.Columns.ID = "ID" }, []string{`column "ID" (columns.id)`}},
		{"key", func(t *Table) { t.Columns.Key = "k" }, []string{`column "k" (columns.key)`}},
		{"key template", func(t *Table) { t.Key = "{id}{k}" }, []string{`column "k" (key template)`}},
		{"header", func(t *Table) { t.Headers = []HeaderTemplate{{"h", "{k}"}} }, []string{`column "k" (header h)`}},
		{"type", func(t *Table) { t.Columns.Type = "k" }, []string{`(columns.type)`}},
		{"payload", func(t *Table) { t.Columns.Payload = "k" }, []string{`(columns.payload)`}},
		{"headers", func(t *Table) { t.Columns.Headers = "k" }, []string{`(columns.headers)`}},
		{"timestamp", func(t *Table) { t.Columns.Timestamp = "k" }, []string{`(columns.timestamp)`}},
		{"partition", func(t *Table) { t.Columns.Partition = "k" }, []string{`(columns.partition)`}},
		{"traceparent", func(t *Table) { t.Columns.TraceParent = "k" }, []string{`(columns.traceparent)`}},
		{"tracestate", func(t *Table) { t.Columns.TraceState = "k" }, []string{`(columns.tracestate)`}},
		{
			"two", func(t *Table) { t.Columns.ID, t.Columns.Key = "a", "b" },
			[]string{`column "a" (columns.id), column "b" (columns.key) are not in table public.outbox`},
		},
		{
			"timestamp of a type that is none", func(t *Table) { t.Columns.Timestamp = "id" },
			[]string{`"id" (columns.timestamp)`, "OID 25", "int8"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			table := plainTable()
			test.change(&table)
			d := newDecoder(t, table)
			_, err := d.Decode(relationMessage(1, "public", "outbox", plainColumns()...), &Event{})
			wantError(t, err, test.want...)
			_, err = d.Existing("public.outbox", plainColumns())
			wantError(t, err, test.want...)
		})
	}
}

func TestAColumnOfHeadersCannotBeBytea(t *testing.T) {
	t.Parallel()
	table := plainTable()
	table.Columns.Headers = "h"
	_, err := newDecoder(t, table).Existing("public.outbox", append(plainColumns(), Column{"h", oidBytea}))
	wantError(t, err, `"h" (columns.headers)`, "bytea")
}
