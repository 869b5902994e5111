package reconcile

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/wal"
)

const (
	settlePoll = 200 * time.Millisecond
	// vacancy is how long the slot has to be free before that means that no relay runs: one that has lost its connection
	// is back by then.
	vacancy = 3 * time.Second
)

// settle returns when it is known of every row of the snapshot whether a relay will still publish it: none is, once the slot
// has confirmed a position behind the snapshot; or those that the log has behind the stored position, where no relay runs;
// or none, where there is no slot to read the log from.
func (v *verifier) settle(ctx context.Context, set *expected) error {
	free := time.Now()
	began := free
	ticker := time.NewTicker(settlePoll)
	defer ticker.Stop()
	for {
		slot, err := v.conn.Slot(ctx)
		if err != nil {
			return err
		}
		if slot == nil {
			return v.noSlot("there is no slot " + v.Source.Slot)
		}
		if reason, lost := slot.Lost(); lost {
			return v.noSlot("slot " + slot.Name + " is lost (" + reason + ")")
		}
		confirmed, err := slot.Confirmed()
		if err != nil {
			return fmt.Errorf("slot %s: confirmed_flush_lsn: %w", slot.Name, err)
		}
		if confirmed >= v.end {
			v.report.Relay = "published"
			return nil
		}
		if slot.Active {
			free = time.Now()
			if v.due() {
				v.Log.Info().Stringer("confirmed", confirmed).Stringer("until", v.end).Int("pid", slot.ActivePID).
					Msg("waiting until the relay has published and confirmed what is in the snapshot (pid is its Postgres backend)")
			}
		} else if time.Since(free) >= vacancy {
			stored, err := v.Stored(ctx, v.conn.System)
			if err != nil {
				return err
			}
			v.Log.Info().Stringer("stored", stored).Stringer("until", v.end).
				Msg("no relay runs: reading from the log what it has still to publish")
			err = v.learnComing(ctx, stored, set)
			if err == nil {
				v.report.Relay = "stopped"
				return nil
			}
			if !wal.IsSlotActive(err) {
				return err
			}
			free = time.Now() // a relay was quicker
		}
		if v.patience > 0 && time.Since(began) > v.patience {
			return fmt.Errorf("the relay has confirmed %s, and after %s not yet %s, where the snapshot ends: see tidemark status, and run this again when it has caught up",
				confirmed, v.patience, v.end)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func (v *verifier) noSlot(what string) error {
	v.report.Relay = "no slot"
	if v.Repair {
		return fmt.Errorf("%s: rows that are committed from now on until there is one would be missing again; first create it: tidemark init --recreate-slot", what)
	}
	return nil
}

// learnComing enters what the log holds from the stored position to the end of the snapshot. It confirms nothing but what is
// stored, and while it reads no relay can begin: that one waits as hot standby.
func (v *verifier) learnComing(ctx context.Context, stored pglogrepl.LSN, set *expected) error {
	conn, err := wal.Connect(ctx, v.Source)
	if err != nil {
		return err
	}
	defer conn.Close()
	decoder, err := v.newDecoder(ctx)
	if err != nil {
		return err
	}
	reader, err := conn.Start(ctx, stored, func() pglogrepl.LSN { return stored })
	if err != nil {
		return err
	}
	defer reader.Close()
	rows := 0
	return readLog(ctx, reader, decoder, v.end, func(ev *decode.Event, _ pglogrepl.LSN) error {
		if ev != nil {
			rows++
			v.learn(set, v.marks.of(ev.Topic, ev.ID), coming)
		}
		if v.due() {
			v.Log.Info().Int("rows", rows).Stringer("until", v.end).Msg("reading from the log what is still to be published")
		}
		return nil
	})
}
