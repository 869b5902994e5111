package test_test

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/test/trial"
)

//go:embed eventuate/TramJudge.java
var tramSource string

// tramProgram is Eventuate's own software: Tram's producer and consumer, and the classes by which its CDC service makes a
// record of a row.
func tramProgram() devstack.JavaProgram {
	return devstack.JavaProgram{
		Class: "TramJudge", Source: tramSource,
		Libraries: []string{
			"io.eventuate.tram.core:eventuate-tram-consumer-kafka:0.36.0.RELEASE",
			"io.eventuate.tram.core:eventuate-tram-producer-jdbc:0.36.0.RELEASE",
			"io.eventuate.tram.core:eventuate-tram-events:0.36.0.RELEASE",
			"org.postgresql:postgresql:42.7.4",
			"com.google.guava:guava:33.3.1-jre",
		},
		Alone: []string{ // the service itself has no part in it
			"io.eventuate.cdc:eventuate-tram-cdc-connector:0.16.0.RELEASE",
			"io.eventuate.cdc:eventuate-local-java-cdc-connector-common:0.16.0.RELEASE",
			"io.eventuate.common:eventuate-common-eventuate-local:0.18.0.RELEASE",
		},
	}
}

// tramJudge is a running TramJudge.
type tramJudge struct {
	t     *testing.T
	in    io.Writer
	lines *bufio.Scanner
}

// tramLine is a line of its output.
type tramLine struct {
	Done, Failed           string
	Sent, Got              string // channel
	ID, Payload            string
	Headers                map[string]string
	Aggregate, Event, Text string // of a domain event

	Converted  string // where the row is
	Published  bool
	Topic, Key string
	Value      []byte
}

func startTramJudge(t *testing.T, dsn string, brokers []string) *tramJudge {
	t.Helper()
	program := tramProgram()
	stacktest.Require(t, "tram", program.Have())
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	// It ends when its input does, which the clean-up sees to.
	cmd, err := program.Command(context.WithoutCancel(t.Context()), func(line string) { t.Log(line) },
		"jdbc:postgresql://"+u.Host+u.Path, u.User.Username(), password, strings.Join(brokers, ","))
	stacktest.Require(t, "tram", err)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		stuck := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		defer stuck.Stop()
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("TramJudge: %v\n%s", err, end(complaints.String(), 4000))
		}
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	return &tramJudge{t: t, in: in, lines: lines}
}

// do has it obey one command, and returns what it answers.
func (j *tramJudge) do(format string, args ...any) []tramLine {
	j.t.Helper()
	if _, err := fmt.Fprintf(j.in, format+"\n", args...); err != nil {
		j.t.Fatal(err)
	}
	var answers []tramLine
	for j.lines.Scan() {
		var line tramLine
		if err := json.Unmarshal(j.lines.Bytes(), &line); err != nil {
			j.t.Fatalf("TramJudge says %q: %v", j.lines.Text(), err)
		}
		if line.Done != "" {
			return answers
		}
		answers = append(answers, line)
	}
	j.t.Fatalf("TramJudge has ended at "+format+": %v", append(args, j.lines.Err())...)
	return nil
}

// eventuateSQL is Tram's own tables (eventuate-common, postgres/): with ids of the application, the same with JSON columns,
// and two with ids of the database, between which an application with outbox.tables=2 chooses.
const eventuateSQL = `
	create schema eventuate; create schema shop; create schema numbered;
	create table eventuate.message (id varchar(1000) primary key, destination text not null, headers text not null,
		payload text not null, published smallint default 0, message_partition smallint, creation_time bigint);
	create table shop.message (id varchar(1000) primary key, destination text not null, headers json not null,
		payload json not null, published smallint default 0, message_partition smallint, creation_time bigint);
	create table numbered.message (id varchar(1000), dbid bigserial primary key, destination text not null, headers text not null,
		payload text not null, published smallint default 0, message_partition smallint, creation_time bigint); -- for its columns
	create table numbered.message0 (like numbered.message including all); -- one sequence for all of them
	create table numbered.message1 (like numbered.message including all);
	alter sequence numbered.message_dbid_seq restart 1790000000000`

