package docs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// standIn is a program that readers have. It returns its exit status.
type standIn func(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int

func standIns() map[string]standIn {
	return map[string]standIn{
		"psql":                      psql,
		"kafka-console-consumer":    consoleConsumer,
		"kafka-console-consumer.sh": consoleConsumer,
		"kafka-configs":             configs,
	}
}

// psql does as Postgres's psql, as far as the documents use it: psql [-XqAt] [-v NAME=VALUE] [-d DATABASE|DSN] [-c SQL|-f FILE]
// [DSN], or SQL on standard input. It stops at the first error, as with ON_ERROR_STOP.
func psql(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if err := (&client{out: stdout}).run(ctx, args, stdin); err != nil {
		_, _ = fmt.Fprintln(stderr, "psql:", err)
		return 1
	}
	return 0
}

// client is what the arguments of psql say.
type client struct {
	out             io.Writer
	dsn             string
	commands        []string // one of -c each
	files           []string
	unaligned, bare bool
	quiet           bool
}

func (c *client) run(ctx context.Context, args []string, stdin io.Reader) error {
	if err := c.parse(args); err != nil {
		return err
	}
	config, err := pgconn.ParseConfig(c.dsn)
	if err != nil {
		return err
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // everything has been said by then
	statements := c.commands
	for _, name := range c.files {
		text, err := os.ReadFile(name) //nolint:gosec // the document names it
		if err != nil {
			return err
		}
		statements = append(statements, split(string(text))...)
	}
	if statements == nil {
		text, err := io.ReadAll(stdin)
		if err != nil {
			return err
		}
		statements = split(string(text))
	}
	for _, sql := range statements {
		results := conn.Exec(ctx, sql)
		for results.NextResult() {
			c.print(results.ResultReader())
		}
		if err := results.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) parse(args []string) error {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if letters, ok := strings.CutPrefix(arg, "-"); ok && strings.Trim(letters, "XqAtw") == "" {
			c.quiet = c.quiet || strings.Contains(letters, "q")
			c.unaligned = c.unaligned || strings.Contains(letters, "A")
			c.bare = c.bare || strings.Contains(letters, "t")
			continue
		}
		if !strings.HasPrefix(arg, "-") {
			c.dsn = arg
			continue
		}
		if len(args) == 0 {
			return fmt.Errorf("%s is %w, or lacks its value", arg, errNotKnown)
		}
		value := args[0]
		args = args[1:]
		switch arg {
		case "-c":
			c.commands = append(c.commands, value)
		case "-f":
			c.files = append(c.files, value)
		case "-d":
			c.dsn = value
		case "-v":
		default:
			return fmt.Errorf("%s is %w", arg, errNotKnown)
		}
	}
	if c.dsn != "" && !strings.Contains(c.dsn, "=") && !strings.Contains(c.dsn, "://") {
		c.dsn = "dbname=" + c.dsn
	}
	return nil
}

// print prints a result, a table as psql does.
func (c *client) print(r *pgconn.ResultReader) {
	fields := r.FieldDescriptions()
	var names []string
	for _, f := range fields {
		names = append(names, f.Name)
	}
	rows := [][]string{names}
	for r.NextRow() {
		var row []string
		for _, v := range r.Values() {
			row = append(row, string(v))
		}
		rows = append(rows, row)
	}
	tag, err := r.Close()
	switch {
	case err != nil: // which Exec says, too
	case fields == nil && !c.quiet:
		_, _ = fmt.Fprintln(c.out, tag)
	case fields == nil:
	case c.unaligned:
		c.lines(rows, "|", nil)
	default:
		c.lines(rows, " | ", fields)
	}
}

// lines prints rows, of which the first has the names; in columns, if there are fields.
func (c *client) lines(rows [][]string, between string, fields []pgconn.FieldDescription) {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, v := range row {
			width[i] = max(width[i], utf8.RuneCountInString(v))
		}
	}
	for n, row := range rows {
		if n == 0 && c.bare {
			continue
		}
		cells := make([]string, len(row))
		for i, v := range row {
			switch {
			case fields == nil:
				cells[i] = v
			case n > 0 && isNumber(fields[i].DataTypeOID):
				cells[i] = fmt.Sprintf("%*s", width[i], v)
			default:
				cells[i] = fmt.Sprintf("%-*s", width[i], v)
			}
		}
		line := strings.Join(cells, between)
		if fields != nil {
			line = " " + line
		}
		_, _ = fmt.Fprintln(c.out, strings.TrimRight(line, " "))
		if n == 0 && fields != nil {
			var rule []string
			for _, w := range width {
				rule = append(rule, strings.Repeat("-", w+2))
			}
			_, _ = fmt.Fprintln(c.out, strings.Join(rule, "+"))
		}
	}
	if !c.bare {
		_, _ = fmt.Fprintf(c.out, "(%d row%s)\n", len(rows)-1, map[bool]string{true: "", false: "s"}[len(rows) == 2])
	}
}

func isNumber(oid uint32) bool {
	switch oid {
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID, pgtype.OIDOID:
		return true
	default:
		return false
	}
}

// split cuts SQL into statements, as psql does: at each semicolon outside of quotes and comments.
func split(sql string) []string {
	var statements []string
	var current bytes.Buffer
	for sql != "" {
		n := 1
		switch {
		case strings.HasPrefix(sql, "--"):
			n = upTo(sql, "\n", 2)
		case sql[0] == '\'', sql[0] == '"':
			n = upTo(sql, sql[:1], 1)
		case sql[0] == '$':
			if tag := sql[:upTo(sql, "$", 1)]; !strings.ContainsAny(tag, " \n;,)'") {
				n = upTo(sql, tag, len(tag))
			}
		case sql[0] == ';':
			statements = append(statements, current.String())
			current.Reset()
			sql = sql[1:]
			continue
		}
		current.WriteString(sql[:n])
		sql = sql[n:]
	}
	if rest := current.String(); strings.TrimSpace(rest) != "" {
		statements = append(statements, rest)
	}
	return statements
}

// upTo returns the length of text up to the end of the next stop behind from, or all of it.
func upTo(text, stop string, from int) int {
	if i := strings.Index(text[from:], stop); i >= 0 {
		return from + i + len(stop)
	}
	return len(text)
}

// errNotKnown is for an option of a stand-in that no document has needed yet.
var errNotKnown = errors.New("not known to this stand-in")
