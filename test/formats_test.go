package test_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/test/cloudevent"
	"github.com/tidemark/tidemark/test/trial"
)

// mixed are a row of each kind, as the text of SQL: key, type, payload, and everything else in the order of mixedTable.
// The payload's literal is for jsonb; where the column is a bytea, it is that text's bytes.
func mixed() []struct{ name, key, payload, rest string } {
	const all = `'{"baggage": "a=b;c=%20d", "ce_region": "eu", "tenant": "é"}', clock_timestamp(), '` + mixedTraceparent + `',
		'` + mixedTracestate + `', '11111111-1111-4111-8111-111111111111', 'cause', 'answers', '2030-01-01 00:00:00+01'`
	const none = "null, null, null, null, null, null, null, null"
	return []struct{ name, key, payload, rest string }{
		{"full", "schlüssel-鍵-🔑", `{"text": "naïve \"日本語\" 🚀", "n": 12345678901234567890.10}`, all},
		{"null fields", "k", `null`, none},
		{"null key", "", `[1, 2]`, none},
		{"tombstone", "k", "", all},
		{"poison", "p", `{}`, none}, // has no type
	}
}

const (
	mixedTraceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	mixedTracestate  = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
)

// mixedTable is a table of rows in one format.
type mixedTable struct {
	name, format, payload string // payload is the column's type
	topic                 string
}

func (m *mixedTable) config() string {
	return fmt.Sprintf(`
  - table: public.%s
    format: %s
    topic: %s
    columns: {key: key, type: type, topic: "", headers: headers, timestamp: at, traceparent: tp, tracestate: ts,
      correlation_id: correlation, causation_id: causation, reply_to: answer, expires_at: until}
`, m.name, m.format, m.topic)
}

// formatsTrial is a tidemark with a table of each format.
type formatsTrial struct {
	*arena
	tables []mixedTable
	file   string
	kafka  *kadm.Client
}

func newFormatsTrial(t *testing.T, policy string) *formatsTrial {
	t.Helper()
	a := newArenaOn(t, stacktest.Database(t, postgresOptions()), stacktest.Kafka(t))
	f := &formatsTrial{arena: a, file: filepath.Join(t.TempDir(), "config.yaml"), kafka: a.admin()}
	text := "outbox:\n"
	for i, format := range []string{"plain", "cloudevents", "cloudevents-structured", "cloudevents", "cloudevents-structured"} {
		m := mixedTable{name: fmt.Sprintf("mixed%d", i), format: format, payload: "jsonb", topic: fmt.Sprintf("%s-%d", a.Types[0], i)}
		if i > 2 {
			m.payload = "bytea"
		}
		f.tables = append(f.tables, m)
		text += m.config()
		f.exec(`create table ` + m.name + ` (id uuid primary key default gen_random_uuid(), name text, key text, type text, payload ` + m.payload + `,
			headers jsonb, at timestamptz, tp text, ts text, correlation uuid, causation text, answer text, until timestamptz)`)
	}
	if err := os.WriteFile(f.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Config = f.Config.With("TIDEMARK_DELIVERY_ON_POISON", policy)
	return f
}

// insert commits the mixed rows into each table, each row in a transaction of its own.
func (f *formatsTrial) insert(names ...string) {
	f.t.Helper()
	for i := range f.tables {
		for _, row := range mixed() {
			if len(names) > 0 && !slices.Contains(names, row.name) {
				continue
			}
			payload := "nullif($3, '')::jsonb"
			if f.tables[i].payload == "bytea" {
				payload = "convert_to(nullif($3, ''), 'UTF8')"
			}
			f.exec(`insert into `+f.tables[i].name+` (name, key, type, payload, headers, at, tp, ts, correlation, causation, answer, until)
				values ($1, nullif($2, ''), case when $1 <> 'poison' then 'com.example.made' end, `+payload+`, `+row.rest+`)`,
				row.name, row.key, row.payload)
		}
	}
}

// id returns the id of the oldest row of that name.
func (f *formatsTrial) id(table *mixedTable, name string) (id string) {
	f.t.Helper()
	if err := f.Query(f.t.Context(), []any{&id}, "select id::text from "+table.name+" where name = $1 order by ctid limit 1", name); err != nil {
		f.t.Fatal(err)
	}
	return id
}

// command runs a command with the configuration and returns what it has printed.
func (f *formatsTrial) command(args ...string) string {
	f.t.Helper()
	return f.toItsEnd(0, append(args, "--config", f.file)...)
}

// records reads a topic to its end, without markers.
func (f *formatsTrial) records(topic string) (records []*kgo.Record) {
	f.t.Helper()
	var ends kadm.ListedOffsets
	f.await("the ends of "+topic+" are known", time.Minute, func() bool { // the client remembers for a while that there was none
		var err error
		ends, err = f.kafka.ListEndOffsets(f.t.Context(), topic)
		return err == nil && ends.Error() == nil
	})
	from := map[string]map[int32]kgo.Offset{topic: {}}
	left := map[int32]int64{}
	for partition, end := range ends[topic] {
		if end.Offset > 0 {
			from[topic][partition], left[partition] = kgo.NewOffset().AtStart(), end.Offset
		}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(f.Brokers...), kgo.ConsumePartitions(from), kgo.KeepControlRecords())
	if err != nil {
		f.t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			f.t.Fatalf("%s: %v, %v are left", topic, err, left)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				records = append(records, r)
			}
			if r.Offset >= left[r.Partition]-1 {
				delete(left, r.Partition)
			}
		})
	}
	return records
}

