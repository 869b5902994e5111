package relay

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// Point is one second of a relay's work, as it was looked at when that second was over.
type Point struct {
	At            time.Time `json:"at"`
	Rate          float64   `json:"rate"`               // events a second that Kafka has acknowledged
	P50           *float64  `json:"p50_seconds"`        // from commit to acknowledgement, of the events of that second; null: there were none
	P99           *float64  `json:"p99_seconds"`        // both as exact as the buckets of tidemark_commit_to_ack_seconds
	LagSeconds    *float64  `json:"lag_seconds"`        // as in Status
	LagBytes      int64     `json:"lag_bytes"`          // likewise
	RetainedWAL   int64     `json:"retained_wal_bytes"` // likewise
	InFlightBytes int64     `json:"inflight_bytes"`
}

const (
	pointEvery = time.Second
	points     = 600 // ten minutes
)

// history is the last points, oldest first.
type history struct {
	mu   sync.Mutex
	list []Point
}

// History returns the points since then, oldest first, at most ten minutes of them. Any goroutine may call it.
func (r *Relay) History(since time.Time) []Point {
	r.history.mu.Lock()
	defer r.history.mu.Unlock()
	from := slices.IndexFunc(r.history.list, func(p Point) bool { return p.At.After(since) })
	if from < 0 {
		return []Point{}
	}
	return slices.Clone(r.history.list[from:])
}

// keepHistory adds a point a second, until ctx is done.
func (r *Relay) keepHistory(ctx context.Context) {
	before, last := r.Metrics.acknowledged.latencies(), time.Now()
	every(ctx, pointEvery, func() {
		now, after := time.Now(), r.Metrics.acknowledged.latencies()
		p := Point{At: now.UTC(), P50: after.quantile(&before, 0.5), P99: after.quantile(&before, 0.99)}
		if seconds := now.Sub(last).Seconds(); seconds > 0 {
			p.Rate = float64(after.count-before.count) / seconds
		}
		before, last = after, now
		r.status.update(func(s *Status) { s.Rate = p.Rate })
		s := r.Status()
		p.LagSeconds, p.LagBytes, p.RetainedWAL, p.InFlightBytes = s.LagSeconds, s.SlotLag, s.RetainedWAL, s.InFlightBytes
		r.history.add(p)
	})
}

func (h *history) add(p Point) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.list) == points {
		copy(h.list, h.list[1:])
		h.list = h.list[:points-1]
	}
	h.list = append(h.list, p)
}

// TopicCount is how much has gone to a topic since the process was started.
type TopicCount struct {
	Topic  string `json:"topic"`
	Events uint64 `json:"events"`
	Bytes  uint64 `json:"bytes"` // of keys and values
}

// Topics returns those with the most events first, at most so many, and how many topics there are. Any goroutine may call it.
func (m *Metrics) Topics(most int) (list []TopicCount, of int) {
	routes, _ := m.acknowledged.now()
	byName := perTopic(routes)
	list = make([]TopicCount, 0, len(byName))
	for topic, t := range byName {
		list = append(list, TopicCount{Topic: topic, Events: t.events, Bytes: t.bytes})
	}
	slices.SortFunc(list, func(a, b TopicCount) int {
		return cmp.Or(cmp.Compare(b.Events, a.Events), strings.Compare(a.Topic, b.Topic))
	})
	return list[:min(most, len(list))], len(list)
}
