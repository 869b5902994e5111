package cli

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack/stacktest"
)

// asyncapiConfig has a table of each preset, one that leads anywhere, and messages.
const asyncapiConfig = `
outbox:
  - table: public.outbox
  - {table: public.other, preset: custom, topic: "fixed", columns: {id: id, payload: body, headers: heads}}
  - {table: public.anywhere, preset: custom, columns: {id: id, payload: body, topic: dest, key: k}}
messages:
  - prefix: app
`

func TestAsyncAPI(t *testing.T) {
	dsn, brokers := stacktest.Database(t), stacktest.FakeKafka(t)
	db, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background()) //nolint:errcheck // the test is over
	for _, sql := range []string{
		"create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text, aggregateid text, type text, payload jsonb)",
		"create table other (id int primary key, body bytea, heads jsonb)",
		"create table anywhere (id int primary key, body json, dest text, k text)",
		`insert into outbox (aggregatetype, aggregateid, type, payload) values ('order', 'SECRET', 'SECRET', '{"total": 1, "who": "SECRET"}'), ('order', '', '', '{"total": 2.5}'), ('bill', '', '', '[true]'), ('bill', '', '', null)`,
		`insert into other values (1, 'SECRET', '{"x": "SECRET"}')`,
		`insert into anywhere values (1, '{"a": 1}', 'there', 'SECRET'), (2, '{"b": 1}', 'not-there', 'k')`,
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	policy := "compact"
	created, err := kadm.NewClient(client).CreateTopics(t.Context(), 7, 1, map[string]*string{"cleanup.policy": &policy}, "outbox.event.order", "fixed", "there", "of-nobody", "tidemark.dead-letter")
	if err == nil {
		err = created.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(asyncapiConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{"TIDEMARK_SOURCE_DSN=" + dsn, "TIDEMARK_KAFKA_BROKERS=" + strings.Join(brokers, ",")}

	text := asyncapiText(t, []string{"asyncapi", "--json", "--config", file}, environ)
	var document struct {
		Channels map[string]struct {
			Address  string
			Messages map[string]any
			Bindings struct{ Kafka map[string]any }
		}
		Components struct {
			Messages map[string]struct {
				ContentType string
				Payload     map[string]any
				Headers     struct{ Required []string }
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for _, c := range document.Channels {
		addresses = append(addresses, c.Address)
	}
	for _, want := range []string{"outbox.event.{aggregatetype}", "outbox.event.order", "fixed", "{dest}", "there"} {
		if !strings.Contains(" "+strings.Join(addresses, " ")+" ", " "+want+" ") {
			t.Errorf("no channel %s: %q", want, addresses)
		}
	}
	if len(addresses) != 5 || len(document.Channels["outbox.event.order"].Messages) != 2 { // the messages lead where the first table does
		t.Errorf("the channels are %q", addresses)
	}
	if strings.Contains(text, "SECRET") || strings.Contains(text, "of-nobody") || strings.Contains(text, "tidemark.dead-letter") {
		t.Errorf("the document has what it should not:\n%s", text)
	}
	order := document.Channels["outbox.event.order"].Bindings.Kafka
	if order["partitions"] != 7.0 || order["replicas"] != 1.0 {
		t.Errorf("the bindings are %v", order)
	}
	message := document.Components.Messages["outbox.event.order"]
	if message.ContentType != "application/json" || message.Payload["type"] != "object" || len(message.Headers.Required) != 3 {
		t.Errorf("the message is %+v", message)
	}
	if fixed := document.Components.Messages["fixed"]; fixed.ContentType != "text/plain" {
		t.Errorf("the message is %+v", fixed)
	}

	offline := asyncapiText(t, []string{"asyncapi", "--json", "--offline", "--config", file}, []string{"TIDEMARK_SOURCE_DSN=postgres://nowhere.invalid/app", "TIDEMARK_KAFKA_BROKERS=nowhere.invalid:1"})
	if !strings.Contains(offline, "neither Postgres nor Kafka was asked") || !strings.Contains(offline, "outbox.event.{aggregatetype}") || strings.Contains(offline, "outbox.event.order") {
		t.Errorf("offline:\n%s", offline)
	}
}

// asyncapiText runs the command and holds what it prints against the official schema.
func asyncapiText(t *testing.T, args, environ []string) string {
	t.Helper()
	stdout, stderr, status := tidemark(t, args, environ...)
	if status != 0 {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	file, err := os.Open("../asyncapi/testdata/asyncapi-3.0.0.json")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // it was read
	official, err := jsonschema.UnmarshalJSON(file)
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	const id = "http://asyncapi.com/definitions/3.0.0/asyncapi.json"
	if err := c.AddResource(id, official); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile(id)
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(stdout))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(value); err != nil {
		t.Errorf("%v\n%s", err, stdout)
	}
	return stdout
}