const eventuateConfig = `
outbox:
  - {table: eventuate.message, preset: eventuate}
  - {table: shop.message, preset: eventuate}
  - {table: numbered.message0, preset: eventuate, outbox_id: 7, columns: {id: dbid}}
  - {table: numbered.message1, preset: eventuate, outbox_id: 8, columns: {id: dbid}}
kafka:
  create_topics: {partitions: 3}
`

// strangeRows is what Tram's producer does not write, and a row may hold all the same: headers, payload.
func strangeRows() [][2]string {
	return [][2]string{
		{`{"ID":"s1","PARTITION_ID":"k"}`, "p"},
		{` { "ID" : "s2" , "x" : "a\/b\u00e4\u001f\u0041\ud83d\ude00\"\\\b\f\n\r\t" }  `, "\x01\x1f\x7f \"\\/\t"},
		{`{"ID":"s3","null":null,"n":17,"yes":true}`, "numbers and words"},
		{`{"null":null,"ID":"s4"}`, ""},
		{`{"\u0049D":"s5","PARTITION_\u0049D":"ä/\u00e4"}`, "escaped names"},
		{`{"ID":"s6","PARTITION_ID":""}`, "an empty partition id"},
		{`{"ID":"s7","":"","ä":"` + strings.Repeat("ü", 5000) + `"}`, strings.Repeat("{\"größe\": 1}\n", 5000)},
	}
}

// TestEventuateTramReadsItsRecords has Tram's own producer write, tidemark publish, and Tram's own consumer read; and holds
// every record against what the classes of Eventuate's CDC service make of the same row.
func TestEventuateTramReadsItsRecords(t *testing.T) {
	t.Parallel()
	dsn, brokers := stacktest.Database(t, postgresOptions()), stacktest.Kafka(t)
	b := newEventuateBench(t, dsn, brokers, eventuateConfig)
	judge := startTramJudge(t, dsn, brokers)
	r := b.start()
	sent := judge.do("write %s", b.prefix)
	for _, row := range strangeRows() {
		b.exec(`insert into eventuate.message (id, destination, headers, payload) values (substr(md5($1), 1, 9), $2, $1, $3)`, row[0], b.prefix+"strange", row[1])
	}
	// Tram makes ids this way, and nobody is to publish the row (its ViewSupportIdGenerator).
	b.exec(`insert into eventuate.message (id, destination, headers, payload, published) values ('anchor', 'CDC-IGNORED', '{"ID":"anchor"}', '""', 1)`)

	// What the CDC service would have made of them.
	type made struct {
		table string
		tramLine
	}
	want := map[string]made{} // by id
	topics := map[string]int{}
	for table, arguments := range map[string]string{"eventuate.message": "0 -", "shop.message": "0 -", "numbered.message0": "7 0", "numbered.message1": "7 1"} {
		for _, line := range judge.do("convert %s %s", table, arguments) {
			switch {
			case line.Failed != "":
				t.Errorf("the CDC service fails with row %s of %s: %s", line.Converted, table, line.Failed)
			case line.Published:
				want[line.ID] = made{table, line}
				topics[line.Topic]++
			}
		}
	}
	if len(topics) != 5 || len(want) != 3*60+20+len(strangeRows()) {
		t.Fatalf("%d rows for the topics %v", len(want), topics)
	}

	records := b.records(topics)
	b.stop(r)
	seen := map[string]bool{}
	position := map[string]string{}
	for _, record := range records {
		id, pos := header(record, "id"), header(record, "tidemark-position")
		w, ok := want[id]
		if !ok || seen[id] {
			t.Fatalf("a record of id %q: %s", id, record.Value)
		}
		seen[id] = true
		if record.Topic != w.Topic || string(record.Key) != w.Key || record.Partition != javaPartition(w.Key, 3) {
			t.Errorf("record %s is in %s/%d with key %q, want %s, %q", id, record.Topic, record.Partition, record.Key, w.Topic, w.Key)
		}
		// Where the service has to add the id, its headers go through a hash table first; all else is the same to the byte.
		numbered := strings.HasPrefix(w.table, "numbered.")
		if same := bytes.Equal(record.Value, w.Value) || numbered && sameValue(record.Value, w.Value); !same {
			t.Errorf("record %s of %s:\n%s\nthe CDC service writes\n%s", id, w.table, record.Value, w.Value)
		}
		lane := fmt.Sprint(record.Topic, record.Partition)
		if pos <= position[lane] {
			t.Errorf("record %s is behind %s", pos, position[lane])
		}
		position[lane] = pos
	}

	// All of it a second time: Tram's consumers drop it by the message's id, and do not mind one header more.
	b.command(0, "replay", "--all")
	got := judge.do("read %d %s %s", len(want), b.prefix, strings.Join(slices.Sorted(maps.Keys(topics)), " "))
	b.mustHaveRead(sent, got)
	read := map[string]bool{}
	for _, line := range got {
		if line.Failed != "" {
			t.Error(line.Failed)
			continue
		}
		if w, ok := want[line.ID]; !ok || read[line.ID] || line.Got != w.Topic {
			t.Errorf("Tram's consumer got %+v", line)
		}
		read[line.ID] = true
	}
	if len(read) != len(want) {
		t.Errorf("Tram's consumers got %d messages, want %d", len(read), len(want))
	}
}

