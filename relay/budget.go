package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/tidemark/tidemark/wal"
)

// watchSlot looks again and again how much log the slot holds back, until ctx is done: over connections of its own, so
// that the answer does not depend on the stream, and in every state, also where another process has the slot.
func (r *Relay) watchSlot(ctx context.Context) {
	b := budget{bytes: r.WALBudget}
	r.status.update(func(s *Status) { s.WALBudget = r.WALBudget })
	trouble := newOutage(r.Log, "how much log the slot holds back cannot be looked up")
	var last time.Time
	var state State
	look := func() {
		at := time.Now()
		if now := r.Status().State; now != state {
			state = now // what was seen before is of no use any more
		} else if at.Sub(last) < r.SlotEvery {
			return
		}
		last = at
		seen, err := wal.LookAtRetention(ctx, r.Source)
		switch {
		case err == nil:
			trouble.healed()
			r.account(&b, seen, at)
		case r.Status().State == Streaming:
			_ = trouble.wait(ctx, err) // it is ctx's
		default: // whoever connects says what is wrong
		}
	}
	look()
	every(ctx, min(r.SlotEvery, time.Second), look)
}

// account notes what was seen in a look that was begun at that time, and says when that is more, or no longer more, than a share of the budget.
func (r *Relay) account(b *budget, seen *wal.Retention, at time.Time) {
	r.sayKeep(b, seen)
	before := b.level
	b.take(seen.RetainedBytes)
	s := r.Status()
	why, wayOut := holding(&s, seen, time.Now())
	log := r.Log.With().Int64("retained_wal_bytes", seen.RetainedBytes).Int64("wal_budget_bytes", b.bytes).Int("percent", b.level).
		Str("slot", r.Source.Slot).Logger()
	switch {
	case b.level > before:
		log.Warn().Str("why", why).Str("what_to_do", wayOut).Msg("the slot holds back more log than this share of source.wal_budget")
	case b.level < before:
		log.Info().Msg("recovered: the slot holds back less log; this is the share of source.wal_budget that is still passed")
	}
	var over error
	if b.level == 100 {
		over = fmt.Errorf("slot %s holds back %s of log, and source.wal_budget is %s: %s: %s",
			r.Source.Slot, wal.Bytes(seen.RetainedBytes), wal.Bytes(b.bytes), why, wayOut)
	}
	r.status.saw(seen, at, over)
}

// sayKeep says, once, that the server gives the slot up before the budget is spent.
func (r *Relay) sayKeep(b *budget, seen *wal.Retention) {
	if err := seen.KeepsLess(b.bytes); err != nil && !b.saidKeep {
		r.Log.Warn().Err(err).Msg("the slot may be lost before source.wal_budget is spent")
	}
	b.saidKeep = true
}

// budget tells which share of source.wal_budget is passed.
type budget struct {
	bytes    int64 // 0: none, and nothing is ever passed
	level    int   // percent: 0, 50, 80, 100
	saidKeep bool
}

// take notes how much log is held back. A share is passed at once, and taken back when it is undercut by a tenth of the
// budget, so that what moves about a threshold is said once.
func (b *budget) take(retained int64) {
	if b.bytes <= 0 {
		return
	}
	if up := b.share(retained); up > b.level {
		b.level = up
		return
	}
	b.level = min(b.level, b.share(retained+b.bytes/10))
}

func (b *budget) share(retained int64) int {
	part := float64(retained) / float64(b.bytes)
	switch {
	case part >= 1:
		return 100
	case part >= 0.8:
		return 80
	case part >= 0.5:
		return 50
	default:
		return 0
	}
}

// recently is how old an error may be to be taken for what is wrong now: whatever is tried again fails again sooner.
const recently = 3 * lastBackoff

// holding says what keeps the slot where it is, and what to do about it.
func holding(s *Status, seen *wal.Retention, now time.Time) (why, wayOut string) {
	defer func() {
		wayOut += "; if the disk of Postgres has room for more, raise source.wal_budget"
		if seen.KeepBytes >= 0 {
			wayOut += fmt.Sprintf(" (max_slot_wal_keep_size is %s: beyond that Postgres gives the slot up)", wal.Bytes(seen.KeepBytes))
		}
	}()
	lately := s.LastErrorAt != nil && now.Sub(*s.LastErrorAt) < recently
	const mend = "mend that"
	switch {
	case s.State == Standby:
		return "it is read by " + s.HeldBy + ", which is behind or stands still", "look at that process (its /readyz and log)"
	case s.kafkaSilent:
		return "no Kafka broker answers", "bring Kafka back (kafka.brokers)"
	case s.checkpointError != nil:
		return fmt.Sprintf("the checkpoint cannot be stored (%v)", s.checkpointError), mend
	case lately:
		return s.LastError, mend
	case s.OldestUnacked >= stallPatience.Seconds():
		return fmt.Sprintf("Kafka has acknowledged nothing for %.0f s", s.OldestUnacked), "see that its partitions have leaders and enough replicas in sync"
	case seen.Slot != nil && !seen.Slot.Active:
		return "nobody reads from it", "start the relay, or drop the slot if it is not needed any more"
	case seen.LagBytes < seen.RetainedBytes/2:
		return "what was committed is published, and a transaction is still open that is as old as the log",
			"end it (select pid, xact_start, state from pg_stat_activity order by xact_start; select * from pg_prepared_xacts)"
	default:
		return "more is written than is published", "see what slows publishing down, or wait until less is written"
	}
}
