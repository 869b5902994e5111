package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/wal"
)

// preparePublication checks the publication, creates it where this is the first start, and returns it as the checkpoint
// keeps it. Where the stream is to go on it must be the one that is stored: rows that were committed while it was not
// are in no part of the log that is still to come.
func (r *Relay) preparePublication(ctx context.Context, conn *wal.Conn, d decision, stored *checkpoint.Checkpoint) (*checkpoint.Publication, error) {
	at := time.Now()
	is, err := conn.Fingerprint(ctx) // before it is checked: a change in between is noticed at the next look
	if err != nil {
		return nil, err
	}
	missing, errCheck := conn.CheckPublication(ctx)
	if d == resume {
		if err := r.samePublication(stored.Publication, is, errCheck); err != nil {
			return nil, err
		}
	}
	if errCheck != nil || !missing {
		return NewPublication(is, at, storedLSN(stored)), errCheck
	}
	if (d != create && d != begin) || !r.Create {
		return nil, &hinted{
			fmt.Errorf("publication %s does not exist", r.Source.Publication),
			"tidemark init creates it (" + wal.CreatePublicationSQL(r.Source) + "); rows written while it was missing are in the table and may be missing in Kafka: tidemark verify --repair publishes them",
		}
	}
	if err := r.createPublication(ctx, conn); err != nil {
		return nil, err
	}
	at = time.Now()
	if is, err = conn.Fingerprint(ctx); err != nil {
		return nil, err
	}
	if missing, err = conn.CheckPublication(ctx); err == nil && missing {
		err = fmt.Errorf("publication %s was created and is not there: does source.admin_dsn lead to another database than source.dsn?", r.Source.Publication)
	}
	return NewPublication(is, at, 0), err
}

func (r *Relay) createPublication(ctx context.Context, conn *wal.Conn) error {
	setup, err := wal.OpenSetup(ctx, r.Source)
	if err != nil {
		return err
	}
	defer setup.Close()
	if err := setup.CreatePublication(ctx); err != nil {
		return err
	}
	if err := conn.CatchUp(ctx, setup); err != nil { // the slot must not begin before the publication
		return err
	}
	r.Log.Info().Str("publication", r.Source.Publication).Msg("publication created")
	return nil
}

func storedLSN(c *checkpoint.Checkpoint) checkpoint.LSN {
	if c == nil {
		return 0
	}
	return c.LSN
}

// NewPublication returns what a checkpoint keeps of a publication that was looked at not before at, when the checkpoint was
// at lsn or beyond.
func NewPublication(is wal.Fingerprint, at time.Time, lsn checkpoint.LSN) *checkpoint.Publication {
	return &checkpoint.Publication{Row: is.Publication, Tables: is.Tables, LSN: lsn, SeenAt: at.UTC()}
}

// samePublication refuses one that is not the same as it was, or was not in between. A table that was not looked at then is
// new in the configuration. wrong is what stands against it as it is now, if that is known.
func (r *Relay) samePublication(was *checkpoint.Publication, is wal.Fingerprint, wrong error) error {
	return SamePublication(r.Source.Publication, was, is, wrong)
}

// SamePublication is what a relay goes by: see samePublication.
func SamePublication(name string, was *checkpoint.Publication, is wal.Fingerprint, wrong error) error {
	if was == nil { // stored before this was looked at
		return nil
	}
	what := changed(was, is)
	if what == "" {
		return nil
	}
	reason := fmt.Errorf("%s since the publication %s was last looked at (%s, with the checkpoint at %s): rows that were committed since then may be missing in what Postgres sends, although they are in the outbox table",
		what, name, was.SeenAt.Format(time.RFC3339), was.LSN)
	if wrong != nil {
		reason = fmt.Errorf("%w; and now %w", reason, wrong)
	}
	return refuse(reason, publicationWayOut)
}

const publicationWayOut = "When the publication is as it has to be (tidemark init creates a missing one): tidemark checkpoint adopt --accept-gap, which takes it as it is then and keeps the position, start again, and tidemark verify --repair, which publishes what is missing; if the relay cannot read the log past that point, tidemark init --recreate-slot in the place of adopt"

// changed says what is not the same any more; "" if nothing.
func changed(was *checkpoint.Publication, is wal.Fingerprint) string {
	switch {
	case is.Publication == "":
		return "the publication was dropped"
	case is.Publication != was.Row:
		return "the publication was created anew, or its settings were changed,"
	}
	for table, row := range was.Tables {
		switch now, configured := is.Tables[table]; {
		case !configured, now == row:
		case now == "":
			return "table " + table + " was taken out of the publication, or dropped or renamed,"
		default:
			return "table " + table + " was taken out of the publication and put in again, or a row filter or column list was put on it or off,"
		}
	}
	return ""
}

// lookEvery is the default of Options.PublicationEvery and SlotEvery.
const lookEvery = 5 * time.Second

// watchPublication looks again and again whether the publication still is the one that the stream began with, until ctx is
// done. One that is not ends the term.
func (p *path) watchPublication(ctx context.Context) {
	trouble := newOutage(p.Log, "whether the publication was changed cannot be looked up")
	every(ctx, p.PublicationEvery, func() {
		if p.Status().State != Streaming { // the next connection looks
			return
		}
		if err := p.lookAtPublication(ctx); err == nil {
			trouble.healed()
		} else {
			_ = trouble.wait(ctx, err) // it is ctx's
		}
	})
}

func (p *path) lookAtPublication(ctx context.Context) error {
	at, lsn := time.Now(), p.store.confirmable() // before the look, which is true of all that was committed before
	is, err := p.lookout.Load().Fingerprint(ctx)
	if err != nil {
		return err
	}
	if err := p.samePublication(p.store.current().Publication, is, nil); err != nil {
		p.fail(err)
		return nil
	}
	p.store.sawPublication(NewPublication(is, at, checkpoint.LSN(lsn)))
	return nil
}

// sawPublication notes that the publication is as it was. It is stored with the next checkpoint.
func (s *storing) sawPublication(seen *checkpoint.Publication) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stored.Publication = seen
}

// Fits reports whether a relay would go on from a stored checkpoint as it is, as far as slot and log are concerned.
func Fits(slot *wal.Slot, stored *checkpoint.Checkpoint, sys wal.System, history wal.History) bool {
	if stored == nil {
		return false
	}
	d, err := judge(slot, stored, sys, history, slot.Name)
	return err == nil && d == resume
}
