// Package debezium_test holds tidemark against the real Debezium: its connector, its Event Router and the converters of Kafka
// Connect read the same rows of the same Postgres as the built binary, and every part of every record is compared.
//
// The one rule: nothing is tolerated that the table of cases does not name, and what it names as different has to be so.
// The table is also the one in docs/debezium.md.
package debezium_test

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/test/trial"
)

func TestMain(m *testing.M) { stacktest.Main(m) }

//go:embed Router.java
var routerSource string

// debezium is the release that the record is compared with.
const debezium = "3.6.1.Final"

func router() *devstack.JavaProgram {
	return &devstack.JavaProgram{Class: "Router", Source: routerSource, Libraries: []string{
		"io.debezium:debezium-connector-postgres:" + debezium,
		"org.apache.kafka:connect-runtime:4.1.0",
		"org.apache.kafka:connect-json:4.1.0",
		"io.opentelemetry:opentelemetry-sdk:1.45.0",
	}}
}

// partitions is how many every topic has.
const partitions = 3

// record is what reaches Kafka, as far as it is compared.
type record struct {
	Options   []string `json:"options"` // in the first line, and nothing else: those of the Event Router
	Case      string   `json:"case"`
	Error     string   `json:"error"` // what would have ended the connector's task
	Topic     string   `json:"topic"`
	Partition *int32   `json:"partition"` // nil: without a key, so any
	Key       []byte   `json:"key"`
	Value     []byte   `json:"value"`
	Timestamp int64    `json:"timestamp"`
	Headers   []header `json:"headers"`
}

type header struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// id is the row's, by which the two records of a row are found.
func (r *record) id() string {
	for _, h := range r.Headers {
		if h.Key == "id" {
			return string(h.Value)
		}
	}
	return ""
}

func TestRecordsAreThoseOfTheEventRouter(t *testing.T) {
	t.Parallel()
	program := router()
	stacktest.Require(t, "debezium", program.Have())
	dsn := stacktest.Database(t)
	conn := connect(t, dsn)
	cases := cases()
	for i := range cases {
		cases[i].create(t, conn, i)
	}
	exec(t, conn, "create table zz_end (id int primary key)", "create publication debezium for all tables")
	connectors := connectors(cases)
	for _, c := range connectors {
		exec(t, conn, fmt.Sprintf("select pg_create_logical_replication_slot('%s', 'pgoutput')", c.slot))
	}
	config := trial.Config{
		Binary: binary(t), Dir: t.TempDir(), DSN: dsn, Slot: "tidemark", Brokers: stacktest.FakeKafka(t),
	}
	config.Checkpoint = filepath.Join(config.Dir, "checkpoint")
	file := filepath.Join(config.Dir, "config.yaml")
	if err := os.WriteFile(file, tidemarkConfig(cases), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, config, "init", "--config", file)
	for i := range cases {
		cases[i].insert(t, conn, i)
	}
	exec(t, conn, "insert into zz_end values (1)")

	theirs, ended := make(chan []record, 1), make(chan struct{})
	t.Cleanup(func() { <-ended })
	go func() { // ends with Debezium, which the test waits for
		defer close(ended)
		theirs <- runDebezium(t, program, dsn, connectors)
	}()
	mustRun(t, config, "run", "--once", "--config", file)
	ours := consume(t, config.Brokers, len(ids(cases)))
	if theirs := <-theirs; theirs != nil { // else it has been said
		everyOptionIsInTheTable(t, theirs[0].Options)
		judge(t, cases, theirs[1:], ours)
	}
}

// ids returns which case each row belongs to.
func ids(cases []parity) map[string]int {
	of := map[string]int{}
	for i := range cases {
		for row := range cases[i].rows {
			of[cases[i].rowID(i, row)] = i
		}
	}
	return of
}

