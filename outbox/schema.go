package outbox

import (
	_ "embed"
	"strings"
)

//go:embed schema.sql
var schemaSQL string

//go:embed functions.sql
var functionsSQL string

// tableInSQL is the name that the embedded statements use.
const tableInSQL = "public.outbox"

// Schema returns the statement that creates the outbox table under that name, as tidemark init does. The name is written
// as in SQL: qualified where it has to be, and quoted where it has to be.
//
// A table of one's own may have more columns, such as a tenant, headers or a time; see [Columns].
func Schema(table string) string {
	return strings.ReplaceAll(statements(schemaSQL)[0], tableInSQL, table)
}

// Functions returns the statements that create what writes an event from SQL, for applications in other languages, as
// tidemark init --functions does: for table public.outbox
//
//	select public.outbox_publish('order', '42', 'OrderPlaced', '{"total": 9}')
//
// which validates as [Write] does, and returns the event's id. They replace older ones of the same names, and fit a table
// with the columns of [Schema]. The name is written as in SQL; the functions' names are made of it.
func Functions(table string) []string {
	all := statements(functionsSQL)
	for i, s := range all {
		for _, suffix := range []string{"_uuidv7", "_publish"} {
			s = strings.ReplaceAll(s, tableInSQL+suffix, withSuffix(table, suffix))
		}
		all[i] = strings.ReplaceAll(s, tableInSQL, table)
	}
	return all
}

// withSuffix makes the name of something that belongs to a table.
func withSuffix(table, suffix string) string {
	if bare, quoted := strings.CutSuffix(table, `"`); quoted {
		return bare + suffix + `"`
	}
	return table + suffix
}

// statements cuts a file into its statements, at blank lines, without the comments before each.
func statements(file string) []string {
	var all []string
	for part := range strings.SplitSeq(file, "\n\n") {
		for strings.HasPrefix(part, "--") {
			_, part, _ = strings.Cut(part, "\n")
		}
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}