// TestEventuateHandOver does what docs/eventuate.md says, with another plugin's slot in the place of the CDC service's: what
// that has published is not published again, and what it has not is not left out. Then what the other commands make of it.
func TestEventuateHandOver(t *testing.T) {
	t.Parallel()
	b := newEventuateBench(t, stacktest.Database(t, postgresOptions()), brokers(t), `
outbox:
  - {table: eventuate.message, preset: eventuate}
  - {table: numbered.message0, preset: eventuate, outbox_id: 7, columns: {id: dbid}}
delivery: {on_poison: park}
`)
	orders, numbered := b.prefix+"orders", b.prefix+"numbered"
	old := b.config.Slot + "_cdc"
	b.exec(`create publication tidemark for table eventuate.message, numbered.message0 with (publish = 'insert')`)
	b.exec("select pg_create_logical_replication_slot($1, 'test_decoding')", old)
	t.Cleanup(func() { _, _ = b.db.Exec(context.Background(), "select pg_drop_replication_slot($1)", old) })
	insert := func(from, to, published int) {
		b.exec(`insert into eventuate.message (id, destination, headers, payload, creation_time, published)
			select 'm' || n, $1, '{"ID":"m' || n || '","PARTITION_ID":"k' || n % 3 || '"}', '"' || n || '"', 1700000000000, $4 from generate_series($2::int, $3::int) n`,
			orders, from, to, published)
	}
	insert(0, 9, 0)
	for n := range 10 {
		b.produce(orders, fmt.Sprint("k", n%3), fmt.Sprintf(`{"payload":"\"%d\"","headers":{"ID":"m%d","PARTITION_ID":"k%d"}}`, n, n, n%3))
	}
	b.exec("select pg_replication_slot_advance($1, pg_current_wal_flush_lsn())", old) // and here it was stopped
	insert(10, 19, 0)
	insert(20, 21, 1) // which nobody is to publish
	b.exec(`insert into numbered.message0 (id, destination, headers, payload, creation_time) select '', $1, '{"PARTITION_ID":"k"}', 'p', 1700000000000 from generate_series(1, 3)`, numbered)
	b.exec(`insert into eventuate.message (id, destination, headers, payload, creation_time) values ('bad', $1, '{"ID":{}}', 'p', 1700000000000)`, orders)
	b.exec("select pg_copy_logical_replication_slot($1, $2, false, 'pgoutput')", old, b.config.Slot)

	r := b.start()
	numberedID := fmt.Sprintf("%016x-%016x", int64(1790000000001), 7)
	var seen []string
	for _, record := range b.records(map[string]int{orders: 20, numbered: 3}) {
		if id := header(record, "id"); id != "" {
			seen = append(seen, id)
		}
	}
	slices.Sort(seen)
	if want := "0000" + numberedID[4:16]; len(seen) != 13 || !strings.HasPrefix(seen[1], want) || slices.Contains(seen, "m9") || !slices.Contains(seen, "m10") {
		t.Errorf("tidemark has published %v", seen)
	}

	var verified verified
	if err := json.Unmarshal([]byte(b.command(0, "verify", "--json")), &verified); err != nil {
		t.Fatal(err)
	}
	if verified.Rows != 24 || verified.Counts["published"] != 23 || verified.Counts["parked"] != 1 {
		t.Errorf("verify: %+v", verified)
	}
	for id, state := range map[string]string{"m3": "published", "m13": "published", numberedID: "published", "bad": "parked", "m20": "ignored"} {
		status := 1
		if state == "published" {
			status = 0
		}
		var receipt struct{ State string }
		if err := json.Unmarshal([]byte(b.command(status, "receipt", "--json", "--timeout", "1m", id)), &receipt); err != nil || receipt.State != state {
			t.Errorf("receipt %s: %+v, %v, want %s", id, receipt, err, state)
		}
	}
	b.command(0, "replay", "--id", numberedID)
	b.command(0, "replay", "--id", numberedID[:32]+"8") // of another outbox: there is no such row
	records := b.records(map[string]int{numbered: 4})
	if again := records[3]; header(again, "id") != numberedID || header(again, "tidemark-replay") != "replay" {
		t.Errorf("the replay is %+v", again)
	}

	var report pruned
	if err := json.Unmarshal([]byte(b.command(0, "prune", "--json", "--older-than", "1h")), &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Tables) != 2 || report.Tables[0].Deleted != 20 || report.Tables[0].Kept["parked"] != 1 || report.Tables[1].Deleted != 3 {
		t.Errorf("prune: %+v", report)
	}
	b.stop(r)
}

