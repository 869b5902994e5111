package relay

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/wal"
)

// State is what a relay is doing.
type State string

const (
	Starting     State = "starting"
	Standby      State = "standby"       // another process streams from the slot
	ExistingRows State = "existing_rows" // publishing what was there before the slot
	Streaming    State = "streaming"
	Interrupted  State = "interrupted" // connecting again
	Stopped      State = "stopped"
)

// Status is what a relay is doing now.
type Status struct {
	State          State          `json:"state"`
	Since          time.Time      `json:"since"`
	HeldByPID      int            `json:"held_by_pid,omitempty"` // in state standby: the Postgres backend that streams
	HeldBy         string         `json:"held_by,omitempty"`     // and for whom
	Stored         checkpoint.LSN `json:"stored_lsn"`            // what is stored, and so may be confirmed
	InFlightEvents int64          `json:"inflight_events"`
	InFlightBytes  int64          `json:"inflight_bytes"`
	OldestUnacked  float64        `json:"oldest_unacked_seconds"` // since the last acknowledgement, while any is due
	Parked         int64          `json:"parked"`                 // events in the table of parked ones
	RetainedWAL    int64          `json:"retained_wal_bytes"`     // of log that the slot holds back, at the last look
	WALBudget      int64          `json:"wal_budget_bytes"`       // source.wal_budget; 0: none
	SlotLag        int64          `json:"lag_bytes"`              // from what is confirmed to the end of the log, at the last look
	SlotActive     bool           `json:"slot_active"`            // somebody streams from the slot
	LastError      string         `json:"last_error,omitempty"`
	LastErrorAt    *time.Time     `json:"last_error_at,omitempty"`

	// LagSeconds is for how long the oldest of what is not stored yet has been committed, or is known to be in the log; 0 if
	// all is stored, null if that is not for this process to know: before it streams, and as a hot standby.
	LagSeconds *float64 `json:"lag_seconds"`
	Rate       float64  `json:"events_per_second"` // that Kafka has acknowledged, over the last second

	kafkaSilent     bool
	checkpointError error
	overBudget      error // why the slot holds back more log than source.wal_budget allows; nil if it does not
}

// statusBoard is where the parts of a relay write down what they do, for others to read.
type statusBoard struct {
	mu         sync.Mutex
	s          Status
	flying     *flying
	timeline   int32
	marks      marks                  // what is not stored yet
	checkpoint *checkpoint.Checkpoint // as it was stored last, nil before a term has begun
	seen       *wal.Retention         // the last look at the slot, nil before the first
	seenAt     time.Time
}

// Sight is what a relay has seen of the source and stored, without asking anybody. Nobody writes to what it points to.
type Sight struct {
	Slot       *wal.Retention         // as the slot was looked at last, nil before the first look
	At         time.Time              // when that was
	Checkpoint *checkpoint.Checkpoint // as this process has stored it last, nil before it had the slot
}

// Sight returns what the relay has seen last. Any goroutine may call it.
func (r *Relay) Sight() Sight {
	b := &r.status
	b.mu.Lock()
	defer b.mu.Unlock()
	return Sight{b.seen, b.seenAt, b.checkpoint}
}

// Status returns what the relay is doing now. Any goroutine may call it.
func (r *Relay) Status() Status {
	b := &r.status
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.s
	if s.State == "" {
		s.State = Starting
	}
	if b.flying != nil {
		s.InFlightEvents, s.InFlightBytes = b.flying.events.Load(), b.flying.bytes.Load()
	}
	if s.State != Standby && b.checkpoint != nil {
		lag := b.marks.lag(time.Now()).Seconds()
		s.LagSeconds = &lag
	}
	return s
}

