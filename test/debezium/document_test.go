package debezium_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

//nolint:gochecknoglobals // a flag of the test binary
var update = flag.Bool("update", false, "write the table into docs/debezium.md")

const (
	document = "../../docs/debezium.md"
	begin    = "<!-- The table of test/debezium, written by go test ./test/debezium -run Document -update -->\n"
	end      = "<!-- the end of the table -->\n"
)

// TestDocumentHasTheTable keeps docs/debezium.md at what TestRecordsAreThoseOfTheEventRouter shows.
func TestDocumentHasTheTable(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	old, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the table: %q … %q", document, begin, end)
	}
	table := markdown(cases())
	if old == table {
		return
	}
	if !*update {
		t.Fatalf("the table in %s is not that of the test; go test ./test/debezium -run Document -update writes it:\n%s", document, table)
	}
	if err := os.WriteFile(document, []byte(before+begin+table+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func markdown(cases []parity) string {
	var b strings.Builder
	b.WriteString("| option | tried with | record |\n|---|---|---|\n")
	for i := range cases {
		c := &cases[i]
		result := "equal"
		if len(c.differs) > 0 {
			var why []string
			for _, part := range slices.Sorted(maps.Keys(c.differs)) {
				why = append(why, c.differs[part])
			}
			result = "**different**: " + strings.Join(why, "; ")
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", c.option, c.with, strings.ReplaceAll(result, "|", "\\|"))
	}
	return b.String()
}

// everyOptionIsInTheTable holds the table against the options that Debezium's Event Router says it has.
func everyOptionIsInTheTable(t *testing.T, names []string) {
	t.Helper()
	if len(names) < 15 {
		t.Fatalf("the Event Router has %d options, %v", len(names), names)
	}
	table := markdown(cases())
	for _, name := range names {
		short := name[strings.LastIndex(name, ".")+1:]
		if !strings.Contains(table, name) && !strings.Contains(table, "`."+short+"`") && notOfTheRecord[name] == "" {
			t.Errorf("%s is not in the table", name)
		}
	}
}

// notOfTheRecord are options that say nothing about a record.
//
//nolint:gochecknoglobals // a table
var notOfTheRecord = map[string]string{
	"tracing.operation.name":          "names the span that Debezium opens",
	"tracing.with.context.field.only": "says when Debezium opens a span",
}