// TestEventuatePollingHandOver: rows that the polling CDC service has marked are left to it.
func TestEventuatePollingHandOver(t *testing.T) {
	t.Parallel()
	b := newEventuateBench(t, stacktest.Database(t, postgresOptions()), stacktest.FakeKafka(t), "outbox: [{table: eventuate.message, preset: eventuate}]")
	b.exec(`insert into eventuate.message (id, destination, headers, payload, published)
		select 'm' || n, 'orders', '{"ID":"m' || n || '"}', '', case when n < 5 then 1 else 0 end from generate_series(0, 9) n`)
	b.command(0, "run", "--once")
	for _, record := range b.records(map[string]int{"orders": 5}) {
		if id := header(record, "id"); id < "m5" {
			t.Errorf("%s was published again", id)
		}
	}

	b.exec("drop schema eventuate cascade")
	r, err := trial.Run(t.Context(), trial.Config{Binary: b.config.Binary, Args: []string{"init"}, DSN: b.config.DSN, Slot: b.config.Slot, Brokers: b.brokers, Dir: b.config.Dir}, "")
	if err != nil {
		t.Fatal(err)
	}
	if status, err := r.Wait(2 * time.Minute); err != nil || status != 1 || !strings.Contains(r.Log(), "it is Eventuate Tram's, and the application's migrations create it") {
		t.Errorf("init without Tram's table: exit status %d, %v: %s", status, err, r.Log())
	}
}

// javaPartition is where Java's producer sends a key.
func javaPartition(key string, partitions int) int32 {
	return int32(kgo.StickyKeyPartitioner(nil).ForTopic("").Partition(&kgo.Record{Key: []byte(key)}, partitions)) //nolint:gosec // of three
}

// sameValue compares two JSON texts.
func sameValue(a, b []byte) bool {
	var x, y map[string]any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && fmt.Sprint(x) == fmt.Sprint(y)
}

// eventuateBench is a database with Tram's tables, a Kafka, and a tidemark between.
type eventuateBench struct {
	t       *testing.T
	db      *pgx.Conn
	config  trial.Config
	brokers []string
	prefix  string // of topics, in a Kafka that is shared
}

func newEventuateBench(t *testing.T, dsn string, brokers []string, config string) *eventuateBench {
	t.Helper()
	db, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	name := db.Config().Database
	dir := t.TempDir()
	b := &eventuateBench{
		t: t, db: db, brokers: brokers, prefix: fmt.Sprintf("%s-%08x-", name, rand.Uint32()), //nolint:gosec // brokers are shared; nothing depends on it
		config: trial.Config{Binary: binary(t), DSN: dsn, Slot: name, Brokers: brokers, Checkpoint: filepath.Join(dir, "checkpoint"), Dir: dir},
	}
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	b.exec(eventuateSQL)
	return b
}

func (b *eventuateBench) exec(sql string, args ...any) {
	b.t.Helper()
	if _, err := b.db.Exec(b.t.Context(), sql, args...); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
}

