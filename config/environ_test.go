package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEnvironmentWins(t *testing.T) {
	c := mustLoad(t, "source: {slot: file, create: true}\nkafka: {brokers: [file:9092]}\ncheckpoint: {path: file, interval: 1s}",
		"TIDEMARK_SOURCE_SLOT=env",
		"TIDEMARK_SOURCE_CREATE=false",
		"TIDEMARK_SOURCE_FAILOVER=true",
		"TIDEMARK_SOURCE_WAL_BUDGET=2GiB",
		"TIDEMARK_KAFKA_BROKERS=a:9092, b:9092",
		"TIDEMARK_KAFKA_CREATE_TOPICS_REPLICATION_FACTOR=3",
		"TIDEMARK_KAFKA_TLS_ENABLED=1",
		"TIDEMARK_CHECKPOINT_PATH=/var/lib/a=b",
		"TIDEMARK_CHECKPOINT_INTERVAL=2s",
		"TIDEMARK_DELIVERY_RESUME_DEDUPE=false",
		"TIDEMARK_HTTP_LISTEN=",
		"TIDEMARK_HTTP_TOKEN=12345",
	)
	got := []any{
		c.Source.Slot, c.Source.Create, c.Source.Failover, c.Source.WALBudget, c.Kafka.Brokers,
		c.Kafka.CreateTopics.ReplicationFactor, c.Kafka.TLS.Enabled, c.Checkpoint.Path, c.Checkpoint.Interval,
		c.Delivery.ResumeDedupe, c.HTTP.Listen, string(c.HTTP.Token),
	}
	want := []any{
		"env", false, "true", int64(2 << 30),
		[]string{"a:9092", "b:9092"},
		int16(3), true, "/var/lib/a=b", 2 * time.Second,
		false, "", "12345",
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("%d: got %v, want %v", i, got[i], want[i])
		}
	}
}

// TestEveryValueHasItsVariable: no key is out of the environment's reach, and no two share a variable.
func TestEveryValueHasItsVariable(t *testing.T) {
	taken := map[string]string{}
	for _, k := range variables() {
		name := variableOf(k)
		if other, ok := taken[name]; ok {
			t.Errorf("%s and %s are both %s", k.path, other, name)
		}
		taken[name] = k.path
		path, _, ok := resolve(reflect.TypeFor[Config](), strings.TrimPrefix(name, prefix))
		if got := strings.ReplaceAll(dotted(path), "[0]", "[]"); !ok || got != k.path {
			t.Errorf("%s leads to %q, not to %s", name, got, k.path)
		}
	}
	if len(taken) < 50 {
		t.Errorf("only %d variables", len(taken))
	}
}

func TestEnvironmentReachesTheEntriesOfLists(t *testing.T) {
	environ := []string{
		"TIDEMARK_OUTBOX_0_TABLE=shop.orders",
		"TIDEMARK_OUTBOX_0_COLUMNS_KEY=order_id",
		"TIDEMARK_OUTBOX_0_HEADERS_0_NAME=Tenant",
		"TIDEMARK_OUTBOX_0_HEADERS_0_VALUE={tenant}",
		"TIDEMARK_OUTBOX_1_PRESET=custom",
		"TIDEMARK_OUTBOX_1_TABLE=shop.mails",
		"TIDEMARK_OUTBOX_1_TOPIC=mails",
		"TIDEMARK_OUTBOX_1_COLUMNS_ID=id",
		"TIDEMARK_OUTBOX_1_COLUMNS_PAYLOAD=body",
	}
	for i := 2; i <= 10; i++ { // 10 comes after 9, not after 1
		n := string(rune('a' + i))
		environ = append(environ, "TIDEMARK_OUTBOX_"+[]string{"", "", "2", "3", "4", "5", "6", "7", "8", "9", "10"}[i]+"_TABLE=shop."+n)
	}
	c := mustLoad(t, "", environ...)
	if len(c.Outbox) != 11 {
		t.Fatalf("%d tables", len(c.Outbox))
	}
	first, second, last := c.Outbox[0], c.Outbox[1], c.Outbox[10]
	if first.Table != "shop.orders" || first.Preset != "debezium" || first.Key != "{order_id}" ||
		!slices.Equal(first.Headers, []HeaderTemplate{{"Tenant", "{tenant}"}}) {
		t.Errorf("first entry: %+v", first)
	}
	if second.Table != "shop.mails" || second.Topic != "mails" || second.Columns != (Columns{ID: "id", Payload: "body"}) || second.OnNull != "tombstone" {
		t.Errorf("second entry: %+v", second)
	}
	if last.Table != "shop.k" || last.Preset != "debezium" || len(last.Headers) != 0 {
		t.Errorf("last entry: %+v", last)
	}
}

func TestForeignVariablesAreLeftAlone(t *testing.T) {
	c := mustLoad(t, "",
		"TIDEMARK_TEST_KAFKA=1", "TIDEMARK_CACHE=/x", "TIDEMARK_DEMO_RATE=5",
		// What Kubernetes adds for a service named tidemark, and for one named tidemark-metrics.
		"TIDEMARK_SERVICE_HOST=10.0.0.1", "TIDEMARK_SERVICE_PORT=8642", "TIDEMARK_SERVICE_PORT_HTTP=8642",
		"TIDEMARK_PORT=tcp://10.0.0.1:8642", "TIDEMARK_PORT_8642_TCP=tcp://10.0.0.1:8642", "TIDEMARK_PORT_8642_TCP_PROTO=tcp",
		"TIDEMARK_PORT_8642_TCP_PORT=8642", "TIDEMARK_PORT_8642_TCP_ADDR=10.0.0.1",
		"TIDEMARK_METRICS_SERVICE_HOST=10.0.0.1", "TIDEMARK_METRICS_PORT=tcp://10.0.0.1:9",
		"PATH=/bin", "HOME=/", "EMPTY", "=C:=x", "SOURCE_DSN=x", "KAFKA_BROKERS=x",
	)
	if len(c.Warnings) != 0 {
		t.Errorf("warnings: %q", c.Warnings)
	}
}

func TestAWrongPrefixIsNoticed(t *testing.T) {
	tests := map[string]string{
		"TIDEMARKSOURCE_DSN":      "TIDEMARK_SOURCE_DSN",
		"TIDMARK_SOURCE_DSN":      "TIDEMARK_SOURCE_DSN",
		"TIDE_MARK_SOURCE_DSN":    "TIDEMARK_SOURCE_DSN",
		"tidemark_source_dsn":     "TIDEMARK_SOURCE_DSN",
		"TIDEMRAK_KAFKA_BROKERS":  "TIDEMARK_KAFKA_BROKERS",
		"TIDMARK_OUTBOX_12_TABLE": "TIDEMARK_OUTBOX_0_TABLE",
	}
	for given, meant := range tests {
		c := mustLoad(t, "", given+"=hunter2")
		want := []string{"the variable " + given + " is ignored; is " + meant + " meant?"}
		if !slices.Equal(c.Warnings, want) {
			t.Errorf("got %q, want %q", c.Warnings, want)
		}
	}
}
