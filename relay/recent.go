package relay

import (
	"bytes"
	"strings"
	"sync"
	"time"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
)

// Published is what is remembered of an event that Kafka has acknowledged. Texts are cut at 256 bytes; there is no payload.
type Published struct {
	Sequence    uint64 // 1 for the first that is remembered
	Position    decode.Position
	ID          string
	Table       string
	Topic       string
	Key         []byte // nil is a null key
	Type        string // the header eventType or ce_type
	Partition   int32
	Offset      int64
	Bytes       int // of key and value
	CommittedAt time.Time
	AckedAt     time.Time
}

const (
	recentEvents = 200
	// recentRate is how many events a second are remembered, the first of each second: who watches reads no more, and an
	// event that is not remembered costs a comparison.
	recentRate = 50
	recentText = 256 // bytes
)

// recent remembers some of the last events that Kafka has acknowledged.
type recent struct {
	// Of the producer's goroutine alone:
	second time.Time
	taken  int

	mu   sync.Mutex
	ring []Published // the one of sequence n is at (n-1) % recentEvents
	last uint64      // sequence of the youngest
}

// offer is called for each event that is acknowledged, on the producer's goroutine.
func (r *recent) offer(d *publish.Delivery, at time.Time) {
	if r.taken >= recentRate {
		if at.UnixNano()-r.second.UnixNano() < int64(time.Second) {
			return
		}
		r.taken = 0
	}
	if r.taken == 0 {
		r.second = at
	}
	r.taken++
	r.keep(d, at)
}

func (r *recent) keep(d *publish.Delivery, at time.Time) {
	ev := &d.Event
	p := Published{
		Position: ev.Position, ID: short(ev.ID), Table: ev.Table, Topic: short(ev.Topic), Key: bytes.Clone(ev.Key[:min(len(ev.Key), recentText)]),
		Type: short(eventType(ev)), Partition: d.Partition, Offset: d.Offset, Bytes: len(ev.Key) + len(ev.Value), CommittedAt: ev.CommitTime, AckedAt: at,
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	p.Sequence = r.last
	if len(r.ring) < recentEvents {
		r.ring = append(r.ring, p)
		return
	}
	r.ring[(r.last-1)%recentEvents] = p
}

// short returns a copy: the event's memory is its neighbours', too.
func short(s string) string { return strings.Clone(s[:min(len(s), recentText)]) }

func eventType(ev *decode.Event) string {
	for i := range ev.Headers {
		if key := ev.Headers[i].Key; key == "eventType" || key == "ce_type" {
			return string(ev.Headers[i].Value)
		}
	}
	return ""
}

// Recent returns the remembered events after that sequence number, oldest first; all of them after 0. Any goroutine may
// call it.
func (r *Relay) Recent(after uint64) []Published {
	m := &r.recent
	m.mu.Lock()
	defer m.mu.Unlock()
	first := max(after, m.last-uint64(len(m.ring)))
	out := make([]Published, 0, m.last-min(first, m.last))
	for n := first; n < m.last; n++ {
		out = append(out, m.ring[n%recentEvents])
	}
	return out
}
