package relay

import (
	"math/bits"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidemark/tidemark/decode"
)

// acknowledged counts what Kafka has acknowledged, for the three metrics that change with every event. The client library's
// counters and histogram took longer for it than everything else that is done with an acknowledgement: this is a lock that
// nobody else wants but at a scrape, and plain numbers. What is collected is of one moment.
type acknowledged struct {
	events, bytes, commitToAck *prometheus.Desc

	mu      sync.Mutex
	byRoute map[route]*traffic
	route   route    // of the event before: what is acknowledged together is of one topic
	traffic *traffic // its; nil before the first event
	delays  delays   // from commit to acknowledgement
}

type route struct{ table, topic string }

// traffic is how much has gone somewhere. Bytes are those of keys and values.
type traffic struct{ events, bytes uint64 }

func newAcknowledged() *acknowledged {
	return &acknowledged{
		events:      prometheus.NewDesc("tidemark_events_published_total", "Events that Kafka has acknowledged.", []string{"table", "topic"}, nil),
		bytes:       prometheus.NewDesc("tidemark_published_bytes_total", "Bytes of the keys and values that Kafka has acknowledged.", []string{"topic"}, nil),
		commitToAck: prometheus.NewDesc("tidemark_commit_to_ack_seconds", "Time from the commit in Postgres to the acknowledgement by Kafka.", nil, nil),
		byRoute:     map[route]*traffic{},
	}
}

// count counts an event that was acknowledged then. It reports whether it is the first from its table in its topic.
func (a *acknowledged) count(ev *decode.Event, at time.Time) (first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := (route{ev.Table, ev.Topic}); r != a.route || a.traffic == nil {
		if a.byRoute[r] == nil {
			a.byRoute[r], first = &traffic{}, true
		}
		a.route, a.traffic = r, a.byRoute[r]
	}
	a.traffic.events++
	a.traffic.bytes += uint64(len(ev.Key) + len(ev.Value))
	a.delays.add(time.Duration(at.UnixNano() - ev.CommitTime.UnixNano())) // a third of what Sub takes
	return first
}

// latencies returns how long events took from their commit, since the process was started. Any goroutine may call it.
func (a *acknowledged) latencies() delays {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.delays
}

// now returns a copy of everything.
func (a *acknowledged) now() (map[route]traffic, delays) {
	a.mu.Lock()
	defer a.mu.Unlock()
	routes := make(map[route]traffic, len(a.byRoute))
	for r, t := range a.byRoute {
		routes[r] = *t
	}
	return routes, a.delays
}

// perTopic adds up what has gone to each topic.
func perTopic(routes map[route]traffic) map[string]traffic {
	topics := make(map[string]traffic, len(routes))
	for r, t := range routes {
		sum := topics[r.topic]
		topics[r.topic] = traffic{sum.events + t.events, sum.bytes + t.bytes}
	}
	return topics
}

var _ prometheus.Collector = (*acknowledged)(nil)

// Describe implements prometheus.Collector.
func (a *acknowledged) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- a.events
	descriptions <- a.bytes
	descriptions <- a.commitToAck
}

// Collect implements prometheus.Collector.
func (a *acknowledged) Collect(metrics chan<- prometheus.Metric) {
	routes, delays := a.now()
	counter := func(desc *prometheus.Desc, value uint64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
	}
	for r, t := range routes {
		counter(a.events, t.events, r.table, r.topic)
	}
	for topic, t := range perTopic(routes) {
		counter(a.bytes, t.bytes, topic)
	}
	metrics <- prometheus.MustNewConstHistogram(a.commitToAck, delays.count, delays.seconds, delays.cumulative())
}

// delays is a histogram of latencies.
type delays struct {
	count   uint64
	seconds float64                  // all of them together
	buckets [delayBuckets + 1]uint64 // how many are in each; the last one is beyond all limits
}

const (
	delayBuckets = 20
	firstDelay   = 500 * time.Microsecond // the first bucket's upper limit; each further one's is twice that before, up to four minutes
)

// delayLimit returns the upper limit of a bucket in seconds. What is exactly as long is within.
func delayLimit(bucket int) float64 { return (firstDelay << bucket).Seconds() }

func (d *delays) add(delay time.Duration) {
	bucket := 0
	if delay > firstDelay { // which can be below zero: the clocks of two hosts
		bucket = min(bits.Len64(uint64((delay-1)/firstDelay)), delayBuckets)
	}
	d.count++
	d.seconds += float64(delay) / 1e9
	d.buckets[bucket]++
}

// cumulative returns, by limit, how many are within it.
func (d *delays) cumulative() map[float64]uint64 {
	within, sum := make(map[float64]uint64, delayBuckets), uint64(0)
	for i, n := range d.buckets[:delayBuckets] {
		sum += n
		within[delayLimit(i)] = sum
	}
	return within
}

// quantile returns the latency that a share q of the events since before was below, taken as even inside a bucket; nil if
// there were none.
func (d *delays) quantile(before *delays, q float64) *float64 {
	total := d.count - before.count
	if total == 0 {
		return nil
	}
	rank, lower, below := q*float64(total), 0.0, 0.0
	for i := range delayBuckets {
		here := float64(d.buckets[i] - before.buckets[i])
		if below+here >= rank {
			out := lower
			if here > 0 {
				out += (delayLimit(i) - lower) * (rank - below) / here
			}
			return &out
		}
		lower, below = delayLimit(i), below+here
	}
	return &lower // beyond the last limit: at least that
}