// Ready returns nil while the relay streams and both sides answer; otherwise the reason why it is not ready.
func (r *Relay) Ready() error {
	s := r.Status()
	switch {
	case s.State == Standby:
		return fmt.Errorf("hot standby: the slot is held by %s", s.HeldBy)
	case s.State != Streaming && s.LastError != "":
		return fmt.Errorf("%s: %s", s.State, s.LastError)
	case s.State != Streaming:
		return errors.New(string(s.State))
	case s.kafkaSilent:
		return fmt.Errorf("no Kafka broker answers: %s", s.LastError)
	case s.checkpointError != nil:
		return fmt.Errorf("the checkpoint cannot be stored: %w", s.checkpointError)
	case s.overBudget != nil:
		return s.overBudget
	default:
		return nil
	}
}

func (b *statusBoard) update(f func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.s)
}

func (s *Status) enter(state State) {
	if s.State != state {
		s.State, s.Since = state, time.Now()
	}
}

func (s *Status) note(err error) {
	now := time.Now()
	s.LastError, s.LastErrorAt = err.Error(), &now
}

func (b *statusBoard) begin(p *path) {
	b.update(func(s *Status) {
		b.flying = p.flying
		if b.timeline != p.line { // what was noted is of another log
			b.timeline, b.marks = p.line, nil
		}
		b.keep(p.store.current())
		s.enter(ExistingRows)
	})
}

func (b *statusBoard) standby(slot *wal.Slot) {
	b.update(func(s *Status) {
		s.enter(Standby)
		b.marks = nil // another process stores
		s.HeldByPID, s.HeldBy = slot.ActivePID, slot.Holder()
	})
}

func (b *statusBoard) stream() {
	b.update(func(s *Status) { s.enter(Streaming); s.HeldByPID, s.HeldBy = 0, "" })
}

func (b *statusBoard) interrupt(err error) {
	b.update(func(s *Status) { s.enter(Interrupted); s.note(err) })
}

func (b *statusBoard) fail(err error) { b.update(func(s *Status) { s.note(err) }) }

func (b *statusBoard) stored(c checkpoint.Checkpoint) { b.update(func(*Status) { b.keep(c) }) }

func (b *statusBoard) keep(c checkpoint.Checkpoint) {
	b.checkpoint, b.s.Stored = &c, c.LSN
	b.marks.passed(pglogrepl.LSN(c.LSN))
}

// handed notes that a transaction was committed at that LSN and time.
func (b *statusBoard) handed(commit pglogrepl.LSN, at time.Time) {
	b.update(func(s *Status) {
		if end := commit + 1; end > pglogrepl.LSN(s.Stored) {
			b.marks.note(end, at)
		}
	})
}

// saw notes a look at the slot that was begun at that time.
func (b *statusBoard) saw(seen *wal.Retention, at time.Time, overBudget error) {
	b.update(func(s *Status) {
		b.seen, b.seenAt = seen, at
		s.RetainedWAL, s.SlotLag, s.SlotActive = seen.RetainedBytes, seen.LagBytes, seen.Slot != nil && seen.Slot.Active
		s.overBudget = overBudget
		if s.State != Standby && seen.End > pglogrepl.LSN(s.Stored) {
			b.marks.note(seen.End, at)
		}
	})
}

func (b *statusBoard) checkpointFailed(err error) {
	b.update(func(s *Status) {
		s.checkpointError = err
		if err != nil {
			s.note(err)
		}
	})
}

func (b *statusBoard) kafka(silent bool, err error) {
	b.update(func(s *Status) {
		s.kafkaSilent = silent
		if silent && err != nil {
			s.note(err)
		}
	})
}

func (b *statusBoard) end() { b.update(func(s *Status) { s.enter(Stopped) }) }

func (b *statusBoard) parked(n int64) { b.update(func(s *Status) { s.Parked = n }) }

func (b *statusBoard) addParked(n int64) { b.update(func(s *Status) { s.Parked += n }) }

func (b *statusBoard) stalled(d time.Duration) {
	b.update(func(s *Status) { s.OldestUnacked = d.Seconds() })
}
