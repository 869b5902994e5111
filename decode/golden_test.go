package decode

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// goldenOptions are the tables of testdata/*.hex.
func goldenOptions() Options {
	return Options{
		Source: "7325476235476523874/app/tidemark",
		Tables: []Table{{
			Name: "public.outbox",
			Columns: Columns{
				ID: "id", Key: "aggregateid", Type: "type", Topic: "aggregatetype", Payload: "payload",
				Headers: "headers", TraceParent: "traceparent", Timestamp: "created_at",
			},
			Topic:   "outbox.event.{aggregatetype}",
			Headers: []HeaderTemplate{{"created", "{created_at}"}, {"route", "{aggregatetype}/{aggregateid}"}},
		}, {
			Name: "Sales.Outbox",
			Columns: Columns{
				ID: "Id", Key: "key", Type: "kind", Topic: "topic", Payload: "payload",
				Timestamp: "at_ms", Partition: "part",
			},
			OnNull: Empty,
		}},
		Messages: []LogicalMessage{{
			Prefix: "app", NonTransactional: PublishLone,
			Table: Table{
				Columns: Columns{ID: "id", Key: "aggregateid", Type: "type", Topic: "aggregatetype", Payload: "payload", Headers: "headers", Timestamp: "at"},
				Topic:   "outbox.event.{aggregatetype}",
			},
		}},
		MessagesFrom: 1,
	}
}

// TestGolden decodes what real servers sent. The events beside each capture were read by a human when they were
// written; UPDATE_GOLDEN=1 writes them anew.
func TestGolden(t *testing.T) {
	t.Parallel()
	captures, err := filepath.Glob("testdata/*.hex")
	if err != nil || len(captures) == 0 {
		t.Fatalf("no captures: %v", err)
	}
	for _, name := range captures {
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			mustBeGolden(t, renderCapture(t, name, goldenOptions()), strings.TrimSuffix(name, ".hex")+".events")
		})
	}
}

// captured is a part of a capture: what one call of the slot returned, which is one session's messages.
type captured struct {
	name     string
	messages [][]byte
}

// readCapture reads a capture: a message a line in hex; "== name" begins a session, # is a comment.
func readCapture(tb testing.TB, name string) []captured {
	tb.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	var sessions []captured
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "" || line[0] == '#':
		case strings.HasPrefix(line, "== "):
			sessions = append(sessions, captured{name: line[3:]})
		default:
			msg, err := hex.DecodeString(line)
			if err != nil || len(sessions) == 0 {
				tb.Fatalf("%s: line %.40q: %v", name, line, err)
			}
			s := &sessions[len(sessions)-1]
			s.messages = append(s.messages, msg)
		}
	}
	if err := lines.Err(); err != nil {
		tb.Fatal(err)
	}
	return sessions
}

func renderCapture(t *testing.T, name string, o Options) string {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, s := range readCapture(t, name) {
		d.Reset()
		fmt.Fprintf(&out, "== %s\n", s.name)
		for _, msg := range s.messages {
			var ev Event
			kind, err := d.Decode(msg, &ev)
			tx := d.Transaction()
			switch {
			case err != nil:
				fmt.Fprintf(&out, "%c error: %v\n", msg[0], err)
			case kind == Begin:
				fmt.Fprintf(&out, "begin %d commit %s time %s\n", tx.XID, tx.Commit, tx.Time.Format(time.RFC3339Nano))
			case kind == Commit:
				fmt.Fprintf(&out, "commit %d commit %s end %s\n", tx.XID, tx.Commit, tx.End)
			case kind == Row:
				out.WriteString(renderEvent(&ev))
			case kind == Lone:
				fmt.Fprintf(&out, "lone commit %s end %s\n%s", tx.Commit, tx.End, renderEvent(&ev))
			default:
				fmt.Fprintf(&out, "%c\n", msg[0])
			}
		}
	}
	return out.String()
}

func renderEvent(ev *Event) string {
	text := func(b []byte) string {
		switch {
		case b == nil:
			return "null"
		case len(b) > 1000:
			return fmt.Sprintf("%.60q… (%d bytes)", b, len(b))
		}
		return fmt.Sprintf("%q", b)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "row %s %s id %q\n  topic %q partition %d time %s\n  key %s\n  value %s\n", ev.Position, ev.Table, ev.ID,
		ev.Topic, ev.Partition, ev.Timestamp.Format(time.RFC3339Nano), text(ev.Key), text(ev.Value))
	for _, h := range ev.Headers {
		fmt.Fprintf(&out, "  header %s = %s\n", h.Key, text(h.Value))
	}
	if ev.Poison != nil {
		fmt.Fprintf(&out, "  poison: %v\n", ev.Poison)
	}
	return out.String()
}

