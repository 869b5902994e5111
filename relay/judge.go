package relay

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/wal"
)

// decision is what slot and checkpoint together call for.
type decision uint8

const (
	resume decision = iota // from the checkpoint's LSN
	adopt                  // a slot without a checkpoint: from the slot's position
	create                 // neither: a first start
	begin                  // a first start that was interrupted: anew
)

// judge is the table of the states that slot and checkpoint can be in at a start. The slot is nil if there is none and
// is not active; the checkpoint is nil if none is stored; history is that of the server's timeline. Whatever could hide a
// gap is refused.
func judge(slot *wal.Slot, stored *checkpoint.Checkpoint, sys wal.System, history wal.History, slotName string) (decision, error) {
	if stored != nil {
		if err := sameSource(stored, sys, slotName); err != nil {
			return 0, err
		}
	}
	if slot != nil {
		if err := usable(slot, sys); err != nil {
			return 0, err
		}
	}
	interrupted := stored != nil && stored.State != checkpoint.Streaming
	switch {
	case slot == nil && stored == nil:
		return create, nil
	case slot == nil && interrupted:
		return create, nil
	case slot == nil && stored.Timeline < sys.Timeline:
		return 0, refuse(fmt.Errorf("slot %s does not exist, but a checkpoint at %s is stored: the server was failed over to a standby, to which the slot was not synced, and events committed since then may never have been read", slotName, stored.LSN),
			recreate+"; to keep it from happening again: source.failover, and docs/failover.md")
	case slot == nil:
		return 0, refuse(fmt.Errorf("slot %s does not exist, but a checkpoint at %s is stored: events committed since then may never have been read", slotName, stored.LSN),
			recreate)
	case interrupted:
		return begin, nil
	}
	if reason, lost := slot.Lost(); lost {
		what, prevent := whyLost(reason)
		return 0, refuse(fmt.Errorf("slot %s is lost (%s): %s", slot.Name, reason, what), recreate+"; to keep it from happening again "+prevent)
	}
	if stored == nil {
		return adopt, nil
	}
	if err := sameLog(stored, sys, history); err != nil {
		return 0, err
	}
	confirmed, err := slot.Confirmed()
	if err != nil {
		return 0, fmt.Errorf("slot %s: confirmed_flush_lsn: %w", slot.Name, err)
	}
	if confirmed > pglogrepl.LSN(stored.LSN) {
		return 0, refuse(fmt.Errorf("slot %s is at %s, ahead of the checkpoint at %s, which is older than the slot: another instance has gone on since, or somebody else has moved the slot; events between the two would be missing",
			slot.Name, confirmed, stored.LSN),
			"if an instance on another host has gone on, keep the checkpoint where all of them see it (checkpoint.store: postgres or kafka), and start with what that one has stored; if two relays use this slot by mistake, give each its own; if the checkpoint is an old copy, restore the newest; else take the slot's position with tidemark checkpoint adopt --accept-gap; what was committed in between is in the outbox table and may be missing in Kafka: tidemark verify --repair publishes it")
	}
	if pglogrepl.LSN(stored.LSN) > sys.Flushed && !sys.Standby {
		return 0, refuse(fmt.Errorf("the checkpoint at %s is ahead of the server's log, which ends at %s: the server has lost its newest part (restored from a backup, or failed over to a standby that was behind)",
			stored.LSN, sys.Flushed),
			"events beyond it are in Kafka but no longer in the database; decide what they are worth, then tidemark checkpoint adopt --accept-gap")
	}
	return resume, nil
}

const recreate = "create it anew with tidemark init --recreate-slot --republish, which publishes every row that is in the outbox table, also those that are in Kafka already; without --republish what was committed in between may be missing in Kafka, until tidemark verify --repair publishes it"

// whyLost says what the server has removed, and what keeps it from doing so.
func whyLost(reason string) (what, prevent string) {
	switch reason {
	case "rows_removed", "conflicting with recovery":
		return "the standby that it is on had to remove rows of the catalogue that it needed to read the log",
			"set hot_standby_feedback = on on the standby, and give it a slot on the primary (primary_slot_name), which holds while it is away; on the primary keep wal_level = logical"
	case "wal_level_insufficient":
		return "wal_level of the primary was less than logical for a while", "keep wal_level = logical on the primary, too"
	case "idle_timeout":
		return "nobody streamed from it for longer than idle_replication_slot_timeout, and Postgres has given up the log that it needed", "raise that, or set it to 0"
	default:
		return "Postgres has removed log that it needed, and the events in it", "raise max_slot_wal_keep_size, or watch source.wal_budget"
	}
}

// Judge says what a relay that starts would do about slot and checkpoint, as judge does; an error is why it would not start.
func Judge(slot *wal.Slot, stored *checkpoint.Checkpoint, sys wal.System, history wal.History, slotName string) (what string, err error) {
	d, err := judge(slot, stored, sys, history, slotName)
	switch {
	case err != nil:
		return "", err
	case d == resume:
		return fmt.Sprintf("going on from %s", stored.LSN), nil
	case d == adopt:
		return "no checkpoint is stored: the first start takes the slot's position, and rows committed before it are not published", nil
	case stored != nil:
		return "the first start was interrupted, or every row is to be published: the next one begins it anew", nil
	default:
		return "neither slot nor checkpoint: the first start creates both", nil
	}
}

