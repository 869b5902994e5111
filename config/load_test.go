package config

import (
	"cmp"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// dsn is what every valid configuration of these tests begins with.
const dsn = "TIDEMARK_SOURCE_DSN=postgres://relay:hunter2@db:5432/shop"

func builtIn(tb testing.TB) []byte {
	tb.Helper()
	text, err := os.ReadFile("../config.yaml")
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

// load loads text as a file named config.yaml.
func load(t *testing.T, text string, environ ...string) (*Config, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(builtIn(t), name, environ)
}

func mustLoad(t *testing.T, text string, environ ...string) *Config {
	t.Helper()
	c, err := load(t, text, append(environ, dsn)...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// problemsOf returns the problems of an error, the directory of the file cut off.
func problemsOf(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	if !IsInvalid(err) {
		t.Fatalf("IsInvalid is false for %v", err)
	}
	lines := strings.Split(err.Error(), "\n")[1:]
	for i, l := range lines {
		l = strings.TrimPrefix(l, "  ")
		if j := strings.Index(l, "config.yaml:"); j > 0 {
			l = l[j:]
		}
		lines[i] = l
	}
	return lines
}

func TestDefaultsAreThoseOfTheSpec(t *testing.T) {
	c := mustLoad(t, "")
	want := &Config{
		Source: Source{
			DSN:      "postgres://relay:hunter2@db:5432/shop",
			AdminDSN: "postgres://relay:hunter2@db:5432/shop",
			Slot:     "tidemark", Publication: "tidemark", Create: true,
			ExistingRows: "publish", Failover: "auto", StatusInterval: time.Second,
		},
		Outbox: []Table{{
			Table: "public.outbox", Preset: "debezium",
			Columns: Columns{ID: "id", Key: "aggregateid", Type: "type", Topic: "aggregatetype", Payload: "payload"},
			Topic:   "outbox.event.{aggregatetype}", Key: "{aggregateid}",
			Headers: []HeaderTemplate{}, Format: "plain", OnNull: "tombstone",
		}},
		Messages: []Message{},
		Kafka: Kafka{
			Brokers: []string{"localhost:9092"}, Compression: "lz4", MaxBufferedBytes: 32 << 20,
			CreateTopics: CreateTopics{Enabled: true, Partitions: -1, ReplicationFactor: -1, Configs: map[string]string{}},
			Options:      map[string]string{},
			SASL:         SASL{Extensions: map[string]string{}},
		},
		Delivery:   Delivery{Mode: "at_least_once", ResumeDedupe: true, OnPoison: "stop", DeadLetterTopic: "tidemark.dead-letter"},
		Checkpoint: Checkpoint{Store: "file", Path: "./tidemark.checkpoint", Topic: "tidemark.checkpoints", Interval: 200 * time.Millisecond},
		HTTP:       HTTP{Listen: "127.0.0.1:8642"},
		Log:        Log{Level: "info", Format: "auto"},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %#v\nwant %#v", c, want)
	}
}

// TestConfigYAMLShowsEveryKey keeps config.yaml complete: a key may stand there as a comment, where its default depends
// on the preset.
func TestConfigYAMLShowsEveryKey(t *testing.T) {
	spec := strings.Fields(`
		source.dsn source.dsn_file source.admin_dsn source.admin_dsn_file source.slot source.publication source.create source.existing_rows source.failover
		source.status_interval source.wal_budget
		outbox outbox[].table outbox[].preset outbox[].topic outbox[].key outbox[].headers outbox[].format outbox[].on_null
		outbox[].headers[].name outbox[].headers[].value outbox[].outbox_id
		outbox[].columns.id outbox[].columns.key outbox[].columns.type outbox[].columns.topic outbox[].columns.payload
		outbox[].columns.headers outbox[].columns.timestamp outbox[].columns.partition outbox[].columns.traceparent
		outbox[].columns.tracestate outbox[].columns.correlation_id outbox[].columns.causation_id outbox[].columns.reply_to
		outbox[].columns.expires_at
		outbox[].cloudevents.source outbox[].cloudevents.type outbox[].cloudevents.subject outbox[].cloudevents.content_type
		outbox[].cloudevents.data_schema
		kafka.brokers kafka.compression kafka.max_buffered_bytes kafka.options
		kafka.tls.enabled kafka.tls.ca_file kafka.tls.cert_file kafka.tls.key_file kafka.tls.server_name
		kafka.tls.insecure_skip_verify
		kafka.sasl.mechanism kafka.sasl.username kafka.sasl.password kafka.sasl.token
		kafka.sasl.password_file kafka.sasl.token_file kafka.sasl.token_url kafka.sasl.client_id kafka.sasl.client_secret
		kafka.sasl.client_secret_file kafka.sasl.scope kafka.sasl.token_ca_file
		kafka.create_topics.enabled kafka.create_topics.partitions kafka.create_topics.replication_factor
		kafka.create_topics.configs
		delivery.mode delivery.resume_dedupe delivery.on_poison delivery.dead_letter_topic
		checkpoint.store checkpoint.path checkpoint.topic checkpoint.interval
		http.listen http.token http.token_file http.tls.cert_file http.tls.key_file reconcile.interval prune.older_than prune.interval log.level log.format
		messages messages[].prefix messages[].non_transactional`)
	for _, path := range spec { // a message is laid out as a table
		if key, ok := strings.CutPrefix(path, "outbox[]."); ok && key != "table" && key != "outbox_id" {
			spec = append(spec, "messages[]."+key)
		}
	}

	text := string(builtIn(t))
	values := readFile("config.yaml", []byte(text), newProblems())
	known := map[string]bool{}
	for _, k := range allKeys() {
		known[k.path] = true
		if !isScalar(k.typ) && k.typ.Kind() != reflect.Slice {
			continue
		}
		if !slices.Contains(spec, k.path) {
			t.Errorf("%s is no key of the specification", k.path)
		}
		commented := (strings.HasPrefix(k.path, "outbox[].") || strings.HasPrefix(k.path, "messages[].")) && strings.Contains(text, " "+k.leaf+":")
		if !has(values, k.path) && !commented {
			t.Errorf("config.yaml has no %s", k.path)
		}
	}
	for _, path := range spec {
		if !known[path] {
			t.Errorf("%s is not known", path)
		}
	}
}

func has(values map[string]any, path string) bool {
	first, rest, more := strings.Cut(path, ".")
	v, ok := values[first]
	if !ok || !more {
		return ok
	}
	section, ok := v.(map[string]any)
	return ok && has(section, rest)
}

func TestFileChangesWhatItNamesAndNothingElse(t *testing.T) {
	c := mustLoad(t, `
source:
  slot: orders_2
  failover: True
  wal_budget: 1GB
  status_interval:
kafka:
  brokers: [a:9092, "b:9092"]
  create_topics:
    partitions: 6
    configs: {cleanup.policy: compact, Retention.MS: 604800000}
  options:
    linger.ms: 5
    Client.ID: Orders
  sasl: {mechanism: PLAIN, username: 007, password: 0123}
`)
	got := []any{
		c.Source.Slot, c.Source.Failover, c.Source.WALBudget, c.Source.StatusInterval, c.Source.Publication,
		c.Kafka.Brokers, c.Kafka.CreateTopics.Partitions, c.Kafka.CreateTopics.ReplicationFactor,
		c.Kafka.CreateTopics.Configs, c.Kafka.Options, c.Kafka.SASL.Username, string(c.Kafka.SASL.Password),
	}
	want := []any{
		"orders_2", "true", int64(1e9), time.Second, "tidemark",
		[]string{"a:9092", "b:9092"},
		int32(6), int16(-1),
		map[string]string{"cleanup.policy": "compact", "Retention.MS": "604800000"},
		map[string]string{"linger.ms": "5", "Client.ID": "Orders"},
		"007", "0123",
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("%d: got %v, want %v", i, got[i], want[i])
		}
	}
}

func TestWithoutAFileTheDefaultsHold(t *testing.T) {
	defaults := builtIn(t)
	t.Chdir(t.TempDir())
	c, err := Load(defaults, "", []string{dsn})
	if err != nil {
		t.Fatal(err)
	}
	if c.Source.Slot != "tidemark" {
		t.Errorf("slot is %q", c.Source.Slot)
	}
	if err := os.WriteFile("config.yaml", []byte("source: {slot: here}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err = Load(defaults, "", []string{dsn}); err != nil || c.Source.Slot != "here" {
		t.Errorf("./config.yaml was not read: %v", err)
	}
	if _, err = Load(defaults, "other.yaml", []string{dsn}); !IsInvalid(err) || !strings.Contains(err.Error(), "other.yaml") {
		t.Errorf("a named file that is missing: %v", err)
	}
}

func TestPresetFillsInOnlyWhatIsLeftOut(t *testing.T) {
	tests := map[string]struct {
		entry string
		want  Table
	}{
		"only a table": {
			`{table: a.b}`,
			Table{
				Table: "a.b", Preset: "debezium",
				Columns: Columns{ID: "id", Key: "aggregateid", Type: "type", Topic: "aggregatetype", Payload: "payload"},
				Topic:   "outbox.event.{aggregatetype}", Key: "{aggregateid}",
			},
		},
		"other columns, templates follow": {
			`{table: a.b, columns: {topic: kind, key: order_id, timestamp: at, headers: }}`,
			Table{
				Table: "a.b", Preset: "debezium",
				Columns: Columns{ID: "id", Key: "order_id", Type: "type", Topic: "kind", Payload: "payload", Timestamp: "at"},
				Topic:   "outbox.event.{kind}", Key: "{order_id}",
			},
		},
		"not mapped, and templates of one's own": {
			`{table: a.b, topic: orders, key: "{tenant}-{aggregateid}", columns: {type: "", topic: ""}}`,
			Table{
				Table: "a.b", Preset: "debezium",
				Columns: Columns{ID: "id", Key: "aggregateid", Payload: "payload"},
				Topic:   "orders", Key: "{tenant}-{aggregateid}",
			},
		},
		"custom": {
			`{table: a.b, preset: custom, topic: "{kind}.v1", columns: {id: uuid, payload: body}}`,
			Table{Table: "a.b", Preset: "custom", Columns: Columns{ID: "uuid", Payload: "body"}, Topic: "{kind}.v1"},
		},
		"eventuate": {
			`{table: eventuate.message, preset: eventuate}`,
			Table{
				Table: "eventuate.message", Preset: "eventuate",
				Columns: Columns{ID: "id", Topic: "destination", Payload: "payload", Headers: "headers", Timestamp: "creation_time"},
				Topic:   "{destination}", OnNull: "poison",
			},
		},
		"eventuate with ids of the database": {
			`{table: eventuate.message0, preset: eventuate, on_null: empty, outbox_id: 7, topic: "eu.{destination}", columns: {id: dbid, timestamp: ""}}`,
			Table{
				Table: "eventuate.message0", Preset: "eventuate",
				Columns: Columns{ID: "dbid", Topic: "destination", Payload: "payload", Headers: "headers"},
				Topic:   "eu.{destination}", OnNull: "empty", OutboxID: "7",
			},
		},
		"custom with the topic and the key in columns": {
			`{table: a.b, preset: custom, columns: {id: uuid, payload: body, topic: dest, key: k}}`,
			Table{
				Table: "a.b", Preset: "custom", Columns: Columns{ID: "uuid", Payload: "body", Topic: "dest", Key: "k"},
				Topic: "{dest}", Key: "{k}",
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.want.Headers, test.want.Format, test.want.OnNull = []HeaderTemplate{}, "plain", cmp.Or(test.want.OnNull, "tombstone")
			c := mustLoad(t, "outbox:\n  - "+test.entry)
			if !reflect.DeepEqual(c.Outbox, []Table{test.want}) {
				t.Errorf("got  %+v\nwant %+v", c.Outbox[0], test.want)
			}
		})
	}
}

func TestMessagesAreLaidOutAsTables(t *testing.T) {
	c := mustLoad(t, `
outbox: []
messages:
  - prefix: outbox
  - {prefix: other, preset: custom, non_transactional: publish, on_null: empty, topic: "t.{kind}", columns: {id: uuid, payload: body}, headers: [{name: Tenant, value: "{t}"}]}`)
	want := []Message{{
		Prefix: "outbox", Preset: "debezium", Columns: Columns{ID: "id", Key: "aggregateid", Type: "type", Topic: "aggregatetype", Payload: "payload"},
		Topic: "outbox.event.{aggregatetype}", Key: "{aggregateid}", Headers: []HeaderTemplate{}, Format: "plain", OnNull: "tombstone", NonTransactional: "poison",
	}, {
		Prefix: "other", Preset: "custom", Columns: Columns{ID: "uuid", Payload: "body"},
		Topic: "t.{kind}", Headers: []HeaderTemplate{{"Tenant", "{t}"}}, Format: "plain", OnNull: "empty", NonTransactional: "publish",
	}}
	if !reflect.DeepEqual(c.Messages, want) || len(c.Outbox) != 0 {
		t.Errorf("got  %+v\nwant %+v\nand %d tables", c.Messages, want, len(c.Outbox))
	}
}

func TestHeaderNamesKeepTheirCaseAndOrder(t *testing.T) {
	c := mustLoad(t, `
outbox:
  - table: public.outbox
    headers:
      - {name: Tenant-ID, value: "{tenant}"}
      - {name: B, value: x}
      - {name: a, value: "{{literal}}"}
`)
	want := []HeaderTemplate{{"Tenant-ID", "{tenant}"}, {"B", "x"}, {"a", "{{literal}}"}}
	if !slices.Equal(c.Outbox[0].Headers, want) {
		t.Errorf("got %v, want %v", c.Outbox[0].Headers, want)
	}
}

func TestProblems(t *testing.T) {
	tests := map[string]struct {
		file    string
		environ []string
		want    []string
	}{
		"dsn missing":          {"", nil, []string{"source.dsn: is required; set it in config.yaml or as TIDEMARK_SOURCE_DSN, such as postgres://user:password@host:5432/database"}},
		"unknown key":          {"source:\n  slott: a", []string{dsn}, []string{"config.yaml:2: source.slott: unknown key; the nearest known key is source.slot"}},
		"unknown section":      {"sorce: {slot: a}", []string{dsn}, []string{"config.yaml:1: sorce: unknown key; the nearest known key is source"}},
		"key in another place": {"slot: a", []string{dsn}, []string{"config.yaml:1: slot: unknown key; the nearest known key is source.slot"}},
		"no known key is like it": {
			"http: {port: 80}\ndatabase: x",
			[]string{dsn},
			[]string{
				"config.yaml:1: http.port: unknown key; http has listen, token, token_file, tls",
				"config.yaml:2: database: unknown key; the configuration has source, outbox, messages, kafka, delivery, checkpoint, http, reconcile, prune, log",
			},
		},
		"a tab":        {"source:\n\tslot: a", []string{dsn}, []string{"config.yaml:2: not YAML: a tab where only blanks may be, or a value that has to be in quotes because of how it begins (@, `, %)"}},
		"case matters": {"Source: {slot: a}", []string{dsn}, []string{"config.yaml:1: Source: unknown key; the nearest known key is source"}},
		"unknown key in an entry": {
			"outbox:\n  - table: a.b\n  - table: a.c\n    colums: {}",
			[]string{dsn},
			[]string{"config.yaml:4: outbox[1].colums: unknown key; the nearest known key is outbox[1].columns"},
		},
		"unknown key in an entry's columns": {
			"outbox:\n  - table: a.b\n    columns:\n      payloud: x",
			[]string{dsn},
			[]string{"config.yaml:4: outbox[0].columns.payloud: unknown key; the nearest known key is outbox[0].columns.payload"},
		},
		"attributes of a CloudEvent": {
			"outbox:\n  - table: a.b\n    format: cloudevents\n    columns: {type: ''}\n    cloudevents: {source: '{'}\n    headers: [{name: ce_Tenant, value: x}, {name: Tenant, value: x}, {name: ce_id, value: x}, {name: Content-Type, value: x}, {name: ce_ok1, value: x}]",
			[]string{dsn},
			[]string{
				`config.yaml:5: outbox[0].cloudevents.source: template "{" has a { without its } (a literal one is written {{)`,
				"config.yaml:4: outbox[0].columns.type: is required with format: cloudevents, because a CloudEvent has to have a type; name its column, or set cloudevents.type",
				`config.yaml:6: outbox[0].headers[0].name: "ce_Tenant" begins with ce_, which makes it an extension attribute of a CloudEvent, and the rest of its name has to be of a-z and 0-9, and not data`,
				`config.yaml:6: outbox[0].headers[2].name: "ce_id" is written by tidemark itself; cloudevents.source, type, subject, content_type and data_schema say what can be chosen`,
				`config.yaml:6: outbox[0].headers[3].name: "Content-Type" is written by tidemark itself; cloudevents.content_type says what it is`,
			},
		},
		"attributes of a CloudEvent without one": {
			"outbox:\n  - table: a.b\n    cloudevents: {source: /x}",
			[]string{dsn},
			[]string{"config.yaml:3: outbox[0].cloudevents: is for format: cloudevents and cloudevents-structured, and format is plain"},
		},
		"unknown key in a header": {
			"outbox:\n  - table: a.b\n    headers:\n      - nam: x\n        name: y",
			[]string{dsn},
			[]string{"config.yaml:4: outbox[0].headers[0].nam: unknown key; the nearest known key is outbox[0].headers[0].name"},
		},
		"given twice":      {"log: {level: info}\nlog: {level: warn}", []string{dsn}, []string{"config.yaml:2: log: given twice, first in line 1"}},
		"no YAML":          {"source: {", []string{dsn}, []string{"config.yaml:1: not YAML: did not find expected node content"}},
		"no mapping":       {"- a", []string{dsn}, []string{"config.yaml:1: not a configuration, which has keys such as source: and kafka: at its top"}},
		"two documents":    {"log: {level: info}\n---\nlog: {}", []string{dsn}, []string{"config.yaml: holds more than one YAML document; remove the --- and what is not meant"}},
		"list for text":    {"source: {slot: [a]}", []string{dsn}, []string{"config.yaml:1: source.slot: must be text, not a list"}},
		"text for section": {"source: a", []string{dsn}, []string{"config.yaml:1: source: must be a section with keys such as dsn, not a single value"}},
		"text for a list":  {"kafka: {brokers: a}", []string{dsn}, []string{"config.yaml:1: kafka.brokers: must be a list such as [a, b], not a single value"}},
		"section for list": {"outbox: {table: a.b}", []string{dsn}, []string{"config.yaml:1: outbox: must be a list of entries, each with a dash, not a section with keys of its own"}},
		"text for a map":   {"kafka: {options: a}", []string{dsn}, []string{"config.yaml:1: kafka.options: must be names with values, not a single value"}},
		"map in a map":     {"kafka: {options: {a: {b: c}}}", []string{dsn}, []string{"config.yaml:1: kafka.options.a: must be text, not a section with keys of its own"}},
		"no bool":          {"source: {create: maybe}", []string{dsn}, []string{`config.yaml:1: source.create: "maybe" is neither true nor false`}},
		"no duration":      {"checkpoint: {interval: fast}", []string{dsn}, []string{`config.yaml:1: checkpoint.interval: "fast" is not a duration such as 200ms, 5s or 1m30s`}},
		"no unit":          {"checkpoint: {interval: 5}", []string{dsn}, []string{`config.yaml:1: checkpoint.interval: "5" has no unit; write 5ms, 5s or 5m`}},
		"no size":          {"source: {wal_budget: much}", []string{dsn}, []string{`config.yaml:1: source.wal_budget: "much" is not a size in bytes such as 32MiB, 1GB or 65536`}},
		"no number":        {"kafka: {create_topics: {partitions: six}}", []string{dsn}, []string{`config.yaml:1: kafka.create_topics.partitions: "six" is not a whole number up to 2147483647`}},
		"number too large": {"kafka: {create_topics: {replication_factor: 32768}}", []string{dsn}, []string{`config.yaml:1: kafka.create_topics.replication_factor: "32768" is not a whole number up to 32767`}},
		"no partitions":    {"kafka: {create_topics: {partitions: 0}}", []string{dsn}, []string{`config.yaml:1: kafka.create_topics.partitions: 0 must be at least 1, or -1 for the broker's default`}},
		"enum":             {"kafka: {compression: lz5}", []string{dsn}, []string{`config.yaml:1: kafka.compression: "lz5" is none of none, gzip, snappy, lz4, zstd; the nearest is lz4`}},
		"exactly once without its store": {
			"delivery: {mode: exactly_once, resume_dedupe: false}",
			[]string{dsn},
			[]string{
				"checkpoint.store: is file, and delivery.mode: exactly_once keeps the checkpoint in the Kafka transaction of the events: set it to kafka (tidemark checkpoint move takes the position along), or delivery.mode to at_least_once",
				"config.yaml:1: delivery.resume_dedupe: is false, and delivery.mode: exactly_once needs it for database transactions that are too large for one Kafka transaction: set it to true",
			},
		},
		"no such store": {"checkpoint: {store: postgre}", []string{dsn}, []string{`config.yaml:1: checkpoint.store: "postgre" is none of file, postgres, kafka; the nearest is postgres`}},
		"eventuate": {
			"outbox: [{table: a.b, preset: eventuate, on_null: tombstone, outbox_id: 281474976710656, columns: {headers: ''}}, {table: a.c, outbox_id: 7}]",
			[]string{dsn},
			[]string{
				"config.yaml:1: outbox[0].columns.headers: is required with preset eventuate: the message's id and its partition id are among its headers",
				"config.yaml:1: outbox[0].on_null: tombstone does not go with preset eventuate: Tram's consumers stop at a record without a value; use poison or empty",
				`config.yaml:1: outbox[0].outbox_id: "281474976710656" is no number from 0 to 281474976710655, as eventuate.outbox.id is`,
				"config.yaml:1: outbox[1].outbox_id: goes with preset eventuate; leave it out",
			},
		},
		"slot name": {"source: {slot: My-Slot}", []string{dsn}, []string{`config.yaml:1: source.slot: "My-Slot" is no slot name; Postgres wants 1 to 63 of a-z, 0-9 and _`}},
		"intervals": {
			"source: {status_interval: 0s}\ncheckpoint: {interval: -1s}",
			[]string{dsn},
			[]string{"config.yaml:1: source.status_interval: 0s must be more than 0", "config.yaml:2: checkpoint.interval: -1s must be more than 0"},
		},
		"no tables": {"outbox: []", []string{dsn}, []string{"config.yaml:1: outbox: is empty; name at least one table, such as public.outbox, or a prefix under messages"}},
		"a table twice": {
			"outbox:\n  - table: a.b\n  - table: a.c\n  - table: a.b",
			[]string{dsn},
			[]string{`config.yaml:4: outbox[2].table: "a.b" is outbox[0] already`},
		},
		"no schema":   {"outbox: [{table: orders}]", []string{dsn}, []string{`config.yaml:1: outbox[0].table: "orders" has no schema; write public.orders, if that is where it is`}},
		"no table":    {"outbox: [{preset: debezium}]", []string{dsn}, []string{"outbox[0].table: is required, such as public.outbox"}},
		"empty entry": {"outbox:\n  -\n  - table: a.b", []string{dsn}, []string{"config.yaml:2: outbox[0]: is empty; remove the dash or write the entry after it"}},
		"custom without its columns": {
			"outbox: [{table: a.b, preset: custom}]",
			[]string{dsn},
			[]string{
				"outbox[0].columns.id: is required with preset custom, which has no defaults; which column holds it?",
				"outbox[0].columns.payload: is required with preset custom, which has no defaults; which column holds it?",
				"outbox[0].topic: is required; write a template such as orders.{kind}, or map columns.topic",
			},
		},
		"templates": {
			"outbox:\n- table: a.b\n  topic: a.{b\n  key: a}\n  headers:\n  - {name: x, value: '{}'}\n  - {name: id, value: x}\n  - {value: x}\n",
			[]string{dsn},
			[]string{
				`config.yaml:3: outbox[0].topic: template "a.{b" has a { without its } (a literal one is written {{)`,
				`config.yaml:4: outbox[0].key: template "a}" has a } without its { (a literal one is written }})`,
				`config.yaml:6: outbox[0].headers[0].value: template "{}" has a {} that names no column`,
				`config.yaml:7: outbox[0].headers[1].name: "id" is written by tidemark itself, and consumers rely on it; take another name`,
				`outbox[0].headers[2].name: is required`,
			},
		},
		"topic characters": {
			"outbox: [{table: a.b, topic: 'orders/{kind}'}]",
			[]string{dsn},
			[]string{`config.yaml:1: outbox[0].topic: template "orders/{kind}" has characters that no topic name may have; Kafka allows a-z, A-Z, 0-9, '.', '_' and '-'`},
		},
		"jdbc":           {"source: {dsn: 'jdbc:postgresql://u:hunter2@h/d'}", nil, []string{"config.yaml:1: source.dsn: is a URL, but does not begin with postgres://"}},
		"bare dsn":       {"source: {dsn: hunter2}", nil, []string{"config.yaml:1: source.dsn: is neither a URL such as postgres://user@host/database nor keywords such as host=... dbname=...; a value with blanks must be in single quotes"}},
		"broken dsn":     {"source: {dsn: host=h password=hunter1 hunter2}", nil, []string{"config.yaml:1: source.dsn: is neither a URL such as postgres://user@host/database nor keywords such as host=... dbname=...; a value with blanks must be in single quotes"}},
		"brokers":        {"kafka: {brokers: ['kafka://a:9092', 'a:b']}", []string{dsn}, []string{`config.yaml:1: kafka.brokers[0]: "kafka://a:9092" is not host:port`, `config.yaml:1: kafka.brokers[1]: "a:b" is not host:port`}},
		"no brokers":     {"", []string{dsn, "TIDEMARK_KAFKA_BROKERS= , "}, []string{"TIDEMARK_KAFKA_BROKERS: kafka.brokers: is empty; name at least one host:port"}},
		"tls forgotten":  {"kafka: {tls: {ca_file: ca.pem}}", []string{dsn}, []string{"kafka.tls.enabled: is false, but other keys of kafka.tls are set; set it to true, or remove them"}},
		"half a pair":    {"kafka: {tls: {enabled: true, cert_file: c.pem}}", []string{dsn}, []string{"config.yaml:1: kafka.tls.cert_file: and kafka.tls.key_file go together: set both or neither"}},
		"sasl forgotten": {"kafka: {sasl: {username: u}}", []string{dsn}, []string{"kafka.sasl.mechanism: is empty, but other keys of kafka.sasl are set; set it, or remove them"}},
		"sasl half": {
			"kafka: {sasl: {mechanism: PLAIN}}",
			[]string{dsn},
			[]string{"kafka.sasl.username: is required for PLAIN", "kafka.sasl.password: is required for PLAIN"},
		},
		"sasl unknown": {
			"kafka: {sasl: {mechanism: scram-sha-256}}",
			[]string{dsn},
			[]string{`config.yaml:1: kafka.sasl.mechanism: "scram-sha-256" is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER; the nearest is SCRAM-SHA-256`},
		},
		"no token": {"kafka: {sasl: {mechanism: OAUTHBEARER}}", []string{dsn}, []string{"kafka.sasl.token: or kafka.sasl.token_url is required for OAUTHBEARER"}},
		"half an endpoint": {
			"kafka: {sasl: {mechanism: OAUTHBEARER, token_url: 'https://login/token'}}",
			[]string{dsn},
			[]string{"kafka.sasl.client_id: is required with kafka.sasl.token_url", "kafka.sasl.client_secret: is required with kafka.sasl.token_url"},
		},
		"an endpoint without its address": {
			"kafka: {sasl: {mechanism: OAUTHBEARER, client_id: relay}}",
			[]string{dsn},
			[]string{"kafka.sasl.token_url: is required with client_id, client_secret, scope and token_ca_file"},
		},
		"an endpoint and a token": {
			"kafka: {sasl: {mechanism: OAUTHBEARER, token: t, token_url: 'login/token', client_id: relay}}",
			[]string{dsn, "TIDEMARK_KAFKA_SASL_CLIENT_SECRET=hunter2"},
			[]string{
				"config.yaml:1: kafka.sasl.token_url: and kafka.sasl.token are both given; keep one of them",
			},
		},
		"no endpoint": {
			"kafka: {sasl: {mechanism: OAUTHBEARER, token_url: 'login/token', client_id: relay}}",
			[]string{dsn, "TIDEMARK_KAFKA_SASL_CLIENT_SECRET=hunter2"},
			[]string{"config.yaml:1: kafka.sasl.token_url: is no URL such as https://login.example/oauth2/token"},
		},
		"a password in the endpoint's address": {
			"kafka: {sasl: {mechanism: OAUTHBEARER, token_url: 'https://relay:hunter2@login/token', client_id: relay}}",
			[]string{dsn, "TIDEMARK_KAFKA_SASL_CLIENT_SECRET=hunter2"},
			[]string{"config.yaml:1: kafka.sasl.token_url: has a user in it; kafka.sasl.client_id and client_secret are for that"},
		},
		"extensions without a login": {
			"kafka: {sasl: {extensions: {logicalCluster: lkc-1}}}",
			[]string{dsn},
			[]string{"kafka.sasl.mechanism: is empty, but other keys of kafka.sasl are set; set it, or remove them"},
		},
		"no buffer":         {"kafka: {max_buffered_bytes: 0}", []string{dsn}, []string{"config.yaml:1: kafka.max_buffered_bytes: must be more than 0"}},
		"no name":           {"source: {publication: ''}", []string{dsn}, []string{`config.yaml:1: source.publication: "" is no name; Postgres wants 1 to 63 bytes`}},
		"one problem a key": {"source: {dsn: [a]}", nil, []string{"config.yaml:1: source.dsn: must be text, not a list"}},
		"half of a prune":   {"prune: {older_than: 24h}", []string{dsn}, []string{"config.yaml:1: prune.older_than: and prune.interval go together: set both or neither"}},
		"verify all day":    {"reconcile: {interval: 5ms}", []string{dsn}, []string{"config.yaml:1: reconcile.interval: 5ms must be at least 1s, or 0 for never"}},
		"no interval":       {"checkpoint: {interval: 0s}", []string{dsn}, []string{"config.yaml:1: checkpoint.interval: 0s must be more than 0"}},
		"blank in a broker": {"kafka: {brokers: ['a b', '']}", []string{dsn}, []string{`config.yaml:1: kafka.brokers[0]: "a b" is not host:port`, `config.yaml:1: kafka.brokers[1]: "" is not host:port`}},
		"long names": {
			"source: {publication: " + long(64) + "}\ndelivery: {dead_letter_topic: " + long(250) + "}",
			[]string{dsn},
			[]string{
				`config.yaml:1: source.publication: "` + long(64) + `" is no name; Postgres wants 1 to 63 bytes`,
				`config.yaml:2: delivery.dead_letter_topic: "` + long(250) + `" is no topic name; Kafka wants 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'`,
			},
		},
		"blank dsn":       {"source: {dsn: ' '}", nil, []string{"config.yaml:1: source.dsn: is required; set it in config.yaml or as TIDEMARK_SOURCE_DSN, such as postgres://user:password@host:5432/database"}},
		"no topic name":   {"delivery: {dead_letter_topic: ..}", []string{dsn}, []string{`config.yaml:1: delivery.dead_letter_topic: ".." is no topic name; Kafka wants 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'`}},
		"only choice":     {"delivery: {mode: twice}", []string{dsn}, []string{`config.yaml:1: delivery.mode: "twice" is none of at_least_once, exactly_once`}},
		"no id":           {"outbox: [{table: a.b, columns: {id: ''}}]", []string{dsn}, []string{"config.yaml:1: outbox[0].columns.id: is required; which column holds it?"}},
		"no prefix":       {"messages: [{preset: debezium}]", []string{dsn}, []string{"messages[0].prefix: is required, such as outbox: the second argument of pg_logical_emit_message"}},
		"prefix twice":    {"messages: [{prefix: a}, {prefix: a}]", []string{dsn}, []string{`config.yaml:1: messages[1].prefix: "a" is messages[0] already`}},
		"loose messages":  {"messages: [{prefix: a, non_transactional: any, on_null: x}]", []string{dsn}, []string{`config.yaml:1: messages[0].non_transactional: "any" is none of poison, publish, skip`, `config.yaml:1: messages[0].on_null: "x" is none of tombstone, empty, poison`}},
		"no event source": {"outbox: []", []string{dsn}, []string{"config.yaml:1: outbox: is empty; name at least one table, such as public.outbox, or a prefix under messages"}},
		"names with dots": {"outbox: [{table: a.b.c}]", []string{dsn}, []string{`config.yaml:1: outbox[0].table: "a.b.c" is not schema.name`}},
		"no key":          {"? [a]\n: b", []string{dsn}, []string{"config.yaml:1: a key must be text"}},
		"lists for scalars": {
			"source: {create: [], status_interval: [], wal_budget: {}}\nkafka: {create_topics: {partitions: []}}",
			[]string{dsn},
			[]string{
				"config.yaml:1: source.create: must be true or false, not a list",
				"config.yaml:1: source.status_interval: must be a duration such as 200ms, not a list",
				"config.yaml:1: source.wal_budget: must be a size such as 32MiB, not a section with keys of its own",
				"config.yaml:2: kafka.create_topics.partitions: must be a number, not a list",
			},
		},
		"listen on a named port": {"http: {listen: 'a:http'}", []string{dsn}, []string{`config.yaml:1: http.listen: "a:http" is not host:port such as 127.0.0.1:8642 or :8642; "" turns it off`}},
		"listen":                 {"http: {listen: 8642}", []string{dsn}, []string{`config.yaml:1: http.listen: "8642" is not host:port such as 127.0.0.1:8642 or :8642; "" turns it off`}},
		"dead letter to":         {"delivery: {on_poison: dead_letter, dead_letter_topic: ''}", []string{dsn}, []string{"config.yaml:1: delivery.dead_letter_topic: is required with delivery.on_poison: dead_letter"}},
		"no checkpoint topic":    {"checkpoint: {store: kafka, topic: ''}", []string{dsn}, []string{"config.yaml:1: checkpoint.topic: is required with checkpoint.store: kafka"}},
		"no topic at all":        {"checkpoint: {topic: a b}", []string{dsn}, []string{`config.yaml:1: checkpoint.topic: "a b" is no topic name; Kafka wants 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'`}},
		"no path":                {"checkpoint: {path: ''}", []string{dsn}, []string{"config.yaml:1: checkpoint.path: is required with checkpoint.store: file"}},
		"password that YAML takes for an alias": {
			"kafka: {sasl: {password: *hunter2 }}",
			[]string{dsn},
			[]string{"config.yaml: not YAML: a value that begins with * must be in quotes"},
		},
		"password that YAML takes for an anchor": {
			"http:\n  token: &hunter2",
			[]string{dsn},
			[]string{"config.yaml:2: http.token: a value that begins with & must be in quotes"},
		},
		"password that YAML takes for a tag": {
			"http:\n  token: !hunter2",
			[]string{dsn},
			[]string{"config.yaml:2: http.token: a value that begins with ! must be in quotes"},
		},

		"unknown variable":       {"", []string{dsn, "TIDEMARK_SOURCE_SLOTT=hunter2"}, []string{"TIDEMARK_SOURCE_SLOTT: unknown variable; the nearest known one is TIDEMARK_SOURCE_SLOT"}},
		"variable with no place": {"", []string{dsn, "TIDEMARK_DSN=hunter2"}, []string{"TIDEMARK_DSN: unknown variable; the nearest known one is TIDEMARK_SOURCE_DSN"}},
		"doubled underscore":     {"", []string{dsn, "TIDEMARK__SOURCE_DSN=hunter2"}, []string{"TIDEMARK__SOURCE_DSN: unknown variable; the nearest known one is TIDEMARK_SOURCE_DSN"}},
		"missing underscore":     {"", []string{dsn, "TIDEMARK_SOURCEDSN=hunter2"}, []string{"TIDEMARK_SOURCEDSN: unknown variable; the nearest known one is TIDEMARK_SOURCE_DSN"}},
		"only the prefix":        {"", []string{dsn, "TIDEMARK_="}, []string{"TIDEMARK_: unknown variable; the nearest known one is TIDEMARK_OUTBOX_0_COLUMNS_ID"}},
		"variable for a section": {"", []string{dsn, "TIDEMARK_KAFKA=a"}, []string{"TIDEMARK_KAFKA: kafka: is no single value; set it in the file"}},
		"variable for a map":     {"", []string{dsn, "TIDEMARK_KAFKA_OPTIONS=a"}, []string{"TIDEMARK_KAFKA_OPTIONS: kafka.options: is no single value; set it in the file"}},
		"wrong value":            {"", []string{dsn, "TIDEMARK_CHECKPOINT_INTERVAL=soon"}, []string{`TIDEMARK_CHECKPOINT_INTERVAL: checkpoint.interval: "soon" is not a duration such as 200ms, 5s or 1m30s`}},
		"wrong enum":             {"", []string{dsn, "TIDEMARK_LOG_LEVEL=verbose"}, []string{`TIDEMARK_LOG_LEVEL: log.level: "verbose" is none of trace, debug, info, warn, error`}},
		"gap in a list":          {"", []string{dsn, "TIDEMARK_OUTBOX_2_TABLE=a.b"}, []string{"TIDEMARK_OUTBOX_2_TABLE: outbox[2].table: there is no entry before it; the entries are counted from 0, without a gap"}},
		"huge index":             {"", []string{dsn, "TIDEMARK_OUTBOX_999999999_TABLE=a.b"}, []string{"TIDEMARK_OUTBOX_999999999_TABLE: outbox[999999999].table: there is no entry before it; the entries are counted from 0, without a gap"}},
		"padded index":           {"", []string{dsn, "TIDEMARK_OUTBOX_00_TABLE=a.b"}, []string{"TIDEMARK_OUTBOX_00_TABLE: unknown variable; the nearest known one is TIDEMARK_OUTBOX_0_TABLE"}},
		"no UTF-8":               {"", []string{dsn, "TIDEMARK_SOURCE_PUBLICATION=\xff"}, []string{"TIDEMARK_SOURCE_PUBLICATION: source.publication: is not UTF-8 text"}},
		"port of one's own":      {"", []string{dsn, "TIDEMARK_HTTP_PORT=8642"}, []string{"TIDEMARK_HTTP_PORT: unknown variable; the nearest known one is TIDEMARK_HTTP_TOKEN"}},

		"all at once": {
			"source:\n  slot: A\n  slto: b\n  create: perhaps\nkafka:\n  compression: zip\n  max_buffered_bytes: 1.5GB\noutbox:\n  - table: x\n    on_null: nothing\n",
			[]string{"TIDEMARK_LOG_LEVEL=loud", "TIDEMARK_LOGLEVEL=info"},
			[]string{
				"config.yaml:3: source.slto: unknown key; the nearest known key is source.slot",
				`config.yaml:4: source.create: "perhaps" is neither true nor false`,
				`config.yaml:7: kafka.max_buffered_bytes: "1.5GB" is not a size in bytes such as 32MiB, 1GB or 65536`,
				"TIDEMARK_LOGLEVEL: unknown variable; the nearest known one is TIDEMARK_LOG_LEVEL",
				"source.dsn: is required; set it in config.yaml or as TIDEMARK_SOURCE_DSN, such as postgres://user:password@host:5432/database",
				`config.yaml:2: source.slot: "A" is no slot name; Postgres wants 1 to 63 of a-z, 0-9 and _`,
				`config.yaml:9: outbox[0].table: "x" has no schema; write public.x, if that is where it is`,
				`config.yaml:10: outbox[0].on_null: "nothing" is none of tombstone, empty, poison`,
				`config.yaml:6: kafka.compression: "zip" is none of none, gzip, snappy, lz4, zstd; the nearest is gzip`,
				`TIDEMARK_LOG_LEVEL: log.level: "loud" is none of trace, debug, info, warn, error`,
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := load(t, test.file, test.environ...)
			if c != nil && err != nil {
				t.Error("a configuration beside an error")
			}
			got := problemsOf(t, err)
			if !slices.Equal(got, test.want) {
				t.Errorf("got:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(test.want, "\n  "))
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Error("the error shows a secret")
			}
		})
	}
}

// TestAccepted stands at the edges of what the checks allow.
func TestAccepted(t *testing.T) {
	for _, text := range []string{
		"source: {slot: " + long(63) + ", publication: " + long(63) + ", status_interval: 1ns}",
		"source: {dsn: service=shop}",
		"kafka: {brokers: [kafka, '[::1]:9092', a:1], max_buffered_bytes: 1, create_topics: {partitions: 1, replication_factor: 1}}",
		"kafka: {tls: {enabled: true, cert_file: c, key_file: k}, sasl: {mechanism: OAUTHBEARER, token: t}}",
		"delivery: {on_poison: dead_letter, dead_letter_topic: a}",
		"delivery: {mode: exactly_once}\ncheckpoint: {store: kafka}",
		"delivery: {on_poison: park, dead_letter_topic: ''}",
		"delivery: {dead_letter_topic: " + long(249) + "}",
		"http: {listen: ':0'}",
		"outbox: []\nmessages: [{prefix: a}]",
		"outbox: [{table: 'Shop.Out box', topic: '{a b}', key: ''}]",
	} {
		if _, err := load(t, text, dsn); err != nil {
			t.Errorf("%s\n%v", text, err)
		}
	}
}

func long(n int) string { return strings.Repeat("a", n) }

func TestSizes(t *testing.T) {
	tests := map[string]int64{
		"0": 0, "1": 1, "65536": 65536, "7B": 7, "1kB": 1000, "1KB": 1000, "2KiB": 2048, "2kib": 2048, "32MiB": 32 << 20, "32 MiB": 32 << 20,
		"3MB": 3e6, "1GB": 1e9, "1GiB": 1 << 30, "5TB": 5e12, "8TiB": 8 << 40, "9223372036854775807": 1<<63 - 1,
		"": -1, "MiB": -1, "-1": -1, "-1MiB": -1, "1.5GiB": -1, "1G": -1, "1 2": -1, "0x10": -1, "9223372036854775808": -1,
		"9000000000GiB": -1, "8388608TiB": -1, "٣": -1,
	}
	for text, want := range tests {
		got, err := parseSize(text)
		if want < 0 != (err != nil) || err == nil && got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
		if err == nil {
			if again, err := parseSize(formatSize(got)); err != nil || again != got {
				t.Errorf("%d is written %s and read as %d, %v", got, formatSize(got), again, err)
			}
		}
	}
	if s := formatSize(32 << 20); s != "32MiB" {
		t.Errorf("32 MiB is written %s", s)
	}
}

func TestDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"slot", "slot", 0}, {"", "abc", 3}, {"dns", "dsn", 1}, {"slott", "slot", 1}, {"kitten", "sitting", 3}, {"ab", "cd", 2},
	}
	for _, test := range tests {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
		if got := distance(test.b, test.a); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.b, test.a, got, test.want)
		}
	}
}