// captureSetup makes what the capture's statements need, in an empty database.
func captureSetup() []string {
	return []string{
		`CREATE TABLE outbox (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload jsonb,
			headers json, traceparent text, created_at timestamptz)`,
		`CREATE SCHEMA "Sales"`,
		`CREATE TYPE "Sales".kind AS ENUM ('made', 'sold')`,
		`CREATE TABLE "Sales"."Outbox" ("Id" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, topic text, key bytea,
			kind "Sales".kind, payload bytea, part int, at_ms bigint, note text)`,
		`CREATE TABLE other (id int PRIMARY KEY)`,
		`CREATE PUBLICATION tidemark FOR TABLE outbox, "Sales"."Outbox" WITH (publish = 'insert')`,
		`CREATE PUBLICATION everything FOR ALL TABLES`,
		`SELECT pg_replication_origin_create('elsewhere')`,
		`SELECT pg_create_logical_replication_slot('tidemark', 'pgoutput')`,
	}
}

// captureSession is a list of statements (a statement with BEGIN and COMMIT is several) and the publication that
// their messages are read through, all in one session.
type captureSession struct {
	name, publication string
	statements        []string
}

func captureSessions() []captureSession {
	const columns = `outbox (id, aggregatetype, aggregateid, type, payload, headers, traceparent, created_at)`
	const id = `a0000000-0000-4000-8000-0000000000`
	return []captureSession{
		{"one row", "tidemark", []string{
			`INSERT INTO ` + columns + ` VALUES ('` + id + `01', 'order', 'order-1', 'OrderCreated', '{"total": 12.50, "n": 1}',
				'{"tenant": "a\u00e9\n", "n": 12345678901234567890.123, "none": null, "list": [1, {"x": "}"}]}',
				'00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', '2026-11-22 11:30:00.12+01:30')`,
		}},
		{"a multi-row insert with nulls and empty texts, the relation announced once for two transactions", "tidemark", []string{
			`INSERT INTO ` + columns + ` VALUES
				('` + id + `02', 'order', 'order-1', NULL, NULL, NULL, NULL, NULL),
				('` + id + `03', 'order', NULL, '', '""', '{}', '', '2026-11-22 10:00:00+00'),
				('` + id + `04', NULL, '', 'X', 'null', 'null', NULL, '1999-12-31 23:59:59.999999+00')`,
			`INSERT INTO ` + columns + ` VALUES ('` + id + `05', 'Größe', 'schlüssel-鍵-🔑', 'Ελλάδα', '{"text": "naïve 日本語 🚀"}',
				'{"🔑": "\ud83d\udd11"}', NULL, 'infinity')`,
		}},
		{"two tables in a transaction, bytea, an enum, a savepoint that is rolled back", "tidemark", []string{
			`BEGIN; INSERT INTO ` + columns + ` VALUES ('` + id + `06', 'order', 'o', 'A', '1', NULL, NULL, NULL);
				SAVEPOINT s; INSERT INTO ` + columns + ` VALUES ('` + id + `07', 'order', 'o', 'B', '2', NULL, NULL, NULL);
				ROLLBACK TO s;
				INSERT INTO "Sales"."Outbox" (topic, key, kind, payload, part, at_ms, note) VALUES
					('sales', '\x00ff10', 'sold', '\xdeadbeef', 3, 1795341600123, 'all there'),
					('sales', '', 'made', '', NULL, NULL, ''), ('sales', NULL, NULL, NULL, 0, 0, NULL),
					('no such topic', 'text', 'made', 'text', -1, -1, repeat('long ', 1000));
				INSERT INTO ` + columns + ` VALUES ('` + id + `08', 'order', 'o', 'C', '3', '[1]', NULL, '0044-03-15 12:00:00 BC'); COMMIT`,
		}},
		{"a transaction that is rolled back is not sent", "tidemark", []string{
			`BEGIN; INSERT INTO ` + columns + ` VALUES ('` + id + `09', 'order', 'o', 'A', '1', NULL, NULL, NULL); ROLLBACK`,
		}},
		{"a column comes and a column goes while it runs", "tidemark", []string{
			`INSERT INTO ` + columns + ` VALUES ('` + id + `0a', 'order', 'o', 'A', '1', NULL, NULL, NULL)`,
			`ALTER TABLE outbox ADD COLUMN shard int`,
			`INSERT INTO ` + columns + ` VALUES ('` + id + `0b', 'order', 'o', 'A', '2', NULL, NULL, NULL)`,
			`ALTER TABLE outbox DROP COLUMN aggregatetype`,
			`INSERT INTO outbox (id, type) VALUES ('` + id + `0c', 'A')`,
			`ALTER TABLE outbox ADD COLUMN aggregatetype text DEFAULT 'order'`,
			`INSERT INTO outbox (id, type) VALUES ('` + id + `0d', 'A')`,
		}},
		{"messages inside and outside a transaction", "tidemark", []string{
			`BEGIN; SELECT pg_logical_emit_message(true, 'app', 'inside');
				INSERT INTO outbox (id, type) VALUES ('` + id + `0e', 'A'); COMMIT`,
			`SELECT pg_logical_emit_message(false, 'app', 'outside')`,
		}},
		{"messages that carry objects, one without a transaction just before the commit record of another", "tidemark", []string{
			`BEGIN; SELECT pg_logical_emit_message(true, 'app', '{"id": "m1", "aggregatetype": "order", "aggregateid": "o-1", "type": "Placed",
				"payload": {"n": 12345678901234567890.10, "s":  "a\u00e9"}, "headers": {"tenant": "t"}, "at": "2026-11-22T10:00:00.5+01:00", "more": [1]}');
				SELECT pg_logical_emit_message(true, 'another', 'takes an index, and is no event');
				INSERT INTO outbox (id, type) VALUES ('` + id + `10', 'A');
				SELECT pg_logical_emit_message(true, 'app', '{"aggregatetype": "order", "payload": "text \"\ud83d\udd11\"", "at": 1795341600123}');
				COMMIT`,
			`BEGIN; SELECT pg_logical_emit_message(true, 'app', '{"id": 7, "aggregatetype": "order", "payload": 1}');
				SELECT pg_logical_emit_message(false, 'app', '{"aggregatetype": "order", "payload": null}'); COMMIT`,
			`BEGIN; SELECT pg_logical_emit_message(true, 'app', '{"aggregatetype": "order"}');
				SELECT pg_logical_emit_message(false, 'app', '{"aggregatetype": "order", "payload": "rolled back"}'); ROLLBACK`,
		}},
		{"rows that another server wrote first", "tidemark", []string{
			`SELECT pg_replication_origin_session_setup('elsewhere')`,
			`BEGIN; SELECT pg_replication_origin_xact_setup('0/DEAD', '2026-11-22 10:00:00+00');
				INSERT INTO outbox (id, type) VALUES ('` + id + `0f', 'A'); COMMIT`,
			`SELECT pg_replication_origin_session_reset()`,
		}},
		{"a publication of everything", "everything", []string{
			`INSERT INTO other VALUES (1)`,
			`UPDATE outbox SET type = 'B' WHERE id = '` + id + `0f'`,
			`DELETE FROM outbox WHERE id = '` + id + `0f'`,
			`TRUNCATE outbox`,
		}},
	}
}

