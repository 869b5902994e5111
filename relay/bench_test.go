package relay

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
)

// What is done for each acknowledged event so that somebody can look: when it came, the metrics, the ring of recent events. Of
// the latter most events cost a comparison; keep is what 50 of a second cost.
func BenchmarkAcknowledged(b *testing.B) {
	deliveries := make([]publish.Delivery, burstEvents)
	for i := range deliveries {
		deliveries[i].Event = decode.Event{
			ID: "0a8b6a52-6f3e-4c1e-9a41-b1f9a2f3c001", Table: "public.outbox", Topic: fmt.Sprintf("outbox.event.%d", i/64), Key: []byte("customer-17"),
			Value: make([]byte, 200), CommitTime: time.Now().Round(0), Headers: []decode.Header{{Key: "eventType", Value: []byte("placed")}},
		}
	}
	metrics := NewMetrics(prometheus.NewRegistry())
	publisher := idle(b)
	var recent recent
	for name, do := range map[string]func(d *publish.Delivery, at time.Time){
		"clock":   func(*publish.Delivery, time.Time) { _ = publisher.Answered() },
		"metrics": func(d *publish.Delivery, at time.Time) { metrics.published(&d.Event, at) },
		"ring":    recent.offer,
		"keep":    recent.keep,
		"all": func(d *publish.Delivery, _ time.Time) {
			at := publisher.Answered()
			metrics.published(&d.Event, at)
			recent.offer(d, at)
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			now := time.Now().Round(0)
			for i := 0; b.Loop(); i++ {
				do(&deliveries[i%burstEvents], now)
			}
		})
	}
}

// idle returns a publisher that has nothing to do.
func idle(b *testing.B) *publish.Publisher {
	b.Helper()
	p, err := publish.Open(publish.Options{Brokers: []string{"127.0.0.1:1"}}, func(*publish.Delivery, error) {})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Close)
	return p
}
