package tracing

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/tidemark/tidemark/decode"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	inTrace  = "0af7651916cd43dd8448eb211c80319c"
	parent   = "b7ad6b7169203331"
	sampled1 = "00-" + inTrace + "-" + parent + "-01"
)

// receiver takes spans as a collector does.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*collector.ExportTraceServiceRequest
	status   int
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{status: http.StatusOK}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		var spans collector.ExportTraceServiceRequest
		if err != nil || request.URL.Path != "/v1/traces" || proto.Unmarshal(body, &spans) != nil {
			t.Errorf("%s: %v, no spans", request.URL, err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.requests = append(r.requests, &spans)
		w.WriteHeader(r.status)
	}))
	t.Cleanup(r.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.URL)
	return r
}

func (r *receiver) answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

func (r *receiver) spans() (out []*otlp.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, request := range r.requests {
		for _, resource := range request.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				out = append(out, scope.Spans...)
			}
		}
	}
	return out
}

// tracer returns one, with what it logs and counts.
func tracer(t *testing.T) (*Tracer, *bytes.Buffer, *prometheus.Registry) {
	t.Helper()
	log, registry := &bytes.Buffer{}, prometheus.NewRegistry()
	tr, err := Open(t.Context(), Options{Version: "v1", Log: zerolog.New(zerolog.SyncWriter(log)), Metrics: registry})
	if err != nil {
		t.Fatal(err)
	}
	return tr, log, registry
}

func event(traceparent string) *decode.Event {
	ev := &decode.Event{
		ID: "17", Table: "public.outbox", Topic: "orders", Value: []byte("12345"), Position: decode.Position{Commit: 0x16B3748, Index: 2},
		CommitTime: time.Now().Add(-time.Second), Headers: []decode.Header{{Key: "id", Value: []byte("17")}},
	}
	if traceparent != "" {
		ev.Headers = append(ev.Headers, decode.Header{Key: "traceparent", Value: []byte(traceparent)}, decode.Header{Key: "tracestate", Value: []byte("vendor=1")})
	}
	return ev
}

func TestASpanIsAChildOfTheRowsTraceAndSaysWhereTheRecordIs(t *testing.T) {
	r := newReceiver(t)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=shop,service.name=relay-of-shop")
	tr, _, registry := tracer(t)
	ev := event(sampled1)
	tr.Published(ev, 3, 42)
	tr.Close()
	spans := r.spans()
	if len(spans) != 1 {
		t.Fatalf("%d spans", len(spans))
	}
	s := spans[0]
	if s.Name != "send orders" || s.Kind != otlp.Span_SPAN_KIND_PRODUCER || hex(s.TraceId) != inTrace || hex(s.ParentSpanId) != parent || s.TraceState != "vendor=1" || hex(s.SpanId) == parent {
		t.Errorf("not a child of the row's span: %v", s)
	}
	if s.StartTimeUnixNano != uint64(ev.CommitTime.UnixNano()) || s.EndTimeUnixNano <= s.StartTimeUnixNano { //nolint:gosec // after 1970
		t.Errorf("not from the commit to the acknowledgement: %d to %d, committed %d", s.StartTimeUnixNano, s.EndTimeUnixNano, ev.CommitTime.UnixNano())
	}
	got := map[string]string{}
	for _, a := range s.Attributes {
		got[a.Key] = strings.Trim(strings.SplitN(a.Value.String(), ":", 2)[1], `"`)
	}
	for key, want := range map[string]string{
		"messaging.system": "kafka", "messaging.operation.type": "send", "messaging.operation.name": "send", "messaging.destination.name": "orders",
		"messaging.destination.partition.id": "3", "messaging.kafka.offset": "42", "messaging.message.id": "17", "messaging.message.body.size": "5",
		"tidemark.table": "public.outbox", "tidemark.position": "00000000016b3748-00000002",
	} {
		if got[key] != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
	about := r.requests[0].ResourceSpans[0].Resource.String()
	for _, want := range []string{"relay-of-shop", "deployment.environment.name", "service.version"} {
		if !strings.Contains(about, want) {
			t.Errorf("the resource lacks %s: %s", want, about)
		}
	}
	if n := testutil.ToFloat64(tr.out.sent); n != 1 {
		t.Errorf("%v spans are counted", n)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

func hex(b []byte) string {
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 2*len(b))
	for _, c := range b {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return string(out)
}

func TestWhichEventsGetASpan(t *testing.T) {
	tests := map[string]struct {
		traceparent, sampler string
		spans                int
	}{
		"sampled":                       {sampled1, "", 1},
		"sampled, random trace id":      {"00-" + inTrace + "-" + parent + "-03", "", 1},
		"sampled, a later version":      {"cc-" + inTrace + "-" + parent + "-01-more", "", 1},
		"not sampled":                   {"00-" + inTrace + "-" + parent + "-00", "", 0},
		"none":                          {"", "", 0},
		"too short":                     {"00-" + inTrace + "-" + parent + "-0", "", 0},
		"too long":                      {sampled1 + "1", "", 0},
		"no hexadecimals":               {"00-" + strings.Repeat("x", 32) + "-" + parent + "-01", "", 0},
		"capitals":                      {"00-" + strings.ToUpper(inTrace) + "-" + parent + "-01", "", 0},
		"no trace":                      {"00-" + strings.Repeat("0", 32) + "-" + parent + "-01", "", 0},
		"version ff":                    {"ff-" + inTrace + "-" + parent + "-01", "", 0},
		"something else":                {strings.Repeat("1", 55), "", 0},
		"everything":                    {"", "always_on", 1},
		"everything, malformed":         {"00-1-2-01", "always_on", 1},
		"nothing":                       {sampled1, "always_off", 0},
		"not sampled, the parent's way": {"00-" + inTrace + "-" + parent + "-00", "parentbased_always_on", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t)
			t.Setenv("OTEL_TRACES_SAMPLER", test.sampler)
			tr, log, _ := tracer(t)
			tr.Published(event(test.traceparent), 0, 0)
			tr.Close()
			if n := len(r.spans()); n != test.spans {
				t.Errorf("%d spans, want %d", n, test.spans)
			}
			if strings.Contains(log.String(), "warn") {
				t.Error(log)
			}
		})
	}
}

// A receiver that hangs holds up nobody: spans are dropped and counted, and the end comes within its limit.
func TestAReceiverThatHangsHoldsUpNobody(t *testing.T) {
	release := make(chan struct{})
	asked := make(chan struct{}, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		asked <- struct{}{}
		select {
		case <-release:
		case <-request.Context().Done():
		}
	}))
	defer server.Close()
	defer close(release)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
	tr, log, _ := tracer(t)
	tr.patience = 50 * time.Millisecond
	const events = 10_000
	for range 10 {
		tr.Published(event(sampled1), 0, 0)
	}
	<-asked
	for range events {
		tr.Published(event(sampled1), 0, 0)
	}
	if n := testutil.ToFloat64(tr.crowded); n < events-100 {
		t.Errorf("%v spans were dropped for want of room, and there is room for 100 of %d", n, events)
	}
	tr.Close()
	if dropped := testutil.ToFloat64(tr.crowded) + testutil.ToFloat64(tr.out.refused); dropped != events+10 {
		t.Errorf("%v spans are counted as dropped, want all %d", dropped, events+10)
	}
	if n := strings.Count(log.String(), `"warn"`); n != 1 {
		t.Errorf("%d warnings:\n%s", n, log)
	}
}

