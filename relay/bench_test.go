package relay

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
)

// What is done for each acknowledged event so that somebody can look: the clock, the metrics, the ring of recent events. Of
// the latter most events cost a comparison; keep is what 50 of a second cost.
func BenchmarkAcknowledged(b *testing.B) {
	deliveries := make([]publish.Delivery, burstEvents)
	for i := range deliveries {
		deliveries[i].Event = decode.Event{
			ID: "0a8b6a52-6f3e-4c1e-9a41-b1f9a2f3c001", Table: "public.outbox", Topic: fmt.Sprintf("outbox.event.%d", i/64), Key: []byte("customer-17"),
			Value: make([]byte, 200), CommitTime: time.Now(), Headers: []decode.Header{{Key: "eventType", Value: []byte("placed")}},
		}
	}
	metrics := NewMetrics(prometheus.NewRegistry())
	var recent recent
	for name, do := range map[string]func(d *publish.Delivery, now time.Time){
		"clock":   func(*publish.Delivery, time.Time) { _ = time.Now() },
		"metrics": func(d *publish.Delivery, now time.Time) { metrics.published(&d.Event, now) },
		"ring":    recent.offer,
		"keep":    recent.keep,
		"all": func(d *publish.Delivery, _ time.Time) {
			now := time.Now()
			metrics.published(&d.Event, now)
			recent.offer(d, now)
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			now := time.Now()
			for i := 0; b.Loop(); i++ {
				do(&deliveries[i%burstEvents], now)
			}
		})
	}
}
