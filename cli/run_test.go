package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

// process is a command that runs as the process would, until stop.
type process struct {
	t       *testing.T
	cancel  context.CancelFunc
	out     screen
	err     screen
	status  chan int
	environ []string
}

// screen is what a command has printed so far.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func launch(t *testing.T, args []string, environ ...string) *process {
	t.Helper()
	defaults, err := os.ReadFile("../config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{t: t, cancel: cancel, status: make(chan int, 1), environ: environ}
	go func() { p.status <- Main(ctx, defaults, args, &p.out, &p.err, environ) }()
	t.Cleanup(func() { p.stop() })
	return p
}

// stop ends it as a signal does, and returns the exit status.
func (p *process) stop() int {
	p.cancel()
	status := <-p.status
	p.status <- status
	return status
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !is(); time.Sleep(20 * time.Millisecond) { //nolint:forbidigo // a pause between two looks
		if time.Now().After(deadline) {
			t.Fatalf("not within two minutes: %s", what)
		}
	}
}

// working is a relay at work, as `tidemark run` runs it, on a database of its own and a Kafka in the process.
type working struct {
	*process
	db  *pgx.Conn
	url string
}

// startRun starts one; environ adds to the configuration, or changes it.
func startRun(t *testing.T, environ ...string) *working {
	t.Helper()
	dsn := stacktest.Database(t)
	db, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	w := &working{db: db}
	w.exec(t, `create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text, aggregateid text, type text, payload jsonb)`)
	environ = append([]string{
		"TIDEMARK_SOURCE_DSN=" + dsn, "TIDEMARK_SOURCE_SLOT=" + db.Config().Database, "TIDEMARK_SOURCE_FAILOVER=false",
		"TIDEMARK_KAFKA_BROKERS=" + strings.Join(stacktest.FakeKafka(t), ","),
		"TIDEMARK_CHECKPOINT_PATH=" + filepath.Join(t.TempDir(), "checkpoint"), "TIDEMARK_HTTP_LISTEN=127.0.0.1:0", "TIDEMARK_LOG_FORMAT=json",
	}, environ...)
	w.process = launch(t, []string{"run"}, environ...)
	eventually(t, "HTTP is served", func() bool {
		for line := range strings.Lines(w.err.String()) {
			var entry struct{ Message, Listen string }
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Message == "HTTP is served" {
				w.url = "http://" + entry.Listen
			}
		}
		return w.url != ""
	})
	eventually(t, "it is ready", func() bool { status, _ := w.get(t, "/readyz"); return status == http.StatusOK })
	return w
}

func (w *working) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := w.db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (w *working) brokers() []string {
	for _, entry := range w.environ {
		if value, ok := strings.CutPrefix(entry, "TIDEMARK_KAFKA_BROKERS="); ok {
			return strings.Split(value, ",")
		}
	}
	return nil
}

func (w *working) get(t *testing.T, path string) (int, string) {
	t.Helper()
	return w.ask(t, http.MethodGet, path, "")
}

