package bench_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/bench"
	"github.com/tidemark/tidemark/devstack"
)

// given returns Options for servers that outlive the run, so that what it leaves behind can be seen.
func given(t *testing.T) bench.Options {
	t.Helper()
	postgres, err := devstack.StartPostgres(t.Context(), devstack.PostgresOptions{Progress: func(s string) { t.Log(s) }})
	if err != nil {
		t.Skipf("no Postgres: %v", err)
	}
	kafka, err := devstack.StartFakeKafka(devstack.FakeKafkaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(kafka.Close(), postgres.Close()); err != nil {
			t.Error(err)
		}
	})
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	load := bench.DefaultLoad()
	load.Rows, load.PerTransaction, load.Tables = 2000, 50, 2
	return bench.Options{
		Source: postgres.DSN("postgres"), Brokers: kafka.Brokers(), Load: load, Runs: 2,
		Executable: executable, Version: "test", Progress: func(s string) { t.Log(s) },
	}
}

// left lists what is on the servers and in the temporary directory that was not there before.
func left(t *testing.T, o *bench.Options) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), o.Source)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // the test is over
	rows, _ := conn.Query(t.Context(), `select 'database ' || datname from pg_database where datname like 'tidemark%'
		union all select 'slot ' || slot_name from pg_replication_slots`)
	things, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(o.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	topics, err := kadm.NewClient(client).ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range topics.Names() {
		things = append(things, "topic "+name)
	}
	files, err := filepath.Glob(filepath.Join(os.TempDir(), "*"))
	if err != nil {
		t.Fatal(err)
	}
	return append(things, files...)
}

func TestEverythingIsMeasuredAndNothingIsLeftBehind(t *testing.T) {
	o := given(t)
	o.Rates, o.For, o.Idle = []int{200, 0}, time.Second, 100*time.Millisecond
	// The relay itself, told otherwise, stands for another one.
	o.Beside = `env TIDEMARK_SOURCE_DSN="postgres://$BENCH_USER@$BENCH_HOST:$BENCH_PORT/$BENCH_DATABASE?sslmode=disable" \
		TIDEMARK_SOURCE_SLOT=$BENCH_SLOT TIDEMARK_SOURCE_PUBLICATION=$BENCH_PUBLICATION TIDEMARK_KAFKA_BROKERS=$BENCH_BROKERS \
		TIDEMARK_OUTBOX_0_TABLE=${BENCH_TABLES%,*} TIDEMARK_OUTBOX_0_TOPIC=$BENCH_TOPIC_PREFIX'{aggregatetype}' \
		TIDEMARK_OUTBOX_1_TABLE=${BENCH_TABLES#*,} TIDEMARK_OUTBOX_1_TOPIC=$BENCH_TOPIC_PREFIX'{aggregatetype}' \
		TIDEMARK_CHECKPOINT_PATH=$BENCH_DIR/checkpoint TIDEMARK_HTTP_LISTEN= ` + o.Executable + " run"
	r, err := bench.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	m := r.Cases[0]
	if len(m.Raw) != 2 || len(m.Relay) != 2 || len(m.Beside) != 2 || len(m.Latency) != 2 || m.IdleCPU == nil {
		t.Fatalf("%d and %d and %d drains, %d latencies, idle %v", len(m.Raw), len(m.Relay), len(m.Beside), len(m.Latency), m.IdleCPU)
	}
	for _, d := range append(m.Relay, m.Beside...) {
		if d.Records != 2000 || d.Seconds <= 0 || d.FirstSeconds <= 0 || d.CPUSeconds <= 0 {
			t.Errorf("a drain of 2000 rows: %+v", d)
		}
	}
	if l := m.Latency[0]; l.Rows != 200 || l.P50 <= 0 || l.P50 > l.P99 || l.P99 > l.Max {
		t.Errorf("latencies of 200 rows: %+v", l)
	}
	if m.Raw[0].Bytes < 2000*200 {
		t.Errorf("the raw reader has read %d bytes of 2000 rows with a payload of 200", m.Raw[0].Bytes)
	}
	if things := left(t, &o); len(things) > 0 {
		t.Errorf("left behind: %q", things)
	}

	var text, page strings.Builder
	if err := errors.Join(r.Text(&text), r.HTML(&page)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"raw reader", "tidemark", "beside", "p99.9", "idle"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text has no %q:\n%s", want, &text)
		}
	}
	for _, outside := range []string{"http:", "https:", "<script", "<link", "@import", "url("} {
		if strings.Contains(page.String(), outside) {
			t.Errorf("the page has %q, and is to need nothing else", outside)
		}
	}
}

func TestInterruptedRunLeavesNothingBehind(t *testing.T) {
	for _, at := range []string{"filling", "the raw reader", "tidemark,", "latency"} {
		t.Run(at, func(t *testing.T) {
			o := given(t)
			o.Rates, o.For = []int{100}, time.Minute
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			o.Progress = func(s string) {
				if strings.Contains(s, at) {
					interrupt()
				}
			}
			if _, err := bench.Run(ctx, o); !errors.Is(err, context.Canceled) {
				t.Errorf("the error is %v", err)
			}
			if things := left(t, &o); len(things) > 0 {
				t.Errorf("left behind: %q", things)
			}
		})
	}
}

func TestTLSIsLeftOutWhereTheServersAreGiven(t *testing.T) {
	o := given(t)
	o.Load.TLS = true
	if _, err := bench.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "leave out --source and --brokers") {
		t.Errorf("the error is %v", err)
	}
	plain := o.Load
	plain.TLS, plain.Rows = false, 100
	o.Cases, o.Runs = []bench.Case{{Name: "as it is", Load: plain}, {Name: "TLS on both sides", Load: o.Load}}, 1
	result, err := bench.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Cases) != 1 || result.Cases[0].Name != "as it is" {
		t.Errorf("measured: %+v", result.Cases)
	}
}

func TestServersThatCannotBeUsedAreAnError(t *testing.T) {
	for want, brokers := range map[string]string{"connect to the source": "127.0.0.1:1", "configure the Kafka client": "127.0.0.1:none"} {
		o := bench.Options{
			Source: "postgres://postgres@127.0.0.1:1/postgres", Brokers: []string{brokers}, Load: bench.DefaultLoad(), Runs: 1,
			Progress: func(s string) { t.Log(s) },
		}
		if _, err := bench.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want one that says %q", err, want)
		}
	}
}

func TestRelayThatEndsIsAnErrorWithItsLog(t *testing.T) {
	o := given(t)
	o.Load.Settings = []string{"kafka.compression=brotli"}
	_, err := bench.Run(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "brotli") {
		t.Errorf("the error is %v", err)
	}
	if things := left(t, &o); len(things) > 0 {
		t.Errorf("left behind: %q", things)
	}
}