// TestCapture is how testdata/*.hex came to be: with DECODE_CAPTURE_DSN it runs the statements above in an empty
// database of that server (wal_level = logical) and writes what pgoutput makes of them to DECODE_CAPTURE_FILE.
func TestCapture(t *testing.T) {
	dsn, file := os.Getenv("DECODE_CAPTURE_DSN"), os.Getenv("DECODE_CAPTURE_FILE")
	if dsn == "" || file == "" {
		t.Skip("no server to capture from: DECODE_CAPTURE_DSN and DECODE_CAPTURE_FILE are not set")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	// Many statements in one string, and the output formats that wal asks for.
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	maps.Copy(config.RuntimeParams, map[string]string{"datestyle": "ISO", "timezone": "UTC", "bytea_output": "hex"})
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the test is over
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	for _, sql := range captureSetup() {
		exec(sql)
	}

	var out strings.Builder
	version := conn.PgConn().ParameterStatus("server_version")
	fmt.Fprintf(&out, "# What pgoutput, proto_version 1, of Postgres %s sends for the statements in the comments.\n", version)
	fmt.Fprintf(&out, "# One message a line; == begins a session. Written by TestCapture.\n")
	for _, s := range captureSessions() {
		fmt.Fprintf(&out, "\n== %s\n", s.name)
		for _, sql := range s.statements {
			exec(sql)
			fmt.Fprintf(&out, "# %s\n", strings.Join(strings.Fields(sql), " "))
		}
		rows, err := conn.Query(ctx, `SELECT encode(data, 'hex') FROM pg_logical_slot_get_binary_changes('tidemark', NULL, NULL,
			'proto_version', '1', 'publication_names', '`+s.publication+`', 'messages', 'true')`)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			fmt.Fprintln(&out, line)
		}
	}
	exec(`SELECT pg_drop_replication_slot('tidemark')`)
	if err := os.WriteFile(file, []byte(out.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}
