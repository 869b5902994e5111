package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/relay"
	"github.com/tidemark/tidemark/wal"
)

func (a *app) checkpointCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "checkpoint",
		Short: "Show the stored checkpoint, move it, take the slot's position after a refusal, or take over from another relay",
		Long: `checkpoint deals with the stored position: everything before it is in Kafka, and the relay starts from it. Its commands
leave the slot alone, and the events in Kafka, but for handover, which can publish some.`,
		Example: "  tidemark checkpoint show\n  tidemark checkpoint move --to postgres\n  tidemark checkpoint adopt --accept-gap\n  tidemark checkpoint handover --from-slot debezium",
	}
	command.AddCommand(a.checkpointShowCommand(), a.checkpointAdoptCommand(), a.checkpointMoveCommand(), a.checkpointHandoverCommand())
	return command
}

func (a *app) checkpointShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Short:   "Print the stored checkpoint as JSON",
		Long:    "show prints the stored checkpoint as it is, without asking Postgres. It fails if nothing is stored, or nothing whole.",
		Example: "  tidemark checkpoint show",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := a.load()
			if err != nil {
				return err
			}
			store, err := checkpointStore(c)
			if err != nil {
				return err
			}
			defer store.Close()
			stored, err := store.Load(cmd.Context())
			if err != nil {
				return err
			}
			if stored == nil {
				return fmt.Errorf("nothing is stored in %s: the first `tidemark run` stores a checkpoint", store)
			}
			b, err := checkpoint.Encode(stored)
			if err != nil {
				return err
			}
			a.printf("%s", b)
			return nil
		},
	}
}

func (a *app) checkpointAdoptCommand() *cobra.Command {
	var accept bool
	command := &cobra.Command{
		Use:   "adopt --accept-gap",
		Short: "Take the slot's position as the checkpoint, after a refusal",
		Long: `adopt stores the slot's position as the checkpoint, so that a relay that refused to start goes on from there. It is for
a slot that is ahead of the checkpoint, and for a checkpoint that is torn, foreign or ahead of the server. What was
stored is kept beside the new one.

It is also for a publication that was changed: it then stores the publication as it is, and leaves the position where it
was.

Events committed between the old checkpoint and the slot's position may be missing in Kafka: Postgres will not send them
again. They are still in the outbox table, unless something deletes from it: tidemark verify --repair finds those that are
missing and publishes them.

After a failover to a standby that lacked the end of the log, nothing that is in the database is left out: reading goes on
from the slot's position, and what is in Kafka of the lost end is not taken for what has its positions now. The lost
events stay in Kafka, and some others may arrive a second time.`,
		Example: "  tidemark checkpoint show\n  tidemark checkpoint adopt --accept-gap",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !accept {
				return &usageError{fmt.Errorf("adopt can leave events out: read `tidemark checkpoint adopt --help`, then give --accept-gap")}
			}
			c, _, err := a.load()
			if err != nil {
				return err
			}
			return a.adoptCheckpoint(cmd.Context(), c)
		},
	}
	command.Flags().BoolVar(&accept, "accept-gap", false, "go on although events may be missing in Kafka")
	return command
}

func (a *app) adoptCheckpoint(ctx context.Context, c *config.Config) error {
	conn, slot, err := connectIdle(ctx, c)
	if err != nil {
		return err
	}
	defer conn.Close()
	if slot == nil {
		return fmt.Errorf("slot %s does not exist, so it has no position: tidemark init --recreate-slot", c.Source.Slot)
	}
	if reason, lost := slot.Lost(); lost {
		return fmt.Errorf("slot %s is lost (%s), so its position is of no use: tidemark init --recreate-slot", slot.Name, reason)
	}
	start, err := slot.Confirmed()
	if err != nil {
		return fmt.Errorf("slot %s: confirmed_flush_lsn: %w", slot.Name, err)
	}
	if err := conn.Refresh(ctx); err != nil { // a relay may have gone on until just now
		return err
	}
	next := relay.NewCheckpoint(conn.System, slot.Name)
	next.LSN = checkpoint.LSN(start)
	at := time.Now()
	publication, err := goodPublication(ctx, conn)
	if err != nil {
		return err
	}
	store, err := checkpointStore(c)
	if err != nil {
		return err
	}
	defer store.Close()
	stored, err := store.Load(ctx)
	if err != nil && !checkpoint.IsCorrupt(err) {
		return err
	}
	if stored != nil {
		history, err := conn.History(ctx)
		if err != nil {
			return err
		}
		if relay.Fits(slot, stored, conn.System, history) {
			was := stored.Publication
			stored.Publication = relay.NewPublication(*publication, at, stored.LSN)
			return a.adoptPublication(ctx, store, *stored, was)
		}
		next.Forks = relay.Forks(stored, conn.System, history)
		if next.MessagesFrom = stored.MessagesFrom; stored.Timeline != next.Timeline { // of another log
			next.MessagesFrom = min(next.MessagesFrom, next.LSN)
		}
	}
	if len(c.Messages) > 0 && (stored == nil || stored.LSN < next.LSN) {
		a.printf("Logical messages that were committed in the gap are lost: they are in no table.\n")
	}
	next.Publication = relay.NewPublication(*publication, at, next.LSN)
	return a.replaceCheckpoint(ctx, store, next)
}

