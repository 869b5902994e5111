package relay

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/tidemark/tidemark/decode"
)

// TestLatenciesAreCountedAsTheLibraryCountsThem: ours is the same histogram, only cheaper.
func TestLatenciesAreCountedAsTheLibraryCountsThem(t *testing.T) {
	t.Parallel()
	theirs := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "theirs", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 20)})
	ours := newAcknowledged()
	committed := time.Now()
	add := func(delay time.Duration) {
		theirs.Observe(delay.Seconds())
		ours.count(&decode.Event{CommitTime: committed}, committed.Add(delay))
	}
	for i := range delayBuckets + 2 {
		limit := firstDelay << i
		add(limit - 1)
		add(limit)
		add(limit + 1)
	}
	add(0)
	add(-time.Second) // the clocks of two hosts
	add(24 * time.Hour)
	for range 1000 {
		add(time.Duration(rand.Int64N(int64(firstDelay << rand.IntN(delayBuckets+2)))))
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(ours, theirs)
	got, want := family(t, registry, "tidemark_commit_to_ack_seconds")[0].GetHistogram(), family(t, registry, "theirs")[0].GetHistogram()
	if got.GetSampleCount() != want.GetSampleCount() || math.Abs(got.GetSampleSum()-want.GetSampleSum()) > 1e-6*want.GetSampleSum() {
		t.Errorf("%d events of %v s, want %d of %v", got.GetSampleCount(), got.GetSampleSum(), want.GetSampleCount(), want.GetSampleSum())
	}
	if len(got.GetBucket()) != len(want.GetBucket()) {
		t.Fatalf("%d buckets, want %d", len(got.GetBucket()), len(want.GetBucket()))
	}
	for i, b := range want.GetBucket() {
		if g := got.GetBucket()[i]; g.GetUpperBound() != b.GetUpperBound() || g.GetCumulativeCount() != b.GetCumulativeCount() {
			t.Errorf("%d within %v s, want %d within %v", g.GetCumulativeCount(), g.GetUpperBound(), b.GetCumulativeCount(), b.GetUpperBound())
		}
	}
}

// TestAScrapeIsOfOneMoment: while events are acknowledged each scrape counts the same events everywhere, and after the last one
// all of them are counted, whatever was acknowledged together.
func TestAScrapeIsOfOneMoment(t *testing.T) {
	t.Parallel()
	const events = 50_000
	registry := prometheus.NewRegistry()
	metrics := NewMetrics(registry)
	committed, done := time.Now(), make(chan struct{})
	go func() { // ends with the events
		defer close(done)
		for i := range events {
			ev := decode.Event{CommitTime: committed, Table: fmt.Sprint("public.outbox", i%2), Topic: fmt.Sprint("topic", i/7%3), Key: []byte("key"), Value: []byte("1234567")}
			metrics.published(&ev, ev.CommitTime.Add(time.Millisecond))
		}
	}()
	look := func() uint64 {
		t.Helper()
		count := family(t, registry, "tidemark_commit_to_ack_seconds")[0].GetHistogram().GetSampleCount()
		routes, delays := metrics.acknowledged.now()
		sum := traffic{}
		for _, traffic := range perTopic(routes) {
			sum.events += traffic.events
			sum.bytes += traffic.bytes
		}
		if sum.events != delays.count || sum.bytes != 10*sum.events || delays.count < count {
			t.Errorf("at one moment there are %d events of %d bytes, and %d latencies, after %d", sum.events, sum.bytes, delays.count, count)
		}
		return sum.events
	}
	for running := true; running && !t.Failed(); {
		select {
		case <-done:
			running = false
		default:
		}
		look()
	}
	<-done
	if n := look(); n != events {
		t.Errorf("%d events are counted, want %d", n, events)
	}
	total := func(name string, labels int) (sum float64) {
		t.Helper()
		for _, m := range family(t, registry, name) {
			if len(m.GetLabel()) != labels {
				t.Errorf("%s has the labels %v", name, m.GetLabel())
			}
			sum += m.GetCounter().GetValue()
		}
		return sum
	}
	if n := total("tidemark_events_published_total", 2); n != events {
		t.Errorf("tidemark_events_published_total is %v, want %d", n, events)
	}
	if n := total("tidemark_published_bytes_total", 1); n != 10*events {
		t.Errorf("tidemark_published_bytes_total is %v, want %d", n, 10*events)
	}
	if n := len(family(t, registry, "tidemark_publish_errors_total")); n != 3 {
		t.Errorf("%d topics have a count of errors, which is 0 so far, want 3", n)
	}
}

// family returns what a registry has of a metric.
func family(t *testing.T, registry *prometheus.Registry, name string) []*dto.Metric {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()
		}
	}
	t.Fatalf("there is no %s", name)
	return nil
}
