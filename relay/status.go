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

	kafkaSilent     bool
	checkpointError error
	overBudget      error // why the slot holds back more log than source.wal_budget allows; nil if it does not
}

// statusBoard is where the parts of a relay write down what they do, for others to read.
type statusBoard struct {
	mu     sync.Mutex
	s      Status
	flying *flying
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
		s.Stored = checkpoint.LSN(p.store.confirmable())
		s.enter(ExistingRows)
	})
}

func (b *statusBoard) standby(slot *wal.Slot) {
	b.update(func(s *Status) {
		s.enter(Standby)
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

func (b *statusBoard) stored(lsn pglogrepl.LSN) {
	b.update(func(s *Status) { s.Stored = checkpoint.LSN(lsn) })
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
