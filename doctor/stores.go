package doctor

import (
	"context"
	"time"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/wal"
)

const (
	checkSlot     = "slot.state"
	checkStore    = "checkpoint.store"
	checkPosition = "checkpoint.position"
	checkParked   = "parked"
)

//nolint:gochecknoglobals // a constant list
var storeChecks = []string{checkStore, checkPosition, checkParked}

// storeLimit is how long a store may take. One in Kafka may wait for somebody's open transaction.
const storeLimit = 15 * time.Second

// examineStores looks at what takes both sides: the checkpoint, held against the slot, and the parked events.
func (s *source) examineStores(ctx context.Context, kafkaAway bool) {
	if s.facts == nil {
		return // s.why says it
	}
	s.parked(ctx)
	stored, ok := s.load(ctx, kafkaAway)
	if s.conn == nil {
		s.slotAlone()
		s.skip(checkPosition, "because "+checkReplication+" did not succeed")
		return
	}
	if !ok {
		s.slotAlone()
		s.skip(checkPosition, "because "+checkStore+" did not succeed")
		return
	}
	s.position(ctx, stored)
}

// load reads the checkpoint. The slot was looked at before, so that a relay which works meanwhile has stored at least that.
func (s *source) load(ctx context.Context, kafkaAway bool) (stored *checkpoint.Checkpoint, ok bool) {
	if kafkaAway && s.CheckpointTopic != "" {
		s.skip(checkStore, "because "+checkKafka+" failed")
		return nil, false
	}
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	stored, err := s.Store.Load(ctx)
	switch {
	case checkpoint.IsCorrupt(err):
		finding, _ := parts(err)
		s.fail(checkStore, finding, "restore what was stored, or adopt the slot's position: tidemark checkpoint adopt --accept-gap")
		return nil, false
	case err != nil:
		finding, fix := parts(err)
		if fix == "" {
			fix = "see that it can be reached and read: checkpoint in the configuration"
		}
		s.fail(checkStore, finding, fix)
		return nil, false
	case stored == nil:
		s.ok(checkStore, "nothing is stored yet in %s", s.Store)
	default:
		s.ok(checkStore, "%s, at %s, written %s ago", s.Store, stored.LSN, time.Since(stored.WrittenAt).Round(time.Second))
	}
	return stored, true
}

// position asks what a relay would do about slot and checkpoint.
func (s *source) position(ctx context.Context, stored *checkpoint.Checkpoint) {
	if err := s.conn.Refresh(ctx); err != nil { // the log has gone on since, and the checkpoint with it
		s.failed(checkPosition, err)
		return
	}
	what, err := s.Judge(s.slot, stored, s.conn.System, s.history)
	lost := false
	if s.slot != nil {
		_, lost = s.slot.Lost()
	}
	switch {
	case err != nil && (s.slot == nil || lost):
		s.failed(checkSlot, err)
		s.skip(checkPosition, "because "+checkSlot+" failed")
		return
	case s.slot == nil && !s.Create && stored == nil:
		s.fail(checkSlot, "slot "+s.Source.Slot+" does not exist, and source.create is false", "run the statement, or tidemark init, or set source.create: true", wal.CreateSlotSQL(s.Source))
	default:
		s.slotAlone()
	}
	if err != nil {
		s.failed(checkPosition, err)
		return
	}
	if was := storedPublication(stored); was != nil && s.printed {
		if err := s.SamePublication(was, s.print); err != nil {
			s.failed(checkPosition, err)
			return
		}
	}
	s.ok(checkPosition, "%s", what)
}

// slotAlone says what the slot is like, without a word on the checkpoint.
func (s *source) slotAlone() {
	slot := s.slot
	if slot == nil {
		s.ok(checkSlot, "slot %s does not exist yet", s.Source.Slot)
		return
	}
	reason, lost := slot.Lost()
	switch {
	case lost:
		s.fail(checkSlot, "slot "+slot.Name+" is lost ("+reason+")", "create it anew: tidemark init --recreate-slot --republish")
	case slot.Active:
		s.ok(checkSlot, "slot %s is read by %s; confirmed up to %s", slot.Name, slot.Holder(), slot.ConfirmedFlushLSN)
	default:
		s.warn(checkSlot, "slot "+slot.Name+" is there and nobody reads from it: Postgres keeps its log from "+slot.RestartLSN+" on", "start tidemark run; if it is not needed any more, drop it with the statement",
			"select pg_drop_replication_slot('"+slot.Name+"')")
	}
}

// parked looks at the table of parked events.
func (s *source) parked(ctx context.Context) {
	if s.conn == nil {
		s.skip(checkParked, "because "+checkReplication+" did not succeed")
		return
	}
	n, there, err := s.Parked(ctx, s.conn.System)
	switch {
	case err != nil && s.OnPoison != "park":
		finding, fix := parts(err)
		s.warn(checkParked, finding, fix)
	case err != nil:
		s.failed(checkParked, err)
	case !there && s.OnPoison == "park":
		s.warn(checkParked, "the table of parked events does not exist: the first event that is parked creates it, if the role of source.admin_dsn may", "tidemark init creates it, and --dry-run prints the statements")
	case !there:
		s.ok(checkParked, "no table of parked events, and delivery.on_poison is %s", s.OnPoison)
	case n > 0:
		s.warn(checkParked, plural(n, "event is", "events are")+" parked", "tidemark parked list says why; mend that, then tidemark parked release")
	default:
		s.ok(checkParked, "nothing is parked")
	}
}