// A receiver that refuses is one warning, however long it lasts, and one more line when it takes spans again.
func TestAReceiverThatRefusesIsOneWarning(t *testing.T) {
	r := newReceiver(t)
	r.answer(http.StatusBadRequest)
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
	tr, log, _ := tracer(t)
	for n := range 20 {
		tr.Published(event(sampled1), 0, int64(n))
	}
	eventually(t, func() bool { return testutil.ToFloat64(tr.out.refused) == 20 })
	r.answer(http.StatusOK)
	tr.Published(event(sampled1), 0, 20)
	eventually(t, func() bool { return testutil.ToFloat64(tr.out.sent) == 1 })
	r.answer(http.StatusBadRequest)
	tr.Published(event(sampled1), 0, 21)
	tr.Close()
	if text := log.String(); strings.Count(text, `"warn"`) != 2 || strings.Count(text, "recovered") != 1 || !strings.Contains(text, r.URL) {
		t.Errorf("logged:\n%s", text)
	}
}

func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) { //nolint:forbidigo // a pause between two looks
		if time.Now().After(deadline) {
			t.Fatal("not within a minute")
		}
	}
}

func TestTheEnvironment(t *testing.T) {
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT"
	tests := map[string]struct {
		environ map[string]string
		want    string // the endpoint; "" is off
		wrong   string // a part of the error
	}{
		"nothing":               {nil, "", ""},
		"an endpoint":           {map[string]string{endpoint: "https://collector:4318/"}, "https://collector:4318/v1/traces", ""},
		"an endpoint of traces": {map[string]string{endpoint: "http://a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/x"}, "http://b/x", ""},
		"an exporter":           {map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4318/v1/traces", ""},
		"none":                  {map[string]string{endpoint: "http://a", "OTEL_TRACES_EXPORTER": "none"}, "", ""},
		"disabled":              {map[string]string{endpoint: "http://a", "OTEL_SDK_DISABLED": "true"}, "", ""},
		"another exporter":      {map[string]string{"OTEL_TRACES_EXPORTER": "zipkin"}, "", "none of otlp, none"},
		"grpc":                  {map[string]string{endpoint: "http://a:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "", "4318"},
		"no URL":                {map[string]string{endpoint: "collector:4318"}, "", endpoint},
		"no URL, a password":    {map[string]string{endpoint: "http://u:hunter2@a b"}, "", endpoint},
		"no number":             {map[string]string{endpoint: "http://a", "OTEL_BSP_SCHEDULE_DELAY": "5s"}, "", "OTEL_BSP_SCHEDULE_DELAY"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for key, value := range test.environ {
				t.Setenv(key, value)
			}
			env, err := readEnvironment()
			switch {
			case test.wrong != "":
				if !IsInvalid(err) || !strings.Contains(err.Error(), test.wrong) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%v", err)
				}
			case err != nil:
				t.Error(err)
			case env.on != (test.want != "") || (env.on && env.endpoint.String() != test.want):
				t.Errorf("on %t, %s", env.on, env.endpoint)
			}
		})
	}
}

// What an event costs on the producer's goroutine: nothing where tracing is off, since relay does not call it then.
func BenchmarkPublished(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) { _, _ = io.Copy(io.Discard, request.Body) }))
	defer server.Close()
	b.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	for name, traceparent := range map[string]string{"none": "", "unsampled": "00-" + inTrace + "-" + parent + "-00", "sampled": sampled1} {
		b.Run(name, func(b *testing.B) {
			tr, err := Open(b.Context(), Options{Log: zerolog.Nop(), Metrics: prometheus.NewRegistry()})
			if err != nil {
				b.Fatal(err)
			}
			defer tr.Close()
			ev := event(traceparent)
			b.ReportAllocs()
			for b.Loop() {
				tr.Published(ev, 0, 0)
			}
		})
	}
}