// judge compares what Debezium has made of each row with what tidemark has made of it.
func judge(t *testing.T, cases []parity, theirs, ours []record) {
	t.Helper()
	byCase := map[string]map[string]*record{} // by row id
	failures := map[string]string{}
	for i := range theirs {
		r := &theirs[i]
		if r.Error != "" {
			failures[r.Case] = r.Error
			continue
		}
		if byCase[r.Case] == nil {
			byCase[r.Case] = map[string]*record{}
		}
		byCase[r.Case][r.id()] = r
	}
	of := ids(cases)
	mine := map[int]map[string]*record{}
	for i := range ours {
		r := &ours[i]
		c, known := of[r.id()]
		if !known {
			t.Errorf("tidemark has published a row that nobody inserted: %s", r)
			continue
		}
		if mine[c] == nil {
			mine[c] = map[string]*record{}
		}
		mine[c][r.id()] = r
	}
	for i := range cases {
		c := &cases[i]
		t.Run(c.name(), func(t *testing.T) {
			t.Parallel()
			found := map[string]string{} // part: an example of the difference
			if e := failures[c.name()]; e != "" {
				found["error"] = e
			}
			for row := range c.rows {
				id := c.rowID(i, row)
				compare(byCase[c.name()][id], mine[i][id], found)
			}
			if c.router["table.field.event.timestamp"] == "" {
				// The time at which Debezium read the row, which is later by as long as it took to start.
				if found["timestamp"] == "" && found["record"] == "" {
					t.Error("the timestamp is the same, and docs/debezium.md says that it differs")
				}
				delete(found, "timestamp")
			}
			for _, part := range slices.Sorted(maps.Keys(found)) {
				if _, told := c.differs[part]; !told {
					t.Errorf("the %s differs: %s", part, found[part])
				}
			}
			for _, part := range slices.Sorted(maps.Keys(c.differs)) {
				if found[part] == "" {
					t.Errorf("the %s is the same, and the table says that it differs: %s", part, c.differs[part])
				}
				t.Logf("%s: %s", part, found[part])
			}
		})
	}
}

// compare notes in which parts the two records of a row differ.
func compare(theirs, ours *record, found map[string]string) {
	if ours == nil || theirs == nil {
		if ours != theirs {
			found["record"] = fmt.Sprintf("Debezium %v, tidemark %v", theirs, ours)
		}
		return
	}
	note := func(part string, same bool, theirs, ours any) {
		if !same {
			found[part] = fmt.Sprintf("Debezium %s, tidemark %s", shown(theirs), shown(ours))
		}
	}
	note("topic", theirs.Topic == ours.Topic, theirs.Topic, ours.Topic)
	note("key", same(theirs.Key, ours.Key), theirs.Key, ours.Key)
	note("value", same(theirs.Value, ours.Value), theirs.Value, ours.Value)
	note("timestamp", theirs.Timestamp == ours.Timestamp, theirs.Timestamp, ours.Timestamp)
	if theirs.Partition != nil && (found["key"] == "" || len(theirs.Key) == 0) { // another key, another partition
		note("partition", *theirs.Partition == *ours.Partition, *theirs.Partition, *ours.Partition)
	}
	rest, own := withoutOurs(ours.Headers)
	if !slices.Equal(own, []string{"tidemark-position", "tidemark-source"}) {
		found["tidemark's own headers"] = fmt.Sprint(own)
	}
	if note("headers", slices.Equal(names(theirs.Headers), names(rest)), names(theirs.Headers), names(rest)); found["headers"] != "" {
		return
	}
	for i, h := range theirs.Headers {
		note("header "+h.Key, same(h.Value, rest[i].Value), h.Value, rest[i].Value)
	}
}

