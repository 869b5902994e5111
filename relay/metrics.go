package relay

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
)

// Metrics are the relay's Prometheus metrics. Their names are part of the outside contract.
type Metrics struct {
	eventsPublished *prometheus.CounterVec
	bytesPublished  *prometheus.CounterVec
	publishErrors   *prometheus.CounterVec
	reconnects      *prometheus.CounterVec
	suppressed      prometheus.Counter
	deadLettered    prometheus.Counter
	commitToAck     prometheus.Histogram

	// perTopic saves the lookups by label, a map each, for every event. Only acked uses it, on the producer's one goroutine.
	perTopic map[route]counters
}

type route struct{ table, topic string }

type counters struct{ events, bytes prometheus.Counter }

// NewMetrics registers the relay's metrics. There is one relay a registry.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		eventsPublished: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidemark_events_published_total", Help: "Events that Kafka has acknowledged.",
		}, []string{"table", "topic"}),
		bytesPublished: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidemark_published_bytes_total", Help: "Bytes of the keys and values that Kafka has acknowledged.",
		}, []string{"topic"}),
		publishErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidemark_publish_errors_total", Help: "Events that Kafka or its client has rejected for good, by reason.",
		}, []string{"topic", "reason"}),
		reconnects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidemark_reconnects_total", Help: "How often a side had to be connected again.",
		}, []string{"side"}),
		suppressed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidemark_duplicates_suppressed_total", Help: "Events that were read again and found to be in Kafka already.",
		}),
		deadLettered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidemark_dead_lettered_total", Help: "Events that went to the dead letter topic.",
		}),
		commitToAck: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tidemark_commit_to_ack_seconds", Help: "Time from the commit in Postgres to the acknowledgement by Kafka.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 20), // half a millisecond to four minutes
		}),
		perTopic: map[route]counters{},
	}
	registry.MustRegister(m.eventsPublished, m.bytesPublished, m.publishErrors, m.reconnects, m.suppressed, m.deadLettered, m.commitToAck)
	for _, side := range []string{"source", "kafka"} {
		m.reconnects.WithLabelValues(side)
	}
	return m
}

// RegisterGauges registers what is read off the relay when somebody asks.
func (r *Relay) RegisterGauges(registry prometheus.Registerer) {
	gauge := func(name, help string, read func(Status) float64) {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return read(r.Status()) }))
	}
	gauge("tidemark_inflight_events", "Events that were read and are not acknowledged.", func(s Status) float64 { return float64(s.InFlightEvents) })
	gauge("tidemark_inflight_bytes", "Memory that they hold.", func(s Status) float64 { return float64(s.InFlightBytes) })
	gauge("tidemark_confirmed_lsn", "The stored LSN, which is what Postgres is told, as a number of bytes.", func(s Status) float64 { return float64(s.Stored) })
	gauge("tidemark_oldest_unacked_seconds", "Time since the last acknowledgement, while any is due.", func(s Status) float64 { return s.OldestUnacked })
	gauge("tidemark_parked_events", "Events in the table of parked ones.", func(s Status) float64 { return float64(s.Parked) })
	gauge("tidemark_leader", "1 while this process streams from the slot.", func(s Status) float64 {
		if s.State == Streaming {
			return 1
		}
		return 0
	})
}

func (m *Metrics) published(ev *decode.Event) {
	c, ok := m.perTopic[route{ev.Table, ev.Topic}]
	if !ok {
		c = counters{m.eventsPublished.WithLabelValues(ev.Table, ev.Topic), m.bytesPublished.WithLabelValues(ev.Topic)}
		m.perTopic[route{ev.Table, ev.Topic}] = c
	}
	c.events.Inc()
	c.bytes.Add(float64(len(ev.Key) + len(ev.Value)))
	m.commitToAck.Observe(time.Since(ev.CommitTime).Seconds())
}

func (m *Metrics) failed(topic string, err error) {
	m.publishErrors.WithLabelValues(topic, publish.Reason(err)).Inc()
}

func (m *Metrics) reconnected(side string) { m.reconnects.WithLabelValues(side).Inc() }
