package cli

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack/stacktest"
)

// documented is a section of docs/custom.md.
type documented struct {
	name, table, entry, row string
	record                  struct {
		Topic     string
		Key       *string
		Value     string
		Timestamp time.Time
		Headers   map[string]*string
	}
}

// documentedTables reads the sections that have a table, its configuration, a row and a record.
func documentedTables(t *testing.T) []documented {
	t.Helper()
	text, err := os.ReadFile("../docs/custom.md")
	if err != nil {
		t.Fatal(err)
	}
	fences := regexp.MustCompile("(?s)```(sql|yaml|json)\n(.*?)```")
	var found []documented
	for _, section := range strings.Split(string(text), "\n## ")[1:] {
		blocks := fences.FindAllStringSubmatch(section, -1)
		if len(blocks) == 0 {
			continue
		}
		name, _, _ := strings.Cut(section, "\n")
		if len(blocks) != 4 || blocks[0][1] != "sql" || blocks[1][1] != "yaml" || blocks[2][1] != "sql" || blocks[3][1] != "json" {
			t.Fatalf("section %s: want a table, its entry, a row and a record", name)
		}
		d := documented{name: name, table: blocks[0][2], entry: strings.TrimPrefix(blocks[1][2], "outbox:\n"), row: blocks[2][2]}
		if err := json.Unmarshal([]byte(blocks[3][2]), &d.record); err != nil {
			t.Fatalf("section %s: %v", name, err)
		}
		found = append(found, d)
	}
	return found
}

// Tables of different shapes in one slot, as the document configures them.
func TestTablesOfOtherFrameworks(t *testing.T) {
	dsn, brokers := stacktest.Database(t), stacktest.FakeKafka(t)
	db, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background()) //nolint:errcheck // the test is over
	exec := func(sql string) {
		t.Helper()
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	tables := documentedTables(t)
	if len(tables) < 6 {
		t.Fatalf("the document has %d tables", len(tables))
	}
	entries := "outbox:\n"
	topics := map[string]bool{}
	for _, d := range tables {
		exec(d.table)
		entries += d.entry
		topics[d.record.Topic] = true
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte(entries), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{
		"TIDEMARK_SOURCE_DSN=" + dsn, "TIDEMARK_SOURCE_SLOT=" + db.Config().Database, "TIDEMARK_SOURCE_FAILOVER=false",
		"TIDEMARK_KAFKA_BROKERS=" + strings.Join(brokers, ","), "TIDEMARK_HTTP_LISTEN=", "TIDEMARK_CHECKPOINT_PATH=" + filepath.Join(dir, "checkpoint"),
	}
	run := func(args ...string) {
		t.Helper()
		if _, stderr, status := tidemark(t, append(args, "--config", file), environ...); status != 0 {
			t.Fatalf("%q: exit status %d: %s", args, status, stderr)
		}
	}
	run("init")
	exec("begin") // one transaction, whose order is that of the document
	for _, d := range tables {
		exec(d.row)
	}
	exec("commit")
	run("run", "--once")
	run("verify")

	names := make([]string, 0, len(topics))
	for name := range topics {
		names = append(names, name)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(names...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	records := map[string]*kgo.Record{}
	for len(records) < len(tables) && ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { records[r.Topic] = r })
	}
	last := ""
	for _, d := range tables {
		r := records[d.record.Topic]
		if r == nil {
			t.Errorf("%s: no record", d.name)
			continue
		}
		d.mustBe(t, r)
		if position := headerOf(r, "tidemark-position"); position == nil || *position <= last {
			t.Errorf("%s: position %v after %s", d.name, position, last)
		} else {
			last = *position
		}
	}
}

func headerOf(r *kgo.Record, name string) *string {
	for _, h := range r.Headers {
		if h.Key == name && h.Value != nil {
			value := string(h.Value)
			return &value
		}
	}
	return nil
}

func same(a, b *string) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }

// mustBe holds a record against the documented one.
func (d *documented) mustBe(t *testing.T, r *kgo.Record) {
	t.Helper()
	var key *string
	if r.Key != nil {
		text := string(r.Key)
		key = &text
	}
	if !same(key, d.record.Key) || string(r.Value) != d.record.Value {
		t.Errorf("%s: key %q, value %s", d.name, r.Key, r.Value)
	}
	if !d.record.Timestamp.IsZero() && !r.Timestamp.Equal(d.record.Timestamp) {
		t.Errorf("%s: timestamp %s", d.name, r.Timestamp)
	}
	for name, want := range d.record.Headers {
		if got := headerOf(r, name); !same(got, want) {
			t.Errorf("%s: header %s is %v", d.name, name, got)
		}
	}
	for _, h := range r.Headers {
		if _, named := d.record.Headers[h.Key]; !named && !strings.HasPrefix(h.Key, "tidemark-") {
			t.Errorf("%s: header %s is not in the document", d.name, h.Key)
		}
	}
}