// same holds apart what is null and what is empty.
func same(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

func shown(v any) string {
	if b, ok := v.([]byte); ok && b == nil {
		return "null"
	}
	if b, ok := v.([]byte); ok {
		return strconv.Quote(string(b))
	}
	return fmt.Sprint(v)
}

func (r *record) String() string {
	if r == nil {
		return "nothing"
	}
	return fmt.Sprintf("%s key %s value %s headers %v", r.Topic, shown(r.Key), shown(r.Value), names(r.Headers))
}

// withoutOurs returns the headers that are not tidemark's alone, and the names of those that are.
func withoutOurs(headers []header) (rest []header, own []string) {
	for _, h := range headers {
		if strings.HasPrefix(h.Key, "tidemark-") {
			own = append(own, h.Key)
		} else {
			rest = append(rest, h)
		}
	}
	return rest, own
}

func names(headers []header) []string {
	out := make([]string, 0, len(headers))
	for _, h := range headers {
		out = append(out, h.Key)
	}
	return out
}

// connector is one of Debezium, for the cases that ask for the same options of it.
type connector struct {
	slot    string
	options map[string]string
	cases   []routed
}

// routed is a case as Router.java reads it.
type routed struct {
	Name       string              `json:"name"`
	Table      string              `json:"table"`
	Partitions int                 `json:"partitions"`
	Transforms []map[string]string `json:"transforms"`
	Key        map[string]string   `json:"key"`
	Value      map[string]string   `json:"value"`
	Header     map[string]string   `json:"header"`
}

func connectors(cases []parity) []*connector {
	var out []*connector
	for i := range cases {
		c := &cases[i]
		at := slices.IndexFunc(out, func(o *connector) bool { return maps.Equal(o.options, c.connector) })
		if at < 0 {
			at = len(out)
			out = append(out, &connector{slot: fmt.Sprintf("debezium_%d", at), options: c.connector})
		}
		out[at].cases = append(out[at].cases, c.routed(i))
	}
	return out
}

// runDebezium returns all records that Debezium would produce.
func runDebezium(t *testing.T, program *devstack.JavaProgram, dsn string, connectors []*connector) []record {
	t.Helper()
	type job struct {
		Config map[string]string `json:"config"`
		Cases  []routed          `json:"cases"`
	}
	jobs := make([]job, 0, len(connectors))
	for _, c := range connectors {
		config := connectorConfig(t, dsn, c.slot)
		maps.Copy(config, c.options)
		jobs = append(jobs, job{config, c.cases})
	}
	text, err := json.Marshal(map[string]any{"connectors": jobs})
	if err != nil {
		t.Error(err)
		return nil
	}
	file := filepath.Join(t.TempDir(), "jobs.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Error(err)
		return nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	cmd, err := program.Command(ctx, func(line string) { t.Log(line) }, file)
	if err != nil {
		t.Error(err)
		return nil
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Errorf("Debezium: %v\n%s", err, stderr.String())
		return nil
	}
	var records []record
	for lines := bufio.NewScanner(bytes.NewReader(output)); lines.Scan(); {
		var r record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Errorf("%s: %v", lines.Text(), err)
		}
		records = append(records, r)
	}
	return records
}

// connectorConfig is a connector to the database of the test, before the options of a case.
func connectorConfig(t *testing.T, dsn, slot string) map[string]string {
	t.Helper()
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"name": slot, "connector.class": "io.debezium.connector.postgresql.PostgresConnector", "topic.prefix": slot, "database.hostname": c.Host, "database.port": strconv.Itoa(int(c.Port)),
		"database.user": c.User, "database.password": c.Password, "database.dbname": c.Database,
		"plugin.name": "pgoutput", "slot.name": slot, "publication.name": "debezium", "publication.autocreate.mode": "disabled",
		"snapshot.mode": "no_data", "poll.interval.ms": "10", "extended.headers.enabled": "false",
	}
}

// consume reads as many records of all topics.
func consume(t *testing.T, brokers []string, n int) []record {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeRegex(), kgo.ConsumeTopics("^[^_].*"),
		kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var out []record
	for len(out) < n {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Errorf("%d of %d records of tidemark were read: %v", len(out), n, err)
			break
		}
		fetches.EachRecord(func(r *kgo.Record) {
			one := record{Topic: r.Topic, Partition: &r.Partition, Key: r.Key, Value: r.Value, Timestamp: r.Timestamp.UnixMilli()}
			for _, h := range r.Headers {
				one.Headers = append(one.Headers, header(h))
			}
			out = append(out, one)
		})
	}
	return out
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func binary(t *testing.T) string {
	t.Helper()
	path, err := trial.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func mustRun(t *testing.T, c trial.Config, args ...string) {
	t.Helper()
	if out, err := trial.Command(t.Context(), c, args...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
