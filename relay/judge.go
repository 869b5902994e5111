package relay

import (
	"errors"
	"fmt"
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
// is not active; the checkpoint is nil if none is stored. Whatever could hide a gap is refused.
func judge(slot *wal.Slot, stored *checkpoint.Checkpoint, sys wal.System, slotName string) (decision, error) {
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
	interrupted := stored != nil && stored.State == checkpoint.ExistingRows
	switch {
	case slot == nil && stored == nil:
		return create, nil
	case slot == nil && interrupted:
		return create, nil
	case slot == nil:
		return 0, refuse(fmt.Errorf("slot %s does not exist, but a checkpoint at %s is stored: events committed since then may never have been read", slotName, stored.LSN),
			recreate)
	case interrupted:
		return begin, nil
	}
	if reason, lost := slot.Lost(); lost {
		return 0, refuse(fmt.Errorf("slot %s is lost (%s): Postgres has removed log that it needed, and the events in it", slot.Name, reason),
			recreate+"; to keep it from happening again raise max_slot_wal_keep_size, or watch source.wal_budget")
	}
	if stored == nil {
		return adopt, nil
	}
	confirmed, err := slot.Confirmed()
	if err != nil {
		return 0, fmt.Errorf("slot %s: confirmed_flush_lsn: %w", slot.Name, err)
	}
	if confirmed > pglogrepl.LSN(stored.LSN) {
		return 0, refuse(fmt.Errorf("slot %s is at %s, ahead of the checkpoint at %s: somebody else has moved it, or the checkpoint is an old one; events between the two would be missing",
			slot.Name, confirmed, stored.LSN),
			"if another relay (on another host?) uses this slot, give each its own; if the checkpoint is an old copy, restore the newest; else take the slot's position with tidemark checkpoint adopt --accept-gap; what was committed in between is in the outbox table and may be missing in Kafka")
	}
	if pglogrepl.LSN(stored.LSN) > sys.Flushed && !sys.Standby {
		return 0, refuse(fmt.Errorf("the checkpoint at %s is ahead of the server's log, which ends at %s: the server has lost its newest part (restored from a backup, or failed over to a standby that was behind)",
			stored.LSN, sys.Flushed),
			"events beyond it are in Kafka but no longer in the database; decide what they are worth, then tidemark checkpoint adopt --accept-gap")
	}
	return resume, nil
}

const recreate = "create it anew with tidemark init --recreate-slot; what was committed in between is in the outbox table and may be missing in Kafka"

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

// Refused tells the command line which exit status to choose.
func (r *Refusal) Refused() bool { return true }

// hinted is an error that a person has to mend, with the way how.
type hinted struct {
	err    error
	wayOut string
}

func (h *hinted) Error() string { return h.err.Error() + ": " + h.wayOut }
func (h *hinted) Unwrap() error { return h.err }

var errOnce = errors.New("everything that was there at the start is in Kafka")