func (w *working) ask(t *testing.T, method, path, token string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, w.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // read to its end
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// Every name that the contract promises is there from the start, so that a board has something to show and an alert something to
// look at, whatever has happened.
func TestEveryMetricOfTheContractIsServed(t *testing.T) {
	w := startRun(t, "TIDEMARK_SOURCE_WAL_BUDGET=1GiB")
	w.exec(t, "insert into outbox (aggregatetype, aggregateid, type, payload) values ('order', '1', 'placed', '{}')")
	var text string
	eventually(t, "an event is published", func() bool {
		_, text = w.get(t, "/metrics")
		return strings.Contains(text, `tidemark_events_published_total{table="public.outbox",topic="outbox.event.order"} 1`)
	})
	for _, name := range []string{
		"tidemark_events_published_total{", "tidemark_published_bytes_total{", "tidemark_publish_errors_total", "tidemark_duplicates_suppressed_total ",
		"tidemark_parked_events ", "tidemark_dead_lettered_total ", "tidemark_commit_to_ack_seconds_bucket{", "tidemark_inflight_events ",
		"tidemark_inflight_bytes ", "tidemark_oldest_unacked_seconds ", "tidemark_slot_retained_wal_bytes ", "tidemark_slot_lag_bytes ",
		"tidemark_slot_active ", "tidemark_confirmed_lsn ", "tidemark_leader 1", `tidemark_reconnects_total{side="source"}`, `tidemark_reconnects_total{side="kafka"}`,
		"tidemark_reconcile_missing_events ", "tidemark_pruned_rows_total ", "tidemark_build_info{",
		"go_goroutines ", "process_resident_memory_bytes ", "tidemark_kafka_produce_records_total{", "tidemark_kafka_request_duration_e2e_seconds_bucket{",
	} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("/metrics has no %s", name)
		}
	}
	// deploy/metrics.txt is what the board and the alerts are held against.
	listed, err := os.ReadFile("../deploy/metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, _, _ = strings.Cut(name, "{")
		names[name] = true
	}
	for name := range strings.FieldsSeq(string(listed)) {
		if !names[name] {
			t.Errorf("/metrics has no %s, which deploy/metrics.txt lists", name)
		}
	}
	for name := range names {
		if strings.HasPrefix(name, "tidemark_") && !strings.HasPrefix(name, "tidemark_kafka_") && !slices.Contains(strings.Fields(string(listed)), name) {
			t.Errorf("deploy/metrics.txt does not list %s", name)
		}
	}
	w.keepScrapes(t)
	if status := w.stop(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

//nolint:gochecknoglobals // a flag of the test binary; make scrapes sets it
var scrapes = flag.String("scrapes", "", "write what /metrics serves, before and after some events, into this folder")

// keepScrapes writes what deploy/check feeds the board with, if it is asked for.
func (w *working) keepScrapes(t *testing.T) {
	t.Helper()
	if *scrapes == "" {
		return
	}
	for n := range 2 {
		w.exec(t, `insert into outbox (aggregatetype, aggregateid, type, payload)
			select (array['order', 'payment'])[1 + g % 2], g, 'placed', '{}' from generate_series(1, 500) g`)
		var kept strings.Builder
		eventually(t, "they are published", func() bool {
			kept.Reset()
			_, text := w.get(t, "/metrics")
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, "tidemark_") || strings.HasPrefix(line, "process_") {
					kept.WriteString(line)
				}
			}
			return strings.Contains(text, fmt.Sprintf(`topic="outbox.event.payment"} %d`, 250*(n+1))) && !strings.Contains(text, "tidemark_slot_retained_wal_bytes 0\n")
		})
		if err := os.WriteFile(filepath.Join(*scrapes, fmt.Sprintf("scrape-%d.txt", n+1)), []byte(kept.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A server that goes away is said, and the watch goes on when it is back.
func TestStatusWatchOutlivesTheServer(t *testing.T) {
	w := startRun(t)
	proxy, err := devstack.StartProxy(t.Context(), w.db.PgConn().Conn().RemoteAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	direct := w.environ[0]
	config := w.db.Config()
	environ := append([]string(nil), w.environ...)
	environ[0] = "TIDEMARK_SOURCE_DSN=" + strings.Replace(direct[len("TIDEMARK_SOURCE_DSN="):], hostPort(config), proxy.Addr(), 1)
	environ = append(environ, "TIDEMARK_HTTP_LISTEN="+strings.TrimPrefix(w.url, "http://"))
	p := launch(t, []string{"status", "--watch", "--json", "--interval", "100ms"}, environ...)
	type object struct {
		Slot       string   `json:"slot"`
		SlotState  string   `json:"slot_state"`
		LagSeconds *float64 `json:"lag_seconds"`
		Relay      *struct{ State string }
		Error      string
	}
	seen := 0
	next := func(what string, is func(object) bool) {
		t.Helper()
		eventually(t, what, func() bool {
			lines := strings.Split(p.out.String(), "\n")
			for ; seen < len(lines)-1; seen++ { // the last one is not whole
				var o object
				if err := json.Unmarshal([]byte(lines[seen]), &o); err != nil {
					t.Fatalf("%q: %v", lines[seen], err)
				}
				if is(o) {
					return true
				}
			}
			return false
		})
	}
	streaming := func(o object) bool {
		return o.SlotState == "active" && o.Relay != nil && o.Relay.State == "streaming" && o.LagSeconds != nil
	}
	next("a relay that streams", streaming)
	proxy.Cut()
	next("that the server is away", func(o object) bool { return strings.Contains(o.Error, "connect") })
	if err := proxy.Restore(); err != nil {
		t.Fatal(err)
	}
	next("a relay that streams, again", streaming)
	if status := p.stop(); status != 0 || p.err.String() != "" {
		t.Errorf("exit status %d, %q", status, p.err.String())
	}

	lines := launch(t, []string{"status", "--watch"}, environ...)
	eventually(t, "a line", func() bool { return strings.Contains(lines.out.String(), "slot active, stored ") })
	lines.stop()
	if text := lines.out.String(); strings.Contains(text, "\x1b") || strings.Count(text, "\n") < 1 {
		t.Errorf("not lines: %q", text)
	}

	// What the relay answers is the same type, with the same in it.
	var live, asked map[string]any
	var text string
	eventually(t, "the relay has seen its slot", func() bool {
		_, text = w.get(t, "/api/status")
		return strings.Contains(text, `"slot_state":"active"`)
	})
	stdout, _, _ := tidemark(t, []string{"status", "--json"}, append(environ, direct)...)
	if json.Unmarshal([]byte(text), &live) != nil || json.Unmarshal([]byte(stdout), &asked) != nil {
		t.Fatalf("no JSON: %s %s", text, stdout)
	}
	for _, same := range []string{"slot", "slot_state", "held_by_pid", "timeline", "standby", "failover"} {
		if live[same] != asked[same] {
			t.Errorf("%s: the relay answers %v, status %v", same, live[same], asked[same])
		}
	}
	for name := range asked {
		if _, ok := live[name]; !ok {
			t.Errorf("/api/status has no %s", name)
		}
	}
}

func hostPort(c *pgx.ConnConfig) string {
	return c.Host + ":" + jsonNumber(c.Port)
}

func jsonNumber(n uint16) string {
	text, _ := json.Marshal(n)
	return string(text)
}
