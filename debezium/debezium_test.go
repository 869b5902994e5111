package debezium_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/debezium"
)

const class = "io.debezium.connector.postgresql.PostgresConnector"

// load reads the YAML as tidemark does, with the secrets that are never in it.
func load(tb testing.TB, yaml []byte) (*config.Config, error) {
	tb.Helper()
	defaults, err := os.ReadFile("../config.yaml")
	if err != nil {
		tb.Fatal(err)
	}
	file := filepath.Join(tb.TempDir(), "config.yaml")
	if err := os.WriteFile(file, yaml, 0o600); err != nil {
		tb.Fatal(err)
	}
	var environ []string
	if strings.Contains(string(yaml), "\n  sasl:") {
		environ = append(environ, "TIDEMARK_KAFKA_SASL_PASSWORD=secret")
	}
	return config.Load(defaults, file, environ)
}

func convert(t *testing.T, text string) (*config.Config, *debezium.Result) {
	t.Helper()
	connector, err := debezium.Read([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	result := debezium.Convert(connector)
	c, err := load(t, result.YAML)
	if err != nil {
		t.Fatalf("%v\n%s", err, result.YAML)
	}
	return c, result
}

func TestAConnectorIsCarriedOver(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/connector.json")
	if err != nil {
		t.Fatal(err)
	}
	c, result := convert(t, string(text))
	table := config.Table{
		Table: "sales.outbox", Preset: "debezium", Format: "plain", OnNull: "tombstone",
		Columns: config.Columns{
			ID: "event_id", Key: "customer", Type: "kind", Topic: "aggregate", Payload: "payload", Timestamp: "created_at", Partition: "shard",
		},
		Topic: "shop.{aggregate}.events", Key: "{customer}",
		Headers: []config.HeaderTemplate{{Name: "x-tenant", Value: "{tenant}"}, {Name: "source", Value: "shop {{eu}}"}},
	}
	if len(c.Outbox) != 1 {
		t.Fatalf("%d tables", len(c.Outbox))
	}
	got := c.Outbox[0]
	if got.Table != table.Table || got.Columns != table.Columns || got.Topic != table.Topic || got.Key != table.Key || !slices.Equal(got.Headers, table.Headers) {
		t.Errorf("the table is %+v, want %+v", got, table)
	}
	if dsn := string(c.Source.DSN); dsn != "postgres://debezium@db.example.com:5433/shop?sslmode=verify-full&sslrootcert=%2Fetc%2Fssl%2Fdb%20ca.pem" {
		t.Errorf("source.dsn is %s", dsn)
	}
	if c.Source.Slot != "tidemark" || c.Source.Failover != "true" || c.Source.ExistingRows != "skip" || c.Source.StatusInterval != 5*time.Second {
		t.Errorf("source is %+v", c.Source)
	}
	k := c.Kafka
	if !slices.Equal(k.Brokers, []string{"kafka-1:9093", "kafka-2:9093"}) || k.Compression != "zstd" || k.Options["client.id"] != "outbox" ||
		!k.TLS.Enabled || k.TLS.CAFile != "/etc/ssl/kafka.pem" || k.SASL.Mechanism != "SCRAM-SHA-512" || k.SASL.Username != "outbox" ||
		k.CreateTopics.Partitions != 6 || k.CreateTopics.ReplicationFactor != 3 || k.CreateTopics.Configs["cleanup.policy"] != "compact" {
		t.Errorf("kafka is %+v", k)
	}
	for _, want := range []string{
		"database.password: ", "column.mask.with.12.chars: NOTHING IS MASKED", "my.own.option: this option is not known", "sales.customers goes through no Event Router",
		"version:envelope", "transforms.unwrap.type: ", "value.converter: ", "table.expand.json.payload: ", "errors.tolerance: ", "the password is not copied: set TIDEMARK_KAFKA_SASL_PASSWORD",
	} {
		if !strings.Contains(strings.Join(result.Lost, "\n"), want) {
			t.Errorf("%q is not among what was lost:\n%s", want, strings.Join(result.Lost, "\n"))
		}
	}
	for _, secret := range []string{"s3cret-of-the-database", "s3cret-of-kafka"} {
		if strings.Contains(string(result.YAML)+strings.Join(result.Lost, "")+strings.Join(result.Unneeded, ""), secret) {
			t.Errorf("%s is repeated", secret)
		}
	}
}

// TestTheSameOfEveryForm reads the forms that a connector's configuration comes in.
func TestTheSameOfEveryForm(t *testing.T) {
	t.Parallel()
	bare := `{"connector.class": "` + class + `", "database.dbname": "a:b", "transforms": "o", "transforms.o.type": "io.debezium.transforms.outbox.EventRouter", "tasks.max": 1}`
	_, want := convert(t, bare)
	for name, text := range map[string]string{
		"REST": `{"name": "x", "config": ` + bare + `}`,
		"properties": "# a comment\r\n! another\n\nconnector.class = " + class + "\n  database.dbname:a\\:\\\n     b\ntransforms o\n" +
			`transforms.o.type=io.debezium.transforms.\u006futbox.EventRouter` + "\ntasks.max=1",
		"Debezium Server": "debezium.source.connector.class=" + class + "\ndebezium.source.database.dbname=a:b\ndebezium.transforms=o\n" +
			"debezium.transforms.o.type=io.debezium.transforms.outbox.EventRouter\ndebezium.source.tasks.max=1\n",
	} {
		if _, got := convert(t, text); string(got.YAML) != string(want.YAML) {
			t.Errorf("%s:\n%s\nwant\n%s", name, got.YAML, want.YAML)
		}
	}
}

func TestWhatIsNoConnectorIsRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":     "no keys",
		"{}":   "no keys",
		`{"a"`: "no JSON object",
		`{"connector.class": "` + class + `"} {}`: "something follows",
		"a=b": "no connector.class",
		"connector.class=io.debezium.connector.mysql.MySqlConnector": "tidemark reads Postgres",
		`{"connector.class": "` + class + `", "slot.name": ["a"]}`:   `"slot.name" is no text`,
		"connector.class=" + class + "\nslot.name=\\u12":             "four hex digits",
		"\xff": "not UTF-8",
	} {
		if _, err := debezium.Read([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestTopicsAndKeys(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ options, topic, key, lost string }{
		{"", "outbox.event.{aggregatetype}", "{aggregateid}", ""},
		{"transforms.o.route.topic.replacement=${routedByValue}", "{aggregatetype}", "{aggregateid}", ""},
		{"transforms.o.route.topic.regex=(.*)\ntransforms.o.route.topic.replacement=$1.v1", "{aggregatetype}.v1", "{aggregateid}", ""},
		{"transforms.o.route.topic.replacement=events", "events", "{aggregateid}", ""},
		{"transforms.o.route.topic.regex=(.*)-(.*)\ntransforms.o.route.topic.replacement=$1", "outbox.event.{aggregatetype}", "{aggregateid}", "route.topic.regex"},
		{"transforms.o.route.topic.replacement=no topic", "outbox.event.{aggregatetype}", "{aggregateid}", "route.topic.replacement"},
		{"transforms.o.route.by.field=a$1b", "outbox.event.{a$1b}", "{aggregateid}", ""},
		{"key.converter=org.apache.kafka.connect.json.JsonConverter\nkey.converter.schemas.enable=false", "outbox.event.{aggregatetype}", `"{aggregateid}"`, "key.converter"},
		{"key.converter=io.confluent.connect.avro.AvroConverter", "outbox.event.{aggregatetype}", "{aggregateid}", "key.converter"},
	} {
		c, result := convert(t, "connector.class="+class+"\ntransforms=o\ntransforms.o.type=io.debezium.transforms.outbox.EventRouter\n"+test.options)
		if o := c.Outbox[0]; o.Topic != test.topic || o.Key != test.key {
			t.Errorf("%q: topic %q, key %q, want %q and %q", test.options, o.Topic, o.Key, test.topic, test.key)
		}
		if !strings.Contains(strings.Join(result.Lost, "\n"), test.lost) {
			t.Errorf("%q: %s is not named", test.options, test.lost)
		}
	}
}

// TestEveryOptionOfDebeziumIsKnown has the options of the connector of 3.6.1, as its own ConfigDef lists them.
func TestEveryOptionOfDebeziumIsKnown(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/options-3.6.1.txt")
	if err != nil {
		t.Fatal(err)
	}
	for option := range strings.FieldsSeq(string(text)) {
		c := debezium.Connector{"connector.class": class, "plugin.name": "pgoutput"}
		c[option] = "x"
		if option == "database.port" {
			c[option] = "1"
		}
		result := debezium.Convert(c)
		if yaml := string(result.YAML); strings.Contains(yaml, "not known here") {
			t.Errorf("%s is not known", option)
		} else if !strings.Contains(yaml, option) && !strings.HasPrefix(option, "database.") {
			t.Errorf("%s is not named:\n%s", option, yaml)
		}
	}
}

func FuzzConvert(f *testing.F) {
	text, err := os.ReadFile("testdata/connector.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("connector.class=" + class + "\ntransforms=o\ntransforms.o.type=io.debezium.transforms.outbox.EventRouter\ntable.include.list=a.b,a\\\\.c,é.ü"))
	f.Add([]byte(`{"connector.class": "` + class + `", "database.hostname": "${env:HOST}", "database.user": "a b:@/", "producer.override.client.id": "\u0007 # x\ny: z"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := debezium.Read(text)
		if err != nil {
			return
		}
		result := debezium.Convert(c)
		if _, err := load(t, result.YAML); err != nil {
			t.Errorf("%v\n%s", err, result.YAML)
		}
	})
}