// sameLog refuses a checkpoint that lies in a part of the log that the server does not have: it was failed over to a standby
// that lacked the end. Other events have the LSNs of the lost ones by now, so that reading on would leave them out.
func sameLog(c *checkpoint.Checkpoint, sys wal.System, history wal.History) error {
	if c.Timeline == sys.Timeline {
		return nil
	}
	end, known := history[c.Timeline]
	switch {
	case !known:
		return refuse(fmt.Errorf("the checkpoint at %s is from timeline %d, and the timeline %d of this server has not grown from it: it was failed over, or restored, from another", c.LSN, c.Timeline, sys.Timeline),
			"point source.dsn at the server that has gone on from there; if this one is to, "+adoptLost)
	case pglogrepl.LSN(c.LSN) > end:
		return refuse(fmt.Errorf("the checkpoint at %s is beyond %s, where this server left timeline %d: it was failed over to a standby that lacked the end of the log. Events that were committed beyond it are in Kafka and no longer in the database, and other events have their positions now",
			c.LSN, end, c.Timeline), "decide what the lost ones are worth, then "+adoptLost+"; to keep it from happening again: synchronized_standby_slots, see docs/failover.md")
	default:
		return nil
	}
}

const adoptLost = "tidemark checkpoint adopt --accept-gap: it goes on from the slot's position, and leaves nothing out that was committed since on the new timeline"

// Forks returns what the next term has to know of cuts in the server's log since the checkpoint was stored, besides the forks
// that it has: see checkpoint.Fork. Where it is not known since when the log is another one, nothing of what is in Kafka
// counts, and what is published again is doubled rather than lost.
func Forks(c *checkpoint.Checkpoint, sys wal.System, history wal.History) []checkpoint.Fork {
	end, known := history[c.Timeline]
	switch {
	case c.Timeline == sys.Timeline && (pglogrepl.LSN(c.LSN) <= sys.Flushed || sys.Standby):
		return c.Forks
	case c.State == checkpoint.Streaming && c.Timeline < sys.Timeline && known:
		return append(slices.Clone(c.Forks), checkpoint.Fork{LSN: checkpoint.LSN(end)})
	default:
		return []checkpoint.Fork{{}}
	}
}

// sameSource refuses a checkpoint that belongs to something else.
func sameSource(c *checkpoint.Checkpoint, sys wal.System, slotName string) error {
	const wayOut = "point source.dsn and checkpoint.path (checkpoint.topic, source.admin_dsn) at what belongs together; a new source takes a slot name or a place of its own for its checkpoint"
	switch {
	case c.SystemIdentifier != sys.ID:
		return refuse(fmt.Errorf("the checkpoint belongs to the Postgres cluster with system identifier %s, and this is %s", c.SystemIdentifier, sys.ID), wayOut)
	case c.Database != sys.Database:
		return refuse(fmt.Errorf("the checkpoint belongs to database %s, and this is %s", c.Database, sys.Database), wayOut)
	case c.Slot != slotName:
		return refuse(fmt.Errorf("the checkpoint belongs to slot %s, and source.slot is %s", c.Slot, slotName), wayOut)
	case c.Timeline > sys.Timeline:
		return refuse(fmt.Errorf("the checkpoint is from timeline %d, and this server is on %d: it is an old primary, or a standby that has not followed", c.Timeline, sys.Timeline),
			"point source.dsn at the current primary (several hosts and target_session_attrs=read-write work)")
	case c.State == checkpoint.Moved:
		return refuse(fmt.Errorf("the checkpoint was moved to %s at %s", c.MovedTo, c.WrittenAt.Format(time.RFC3339)),
			"set checkpoint.store to that; to have it here again, move it back with tidemark checkpoint move and the configuration that leads there")
	default:
		return nil
	}
}

// usable refuses a slot of another kind.
func usable(s *wal.Slot, sys wal.System) error {
	const wayOut = "name another slot in source.slot"
	switch {
	case s.Synced && sys.Standby: // passes when it is promoted
		return fmt.Errorf("slot %s is synced to this standby from its primary, and cannot be used before a promotion: point source.dsn at the primary (several hosts and target_session_attrs=read-write work), or name a slot of the standby's own in source.slot", s.Name)
	case s.Type != "logical" || s.Plugin != "pgoutput":
		return &hinted{fmt.Errorf("slot %s is not a logical slot with plugin pgoutput but %s %s", s.Name, s.Type, s.Plugin), wayOut}
	case s.Database != sys.Database:
		return &hinted{fmt.Errorf("slot %s belongs to database %s, and source.dsn leads to %s", s.Name, s.Database, sys.Database), wayOut}
	case s.Temporary:
		return &hinted{fmt.Errorf("slot %s is temporary and would be gone with its connection", s.Name), wayOut}
	default:
		return nil
	}
}

// Refusal says that going on would lose or hide events. The process ends with exit status 3.
type Refusal struct {
	Reason error
	WayOut string
}

func refuse(reason error, wayOut string) error { return &Refusal{reason, wayOut} }

func (r *Refusal) Error() string { return "refused: " + r.Reason.Error() + ". " + r.WayOut }
func (r *Refusal) Unwrap() error { return r.Reason }

// Hint is the way out, the end of its text.
func (r *Refusal) Hint() string { return r.WayOut }

// Refused tells the command line which exit status to choose.
func (r *Refusal) Refused() bool { return true }

// hinted is an error that a person has to mend, with the way how.
type hinted struct {
	err    error
	wayOut string
}

func (h *hinted) Error() string { return h.err.Error() + ": " + h.wayOut }
func (h *hinted) Unwrap() error { return h.err }

// Hint is the way out, the end of its text.
func (h *hinted) Hint() string { return h.wayOut }

var errOnce = errors.New("everything that was there at the start is in Kafka")
