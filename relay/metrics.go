package relay

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
)

// Metrics are the relay's Prometheus metrics. Their names are part of the outside contract.
type Metrics struct {
	acknowledged    *acknowledged
	publishErrors   *prometheus.CounterVec
	reconnects      *prometheus.CounterVec
	suppressed      prometheus.Counter
	missing         prometheus.Gauge
	pruned          prometheus.Counter
	deadLettered    prometheus.Counter
	messagesSkipped *prometheus.CounterVec
}

// NewMetrics registers the relay's metrics. There is one relay a registry.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		acknowledged: newAcknowledged(),
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
		messagesSkipped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidemark_messages_skipped_total", Help: "Logical messages without a transaction that were left out, as messages[].non_transactional says.",
		}, []string{"table"}),
		missing: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tidemark_reconcile_missing_events", Help: "Rows of the outbox tables that Kafka lacks, as the last run of reconcile.interval found.",
		}),
		pruned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidemark_pruned_rows_total", Help: "Rows that were deleted from the outbox tables because they are surely in Kafka, partitions that were dropped included.",
		}),
	}
	registry.MustRegister(m.acknowledged, m.publishErrors, m.reconnects, m.suppressed, m.deadLettered, m.messagesSkipped, m.missing, m.pruned)
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
	gauge("tidemark_inflight_bytes", "Memory that events hold which were read and are not acknowledged.", func(s Status) float64 { return float64(s.InFlightBytes) })
	gauge("tidemark_confirmed_lsn", "The stored LSN, which is what Postgres is told, as a number of bytes.", func(s Status) float64 { return float64(s.Stored) })
	gauge("tidemark_oldest_unacked_seconds", "Time since the last acknowledgement, while any is due.", func(s Status) float64 { return s.OldestUnacked })
	gauge("tidemark_parked_events", "Events in the table of parked ones.", func(s Status) float64 { return float64(s.Parked) })
	gauge("tidemark_slot_retained_wal_bytes", "Log that the slot holds back.", func(s Status) float64 { return float64(s.RetainedWAL) })
	gauge("tidemark_slot_wal_budget_bytes", "source.wal_budget; 0 is none.", func(s Status) float64 { return float64(s.WALBudget) })
	gauge("tidemark_slot_lag_bytes", "Log from what is confirmed to its end.", func(s Status) float64 { return float64(s.SlotLag) })
	gauge("tidemark_slot_active", "1 while somebody streams from the slot.", func(s Status) float64 { return oneIf(s.SlotActive) })
	gauge("tidemark_checkpoint_failing", "1 while the checkpoint cannot be stored.", func(s Status) float64 { return oneIf(s.checkpointError != nil) })
	gauge("tidemark_leader", "1 while this process streams from the slot.", func(s Status) float64 { return oneIf(s.State == Streaming) })
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// published counts an event that Kafka acknowledged then. It is called on the producer's goroutine.
func (m *Metrics) published(ev *decode.Event, at time.Time) {
	if m.acknowledged.count(ev, at) {
		m.publishErrors.WithLabelValues(ev.Topic, publish.OtherReason) // a series that is not there does not increase
	}
}

// Missing notes how many events the last comparison of the tables with the topics found to be missing. Any goroutine may
// call it.
func (m *Metrics) Missing(events int) { m.missing.Set(float64(events)) }

// Pruned counts rows that were deleted from the outbox tables. Any goroutine may call it.
func (m *Metrics) Pruned(rows int64) { m.pruned.Add(float64(rows)) }

func (m *Metrics) failed(topic string, err error) {
	m.publishErrors.WithLabelValues(topic, publish.Reason(err)).Inc()
}

func (m *Metrics) reconnected(side string) { m.reconnects.WithLabelValues(side).Inc() }
