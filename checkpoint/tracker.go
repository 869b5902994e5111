package checkpoint

import (
	"sync"
	"sync/atomic"

	"github.com/jackc/pglogrepl"
)

// Tracker knows which LSN is safe: the end of the last transaction whose every event is acknowledged and before which
// everything is acknowledged. Acknowledgements may come in any order and from any goroutine; a later one never makes
// an earlier transaction safe.
//
// Begin, Commit and Advance are called by the one goroutine that reads the stream, in the stream's order. Safe may be
// called by another.
type Tracker struct {
	mu    sync.Mutex
	queue []*Transaction // in commit order; the prefix that is safe is cut off by Safe
	safe  Mark
}

// Mark is a point of the log up to which everything is in Kafka.
type Mark struct {
	End    pglogrepl.LSN // where reading may start again
	Commit pglogrepl.LSN // the commit LSN of the last transaction that had events
	Events uint32        // how many it had; its last event's index is one less
	Count  uint64        // how many transactions the tracker has been told of up to here
}

// Transaction is one database transaction between its Begin and the moment at which it is safe.
type Transaction struct {
	commit  pglogrepl.LSN
	end     pglogrepl.LSN // set before pending drops to 0, read only after; moved on only under the tracker's lock
	events  uint32
	pending atomic.Int64 // unacknowledged events, and one more while the transaction is open
}

// Commit returns the LSN of the transaction's commit record.
func (t *Transaction) Commit() pglogrepl.LSN { return t.commit }

// Add counts one more event that has to be acknowledged before the transaction is safe. The reading goroutine calls it
// before the event leaves for the producer.
func (t *Transaction) Add() {
	t.events++
	t.pending.Add(1)
}

// Acked counts one event as acknowledged (or durably set aside). Any goroutine may call it, once an event.
func (t *Transaction) Acked() { t.pending.Add(-1) }

// NewTracker returns a tracker for a stream that starts at mark.
func NewTracker(mark Mark) *Tracker { return &Tracker{safe: mark} }

// Begin opens the transaction whose commit record is at commit. The one before must have been committed.
func (t *Tracker) Begin(commit pglogrepl.LSN) *Transaction {
	tx := &Transaction{commit: commit}
	tx.pending.Store(1)
	t.mu.Lock()
	t.queue = append(t.queue, tx)
	t.mu.Unlock()
	return tx
}

// Commit closes tx, which ends at end. It becomes safe when its events and everything before it are acknowledged.
func (t *Tracker) Commit(tx *Transaction, end pglogrepl.LSN) {
	tx.end = end
	tx.pending.Add(-1)
}

// Advance tells that the log up to end holds nothing more for us, as a keepalive says. It is an empty transaction that
// waits its turn: it moves the end of the one before it, and so is safe together with it and takes no memory, however
// many keepalives come while Kafka is away. Inside an open transaction it says nothing, since that one's commit comes
// after it and sets the end.
func (t *Tracker) Advance(end pglogrepl.LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 {
		t.safe.End = max(t.safe.End, end)
		return
	}
	last := t.queue[len(t.queue)-1]
	last.end = max(last.end, end)
}

// Safe returns the mark up to which everything is acknowledged. It never goes back.
func (t *Tracker) Safe() Mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for n < len(t.queue) && t.queue[n].pending.Load() == 0 {
		t.safe = t.safe.after(t.queue[n])
		t.queue[n] = nil // the slice is cut, not copied: let the transaction go
		n++
	}
	t.queue = t.queue[n:]
	if len(t.queue) == 0 {
		t.queue = nil // and let go of the array behind the cut
	}
	return t.safe
}

// Committed returns what Safe returns once everything that was read so far is acknowledged. No transaction may be open. It
// belongs to the goroutine of Begin.
func (t *Tracker) Committed() Mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	mark := t.safe
	for _, tx := range t.queue {
		mark = mark.after(tx)
	}
	return mark
}

// after is the mark behind tx.
func (m Mark) after(tx *Transaction) Mark {
	m.Count++
	m.End = max(m.End, tx.end)
	if tx.events > 0 {
		m.Commit, m.Events = tx.commit, tx.events
	}
	return m
}

// Waiting returns how many transactions are not safe yet, the open one included.
func (t *Tracker) Waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.queue)
}