// start starts a tidemark that streams, and ends with the test.
func (b *eventuateBench) start() *trial.Relay {
	b.t.Helper()
	r, err := trial.Start(b.t.Context(), b.config)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = r.Kill() })
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*time.Minute)
	defer cancel()
	if err := r.AwaitReady(ctx); err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *eventuateBench) stop(r *trial.Relay) {
	b.t.Helper()
	if status, err := r.Stop(2 * time.Minute); err != nil || status != 0 {
		b.t.Fatalf("SIGTERM: exit status %d, %v, want 0: %s", status, err, end(r.Log(), 3000))
	}
}

// command runs a command to its end, and returns what it printed.
func (b *eventuateBench) command(status int, args ...string) string {
	b.t.Helper()
	config := b.config
	config.Args = args
	r, err := trial.Run(b.t.Context(), config, "")
	if err != nil {
		b.t.Fatal(err)
	}
	if got, err := r.Wait(2 * time.Minute); err != nil || got != status {
		b.t.Fatalf("%v: exit status %d, %v, want %d: %s%s", args, got, err, status, r.Stdout(), end(r.Log(), 3000))
	}
	return r.Stdout()
}

// produce writes a record as Eventuate's CDC service does, without headers.
func (b *eventuateBench) produce(topic, key, value string) {
	b.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.MetadataMinAge(10*time.Millisecond), kgo.UnknownTopicRetries(-1))
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).CreateTopic(b.t.Context(), 3, 1, nil, topic); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		b.t.Fatal(err)
	}
	if err := client.ProduceSync(b.t.Context(), &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value)}).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
}

// records reads topics until they have as many records as they should, in the order of their partitions.
func (b *eventuateBench) records(topics map[string]int) []*kgo.Record {
	b.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.ConsumeTopics(slices.Collect(maps.Keys(topics))...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.UnknownTopicRetries(-1),
		kgo.MetadataMinAge(10*time.Millisecond), kgo.MetadataMaxAge(100*time.Millisecond)) // some of them may not be there yet
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	left := 0
	for _, n := range topics {
		left += n
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*time.Minute)
	defer cancel()
	var records []*kgo.Record
	for len(records) < left && ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { records = append(records, r) })
	}
	if len(records) != left {
		b.t.Fatalf("the topics have %d records, want %d", len(records), left)
	}
	return records
}

// mustHaveRead compares what Tram's consumers got with what Tram's producers sent: each message with its headers and its
// payload, and those of one partition id in the order in which they were sent.
func (b *eventuateBench) mustHaveRead(sent, got []tramLine) {
	b.t.Helper()
	byID := map[string]tramLine{}
	order := map[string][]string{}
	for _, line := range got {
		byID[line.ID] = line
		lane := line.Got + " " + line.Headers["PARTITION_ID"]
		order[lane] = append(order[lane], line.ID)
	}
	wanted := map[string][]string{}
	for _, line := range sent {
		lane := line.Sent + " " + line.Headers["PARTITION_ID"]
		wanted[lane] = append(wanted[lane], line.ID)
		g := byID[line.ID]
		if g.Got != line.Sent || g.Payload != line.Payload || !maps.Equal(g.Headers, line.Headers) {
			b.t.Errorf("Tram sent\n%+v\nand got\n%+v", line, g)
		}
	}
	for lane, ids := range wanted {
		if !slices.Equal(order[lane], ids) {
			b.t.Errorf("%s: Tram got %v, sent %v", lane, order[lane], ids)
		}
	}
	events := map[string]int{}
	for _, line := range got {
		if line.Aggregate == "" {
			continue
		}
		n := events[line.Aggregate]
		events[line.Aggregate]++
		aggregate, number, _ := strings.Cut(line.Aggregate, "/order-")
		if want := fmt.Sprintf("placed \"%s\" ä", strconv.Itoa(3*n+int(number[0]-'0'))); aggregate != b.prefix+"Order" || line.Text != want || line.Event != line.ID {
			b.t.Errorf("event %d of %s is %+v, want the text %q", n, line.Aggregate, line, want)
		}
	}
	if len(events) != 3 {
		b.t.Errorf("events of the aggregates %v", events)
	}
}

// header returns a record's header, "" if it has none of that name.
func header(r *kgo.Record, name string) string {
	i := slices.IndexFunc(r.Headers, func(h kgo.RecordHeader) bool { return h.Key == name })
	if i < 0 {
		return ""
	}
	return string(r.Headers[i].Value)
}
