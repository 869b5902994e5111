package demo

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidemark/tidemark/checkpoint"
)

// key is an outbox key. One writer alone writes its rows, so their sequence is the order of their commits.
type key struct {
	number int
	kind   string // the aggregate type
	name   string
}

// row is an outbox row as its writer made it.
type row struct {
	key      *key
	sequence int // of its key; from 1
	id       string
	typ      string
}

// record is what the reader got for a row.
type record struct {
	topic, id, key, typ, position string
	sequence                      int // as the payload says
}

// fate is what has become of a row so far.
type fate uint8

const (
	committed fate = 1 << iota
	rolledBack
	arrived
)

// Counts are the findings so far.
type Counts struct {
	Committed  int // rows
	RolledBack int // rows
	Published  int // records, as the reader finds them in Kafka

	Lost       int // rows that are committed and have not arrived; while it runs these are only behind
	Doubled    int // records of a row that had arrived before
	Misordered int // records that came after a later one of their key
	Phantom    int // records that no committed row explains
}

// Clean reports whether everything arrived as it was committed.
func (c Counts) Clean() bool {
	return c.Lost == 0 && c.Doubled == 0 && c.Misordered == 0 && c.Phantom == 0
}

// ledger holds what was written against what arrives. Any goroutine may call it. A row costs it a byte, so that the demo
// may be left running.
type ledger struct {
	run  string // the first digits of all ids
	keys []*history

	mu      sync.Mutex
	counts  Counts
	arrived int // rows that are committed and have arrived
	last    record
	end     string // the largest position
	latency latency
}

// history is the past of a key.
type history struct {
	key
	fates    []fate            // by sequence - 1
	asked    map[int]time.Time // when the commit of a row was asked for; until it has arrived
	sequence int               // the largest that has arrived
	position string            // its
}

func newLedger(run string, keys []*key) *ledger {
	l := &ledger{run: run}
	for _, k := range keys {
		l.keys = append(l.keys, &history{key: *k, asked: map[int]time.Time{}})
	}
	return l
}

// next returns a new row of the key. Only the key's writer calls it.
func (l *ledger) next(k *key, typ string) row {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.keys[k.number]
	h.fates = append(h.fates, 0)
	n := len(h.fates)
	return row{key: k, sequence: n, typ: typ, id: l.id(k.number, n)}
}

// id makes an id, a UUID, from which the row can be told.
func (l *ledger) id(key, sequence int) string {
	return fmt.Sprintf("%s-%04x-8000-8000-%012x", l.run, key, sequence)
}

// find returns the history and the sequence that an id names, nil if no row has it.
func (l *ledger) find(id string) (*history, int) {
	parts := strings.Split(id, "-")
	if len(parts) != 5 {
		return nil, 0
	}
	number, errNumber := strconv.ParseUint(parts[1], 16, 16)
	sequence, errSequence := strconv.ParseUint(parts[4], 16, 48)
	n, s := int(number), int(sequence) //nolint:gosec // 48 bits
	if errNumber != nil || errSequence != nil || n >= len(l.keys) || s == 0 || s > len(l.keys[n].fates) || l.id(n, s) != id {
		return nil, 0
	}
	return l.keys[n], s
}

// ask notes that the commit of rows is about to be asked for. They may arrive before the answer.
func (l *ledger) ask(rows []row, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range rows {
		l.keys[r.key.number].asked[r.sequence] = at
	}
}

// settle notes how the transaction of rows ended.
func (l *ledger) settle(rows []row, end fate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range rows {
		h := l.keys[r.key.number]
		f := &h.fates[r.sequence-1]
		*f |= end
		early := *f&arrived != 0
		switch {
		case end == committed:
			l.counts.Committed++
			if early {
				l.arrived++
			}
		case early:
			l.counts.RolledBack++
			l.counts.Phantom++
		default:
			l.counts.RolledBack++
		}
		if early || end == rolledBack {
			delete(h.asked, r.sequence)
		}
	}
}

// arrive notes a record that the reader got at that time.
func (l *ledger) arrive(r record, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Published++
	h, sequence := l.find(r.id)
	if h == nil || topicOf(h.kind) != r.topic || h.name != r.key || sequence != r.sequence {
		l.counts.Phantom++
		return
	}
	f := &h.fates[sequence-1]
	switch {
	case *f&rolledBack != 0:
		l.counts.Phantom++
		return
	case *f&arrived != 0:
		l.counts.Doubled++
		return
	case sequence < h.sequence || r.position <= h.position:
		l.counts.Misordered++
	default:
		h.sequence, h.position = sequence, r.position
	}
	*f |= arrived
	l.end = max(l.end, r.position)
	if asked, ok := h.asked[sequence]; ok {
		l.latency.add(at.Sub(asked), at)
	}
	if *f&committed != 0 {
		l.arrived++
		delete(h.asked, sequence)
	}
	l.last = r
}

// findings returns the counts and how long the oldest row that is behind has been waiting.
func (l *ledger) findings(now time.Time) (c Counts, waiting time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c = l.counts
	c.Lost = c.Committed - l.arrived
	for _, h := range l.keys {
		for sequence, asked := range h.asked {
			if h.fates[sequence-1] == committed {
				waiting = max(waiting, now.Sub(asked))
			}
		}
	}
	return c, waiting
}

// lastRecord returns the record that arrived last.
func (l *ledger) lastRecord() record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// done reports whether all that is committed has arrived, and the relay has stored that: it would not begin before it.
func (l *ledger) done(stored *checkpoint.Checkpoint) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.arrived == l.counts.Committed && (l.end == "" || stored != nil && stored.Position >= l.end)
}

// recent returns how long the rows of the last seconds took from the commit to the reader.
func (l *ledger) recent(now time.Time) percentiles {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latency.recent(now)
}

// total returns how long all rows took from the commit to the reader.
func (l *ledger) total() percentiles {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latency.all.percentiles()
}