func headersOf(r *kgo.Record) map[string]string {
	out := map[string]string{}
	for _, h := range r.Headers {
		out[h.Key] = string(h.Value)
	}
	return out
}

// mixedRow is what a row of a mixedTable says, null and empty texts alike.
type mixedRow struct{ Name, Key, Payload, At, Database string }

// rows returns the rows of a table by their ids.
func (f *formatsTrial) rows(m *mixedTable) (rows map[string]mixedRow) {
	f.t.Helper()
	payload := map[string]string{"jsonb": "payload::text", "bytea": "convert_from(payload, 'UTF8')"}[m.payload]
	var text string
	err := f.Query(f.t.Context(), []any{&text}, `select json_object_agg(id, json_build_object('Name', name, 'Key', key, 'Payload', `+payload+`,
		'At', to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'Database', current_database()))::text from `+m.name)
	if err == nil {
		err = json.Unmarshal([]byte(text), &rows)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return rows
}

// mustRead holds the records of a topic against the table, with the official SDK as the reader, and returns how many there
// are of each id. Every row that is no poison has to be there.
func (f *formatsTrial) mustRead(m *mixedTable) map[string]int {
	f.t.Helper()
	count, rows := map[string]int{}, f.rows(m)
	for _, r := range f.records(m.topic) {
		headers := headersOf(r)
		id := headers["ce_id"]
		if m.format == "plain" {
			id = headers["id"]
		}
		count[id]++
		row, ok := rows[id]
		if !ok {
			f.t.Fatalf("%s: no row has the id of %q", m.topic, headers)
		}
		name, key, payload := row.Name, row.Key, row.Payload
		if string(r.Key) != key || (r.Value == nil) != (name == "tombstone") || headers["tidemark-position"] == "" || !strings.Contains(headers["tidemark-source"], "/") {
			f.t.Errorf("%s, %s: key %q, null value %t, headers %q", m.format, name, r.Key, r.Value == nil, headers)
		}
		if full := name == "full" || name == "tombstone"; full &&
			(headers["traceparent"] != mixedTraceparent || headers["tracestate"] != mixedTracestate || headers["baggage"] != "a=b;c=%20d" || headers["tenant"] != "é") {
			f.t.Errorf("%s, %s: the trace context is %q", m.format, name, headers)
		}
		if m.format == "plain" {
			if (headers["eventType"] != "com.example.made") != (name == "poison") || (name == "full" && (string(r.Value) != payload || headers["expires-at"] != "2029-12-31T23:00:00.000000Z" ||
				headers["correlation-id"] != "11111111-1111-4111-8111-111111111111" || headers["causation-id"] != "cause" || headers["reply-to"] != "answers")) {
				f.t.Errorf("%s: value %q, headers %q", name, r.Value, headers)
			}
			continue
		}
		f.mustBeCloudEvent(m, r, row)
	}
	return count
}

func (f *formatsTrial) mustBeCloudEvent(m *mixedTable, r *kgo.Record, row mixedRow) {
	f.t.Helper()
	name, key, payload := row.Name, row.Key, row.Payload
	e, mode, err := cloudevent.Read(r.Value, r.Headers)
	if err != nil {
		f.t.Errorf("%s, %s: the SDK does not read it: %v; %q", m.format, name, err, headersOf(r))
		return
	}
	headers := headersOf(r)
	want := map[string]any{"sequence": headers["tidemark-position"]}
	if key != "" {
		want["partitionkey"] = key
	}
	if name == "full" || name == "tombstone" {
		for k, v := range map[string]string{
			"correlationid": "11111111-1111-4111-8111-111111111111", "causationid": "cause", "replyto": "answers",
			"expirytime": "2029-12-31T23:00:00.000000Z", "traceparent": mixedTraceparent, "tracestate": mixedTracestate, "region": "eu",
		} {
			want[k] = v
		}
		if got := e.Time().UTC().Format("2006-01-02T15:04:05.000000Z"); got != row.At {
			f.t.Errorf("%s, %s: the time is %s, want %s", m.format, name, got, row.At)
		}
	}
	got := e.Extensions()
	if _, err := time.Parse(time.RFC3339Nano, fmt.Sprint(got["recordedtime"])); err != nil {
		f.t.Errorf("%s, %s: %v", m.format, name, err)
	}
	delete(got, "recordedtime")
	media := map[string]string{"jsonb": "application/json", "bytea": "application/octet-stream"}[m.payload]
	structured := m.format == "cloudevents-structured"
	if name == "tombstone" {
		media, structured = "", false
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || e.Type() != "com.example.made" || e.Subject() != key || e.Source() != "/"+row.Database+"/public."+m.name ||
		e.DataContentType() != media || string(e.Data()) != payload || (mode == binding.EncodingStructured) != structured || e.ID() != headers["ce_id"] {
		f.t.Errorf("%s, %s, mode %s: extensions %q, want %q; %s", m.format, name, mode, got, want, e)
	}
}

// mustHave counts the records of each table's topic.
func (f *formatsTrial) mustHave(what string, each int) {
	f.t.Helper()
	for i := range f.tables {
		counts := f.mustRead(&f.tables[i])
		doubled := 0
		for _, n := range counts {
			doubled += n - 1
		}
		want := each
		if f.tables[i].format == "plain" {
			want = len(counts) // where a missing type is none of its matters
		}
		if len(counts) != want || doubled > 0 {
			f.t.Errorf("%s: %s has %d events, want %d; %d records are double", what, f.tables[i].format, len(counts), want, doubled)
		}
	}
}

// TestFormatsFromRowToReader publishes rows of every kind in every format through the built program to a real Kafka, and
// reads each record with the official SDK of CloudEvents: after the first start, from the log, after a SIGKILL between
// Kafka and the checkpoint, published again and repaired. What cannot be an event is a dead letter; verify and receipt find
// each.
func TestFormatsFromRowToReader(t *testing.T) {
	t.Parallel()
	f := newFormatsTrial(t, "dead_letter")
	good := []string{"full", "null fields", "null key", "tombstone"}
	f.insert(good...)
	f.command("run", "--once")
	f.mustHave("the first start", len(good))

	f.insert()
	f.Config.Args = []string{"run", "--config", f.file}
	f.Config = f.Config.With("TIDEMARK_CHECKPOINT_INTERVAL", "1h") // nothing that is published now is in it
	r := f.startReady()
	f.await("everything arrives", time.Minute, func() bool {
		n := 0
		ends, err := f.kafka.ListEndOffsets(t.Context(), append([]string{f.Config.DeadLetter}, f.topics()...)...)
		if err == nil {
			ends.Each(func(o kadm.ListedOffset) { n += int(o.Offset) })
		}
		return n >= 5*2*len(good)+5
	})
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	f.Config = f.Config.With("TIDEMARK_CHECKPOINT_INTERVAL", "100ms")
	f.command("run", "--once")
	f.mustHave("after SIGKILL", 2*len(good))
	letters := f.records(f.Config.DeadLetter)
	for _, letter := range letters {
		h := headersOf(letter)
		if h["ce_id"] == "" || !strings.Contains(h["tidemark-error"], "type") || string(letter.Value) != "{}" || h["tidemark-position"] == "" {
			t.Errorf("a dead letter: value %q, headers %q", letter.Value, h)
		}
	}
	if len(letters) != 4 {
		t.Errorf("%d dead letters, want 4", len(letters))
	}

	v := f.verify(0, "--config", f.file)
	if v.Counts["published"] != 5*2*len(good)+1 || v.Counts["dead_lettered"] != 4 {
		t.Errorf("verify: %v", v.Counts)
	}
	again := []string{"replay"}
	for i := range f.tables {
		m := &f.tables[i]
		for _, name := range []string{"full", "tombstone"} {
			again = append(again, "--id", f.id(m, name))
			if m.payload == "bytea" {
				continue
			}
			if out := f.command("receipt", "--json", f.id(m, name)); !strings.Contains(out, `"published"`) || !strings.Contains(out, m.topic) {
				t.Errorf("%s: the receipt of %s: %s", m.format, name, out)
			}
		}
	}
	f.command(again...)
	for i := range f.tables {
		m := &f.tables[i]
		if n := f.mustRead(m); n[f.id(m, "full")] != 2 || n[f.id(m, "tombstone")] != 2 {
			t.Errorf("%s: replayed, %v", m.format, n)
		}
	}

	if _, err := f.kafka.DeleteTopics(t.Context(), f.topics()...); err != nil {
		t.Fatal(err)
	}
	f.await("the topics are gone", time.Minute, func() bool {
		listed, err := f.kafka.ListTopics(t.Context())
		return err == nil && !slices.ContainsFunc(f.topics(), listed.Has)
	})
	if v := f.verify(0, "--repair", "--config", f.file); v.Counts["repaired"] != 5*2*len(good)+1 {
		t.Errorf("verify --repair: %v", v.Counts)
	}
	f.mustHave("repaired", 2*len(good))
}

func (f *formatsTrial) topics() (topics []string) {
	for i := range f.tables {
		topics = append(topics, f.tables[i].topic)
	}
	return topics
}

// TestFormatsAreParked parks an event that has no type, and a whole one and a tombstone behind it, which are what they would
// have been when they are released.
func TestFormatsAreParked(t *testing.T) {
	t.Parallel()
	f := newFormatsTrial(t, "park")
	f.Config.Args = []string{"run", "--config", f.file}
	r := f.startReady()
	f.insert("poison")
	f.insert("full", "tombstone")
	for i := range f.tables {
		for _, name := range []string{"full", "tombstone"} {
			f.exec("insert into "+f.tables[i].name+" select gen_random_uuid(), name, 'p', type, payload, headers, at, tp, ts, correlation, causation, answer, until from "+
				f.tables[i].name+" where name = $1", name)
		}
	}
	f.await("what has to wait is parked", time.Minute, func() bool { return f.parked() == 3*4 })
	for i := range f.tables {
		if m := &f.tables[i]; m.format != "plain" {
			f.command("parked", "discard", f.id(m, "poison"), "--yes")
		}
	}
	f.await("what was parked is published", time.Minute, func() bool {
		if _, err := trial.Command(t.Context(), f.Config, "parked", "release", "--all", "--config", f.file); err != nil {
			t.Fatal(err)
		}
		return f.parked() == 0
	})
	f.mustHave("released", 4)
	f.stop(r)
}