// goodPublication returns the publication if a relay can work with it as it is.
func goodPublication(ctx context.Context, conn *wal.Conn) (*wal.Fingerprint, error) {
	f, err := conn.Fingerprint(ctx) // before it is checked: what is changed in between is refused at the next start
	if err != nil {
		return nil, err
	}
	missing, err := conn.CheckPublication(ctx)
	if err == nil && missing {
		err = errors.New("the publication does not exist: tidemark init creates it")
	}
	return &f, err
}

// adoptPublication stores next, which differs from what is stored only in the publication, and was that.
func (a *app) adoptPublication(ctx context.Context, store store, next checkpoint.Checkpoint, was *checkpoint.Publication) error {
	next.Writer, next.WrittenAt = "", time.Now().UTC() // whoever has written it does so no more
	kept, err := store.Replace(ctx, &next, time.Now())
	if err != nil {
		return err
	}
	a.printf("The checkpoint stays at %s, and the publication is taken as it is now.\nWhat was stored before is kept in %s.\n", next.LSN, kept)
	if was != nil && (was.Row != next.Publication.Row || !maps.Equal(was.Tables, next.Publication.Tables)) {
		a.printf("Events committed after %s may be missing in Kafka. They are still in the outbox table, unless something deletes from it: start the relay, and tidemark verify --repair publishes what is missing.\n", was.LSN)
	}
	return nil
}

// replaceCheckpoint stores next in the place of whatever is there, which it keeps under another name, and says what may
// be missing.
func (a *app) replaceCheckpoint(ctx context.Context, store store, next checkpoint.Checkpoint) error {
	stored, err := store.Load(ctx)
	if err != nil && !checkpoint.IsCorrupt(err) {
		return err
	}
	from := "an unknown position, since what was stored cannot be read,"
	switch {
	case err == nil && stored == nil:
		from = "the beginning"
	case err == nil:
		from = stored.LSN.String()
		if stored.SystemIdentifier == next.SystemIdentifier {
			// Where our events lie in the topics is still true, and so is who may have written them.
			next.Offsets, next.TopicIDs = stored.Offsets, stored.TopicIDs
			next.Producers, next.TransactionalID = stored.Producers, stored.TransactionalID
		}
	}
	kept, err := store.Replace(ctx, &next, time.Now())
	if err != nil {
		return err
	}
	if next.State == checkpoint.Republish {
		a.printf("The next `tidemark run` creates slot %s and publishes every row that is in the outbox then.\n", next.Slot)
	} else {
		a.printf("The checkpoint is now at %s.\n", next.LSN)
	}
	if stored != nil && stored.State == checkpoint.Moved {
		a.printf("It had been moved to %s. What is there is left alone: no relay may go on from it.\n", stored.MovedTo)
	}
	if kept != "" {
		a.printf("What was stored before is kept in %s.\n", kept)
	}
	switch {
	case next.State == checkpoint.Republish:
		a.printf("None is missing in Kafka after that, unless something deletes from the outbox; those that are there already arrive a second time, with the same id.\n")
	case stored != nil && stored.LSN >= next.LSN:
		a.printf("That is not beyond %s, where it was: no event is left out, and those committed in between may arrive a second time.\n", from)
	default:
		a.printf("Events committed after %s and before %s may be missing in Kafka. They are still in the outbox table, unless something deletes from it: tidemark verify --repair publishes what is missing.\n", from, next.LSN)
	}
	return nil
}
