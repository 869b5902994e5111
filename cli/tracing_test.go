package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// spanCollector takes spans over OTLP/HTTP.
type spanCollector struct {
	mu    sync.Mutex
	spans []*otlp.Span
}

func (c *spanCollector) ServeHTTP(_ http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	var sent collector.ExportTraceServiceRequest
	if err != nil || proto.Unmarshal(body, &sent) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range sent.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
}

// traced inserts an event whose type, which these tests map to traceparent, is the text.
func (w *working) traced(t *testing.T, traceparent *string) (id string) {
	t.Helper()
	err := w.db.QueryRow(t.Context(), `insert into outbox (aggregatetype, aggregateid, type, payload) values ('order', '1', $1, '{}') returning id::text`, traceparent).Scan(&id)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// read returns the first n records of a topic.
func (w *working) read(t *testing.T, topic string, n int) []*kgo.Record {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.brokers()...), kgo.ConsumeTopics(topic))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var records []*kgo.Record
	for len(records) < n {
		fetches := client.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("%d of %d records of %s: %v", len(records), n, topic, err)
		}
		records = append(records, fetches.Records()...)
	}
	return records
}

// TestASpanForEachSampledEvent: from the table to the collector. The record's own traceparent stays as it was written,
// whatever it is.
func TestASpanForEachSampledEvent(t *testing.T) {
	spans := &spanCollector{}
	server := httptest.NewServer(spans)
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	w := startRun(t, "TIDEMARK_OUTBOX_0_TABLE=public.outbox", "TIDEMARK_OUTBOX_0_COLUMNS_TRACEPARENT=type")
	parents := map[string]*string{} // by id
	sampled := map[string]string{}
	for n := range 30 {
		trace := fmt.Sprintf("%032x-%016x", n+1, n+1)
		text, null := "00-"+trace+"-01", (*string)(nil)
		switch n % 5 {
		case 1:
			text = "00-" + trace + "-00"
		case 2:
			text = "00-" + trace + "-1" // malformed
		case 3:
			text = "no trace at all, and " + strings.Repeat("1", 40)
		case 4:
			parents[w.traced(t, null)] = null
			continue
		}
		id := w.traced(t, &text)
		parents[id] = &text
		if n%5 == 0 {
			sampled[id] = trace
		}
	}
	records := map[string]*kgo.Record{}
	for _, r := range w.read(t, "outbox.event.order", len(parents)) {
		var id string
		var parent *string
		for _, h := range r.Headers {
			switch h.Key {
			case "id":
				id = string(h.Value)
			case "traceparent":
				if h.Value != nil {
					text := string(h.Value)
					parent = &text
				}
			}
		}
		records[id] = r
		if want := parents[id]; (want == nil) != (parent == nil) || (want != nil && *want != *parent) {
			t.Errorf("the traceparent of a record has changed: %v, want %v", parent, want)
		}
	}
	if status := w.stop(); status != 0 { // which sends the last spans
		t.Fatalf("exit status %d: %s", status, w.err.String())
	}
	if !strings.Contains(w.err.String(), server.URL+"/v1/traces") {
		t.Errorf("the log does not say where the spans go:\n%s", w.err.String())
	}
	if len(spans.spans) != len(sampled) {
		t.Errorf("%d spans, want %d", len(spans.spans), len(sampled))
	}
	for _, s := range spans.spans {
		var id, partition string
		offset := int64(-1)
		for _, a := range s.Attributes {
			switch a.Key {
			case "messaging.message.id":
				id = a.Value.GetStringValue()
			case "messaging.destination.partition.id":
				partition = a.Value.GetStringValue()
			case "messaging.kafka.offset":
				offset = a.Value.GetIntValue()
			}
		}
		if trace := fmt.Sprintf("%x-%x", s.TraceId, s.ParentSpanId); trace != sampled[id] {
			t.Errorf("the span of event %s is in trace %s, want %s", id, trace, sampled[id])
		}
		if r := records[id]; r == nil || r.Offset != offset || fmt.Sprint(r.Partition) != partition {
			t.Errorf("the span of event %s says partition %s, offset %d; the record is %+v", id, partition, offset, r)
		}
	}
}

// TestACollectorThatHangsCostsNoEvent: every event arrives, and the relay stops when it is told to.
func TestACollectorThatHangsCostsNoEvent(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		select {
		case <-release:
		case <-request.Context().Done():
		}
	}))
	defer server.Close()
	defer close(release)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	w := startRun(t, "TIDEMARK_OUTBOX_0_TABLE=public.outbox", "TIDEMARK_OUTBOX_0_COLUMNS_TRACEPARENT=type")
	const events = 20_000
	w.exec(t, `insert into outbox (aggregatetype, aggregateid, type, payload)
		select 'order', g, '00-' || md5(g::text) || '-00f067aa0ba902b7-01', '{}' from generate_series(1, $1) g`, events)
	if n := len(w.read(t, "outbox.event.order", events)); n != events {
		t.Errorf("%d records of %d", n, events)
	}
	_, metrics := w.get(t, "/metrics")
	if !strings.Contains(metrics, `tidemark_spans_dropped_total{reason="queue"} 1`) { // more than ten thousand
		t.Errorf("no spans are counted as dropped:\n%s", metrics)
	}
	if status := w.stop(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// A variable that is wrong is told at the start, with exit status 2: nothing is published in silence without its spans.
func TestTracesThatCannotBe(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")
	_, stderr, status := tidemark(t, []string{"run"}, dsn)
	if status != exitUsage || !strings.Contains(stderr, "OTEL_EXPORTER_OTLP_ENDPOINT: is no URL") {
		t.Errorf("exit status %d, %s", status, stderr)
	}
}
