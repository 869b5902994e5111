package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/config"
)

func (a *app) checkpointMoveCommand() *cobra.Command {
	var to config.Checkpoint
	var replace bool
	command := &cobra.Command{
		Use:   "move --to file|postgres|kafka",
		Short: "Take the checkpoint to another store",
		Long: `move takes the checkpoint from the configured store to another, while no relay streams from the slot: it copies it, reads
the copy back, and marks the original as moved, so that no relay can start from there by mistake. After that, and before
the next start, set checkpoint.store to the new one. A move that was interrupted can be run again.

It refuses to put the checkpoint above one that is later or belongs to another source, unless --replace is given; what
is replaced is kept beside it.`,
		Example: "  tidemark checkpoint move --to postgres\n  tidemark checkpoint move --to file --path /var/lib/tidemark/checkpoint",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := a.load()
			if err != nil {
				return err
			}
			target := *c
			target.Checkpoint.Store = to.Store
			if to.Path != "" {
				target.Checkpoint.Path = to.Path
			}
			if to.Topic != "" {
				target.Checkpoint.Topic = to.Topic
			}
			if err := checkMove(&c.Checkpoint, &target.Checkpoint, &to); err != nil {
				return &usageError{err}
			}
			return a.moveCheckpoint(cmd.Context(), c, &target, replace)
		},
	}
	command.Flags().StringVar(&to.Store, "to", "", "file, postgres or kafka")
	command.Flags().StringVar(&to.Path, "path", "", "with --to file: the file (default checkpoint.path)")
	command.Flags().StringVar(&to.Topic, "topic", "", "with --to kafka: the topic (default checkpoint.topic)")
	command.Flags().BoolVar(&replace, "replace", false, "replace a checkpoint that is there, whatever it is")
	return command
}

// checkMove looks at what was asked for: to is as given, and target what it makes of the configuration from.
func checkMove(from, target, to *config.Checkpoint) error {
	same := from.Store == to.Store
	switch to.Store {
	case "":
		return errors.New("where to? give --to file, --to postgres or --to kafka")
	case "file":
		if target.Path == "" {
			return errors.New("give --path with --to file, since checkpoint.path is empty")
		}
		same = same && from.Path == target.Path
	case "postgres":
	case "kafka":
		if target.Topic == "" {
			return errors.New("give --topic with --to kafka, since checkpoint.topic is empty")
		}
		same = same && from.Topic == target.Topic
	default:
		return fmt.Errorf("--to %q is none of file, postgres, kafka", to.Store)
	}
	switch {
	case to.Path != "" && to.Store != "file":
		return errors.New("--path goes with --to file")
	case to.Topic != "" && to.Store != "kafka":
		return errors.New("--topic goes with --to kafka")
	case same:
		return errors.New("the checkpoint is kept there already")
	}
	return nil
}

// moveCheckpoint copies, reads the copy back and only then marks the original. Wherever it is interrupted, the configured
// store either has the checkpoint still, or says where it went.
func (a *app) moveCheckpoint(ctx context.Context, c, to *config.Config, replace bool) error {
	from, err := checkpointStore(c)
	if err != nil {
		return err
	}
	defer from.Close()
	target, err := checkpointStore(to)
	if err != nil {
		return err
	}
	defer target.Close()
	stored, err := loadIdle(ctx, c, from)
	if err != nil {
		return err
	}
	next := *stored
	next.Writer = rand.Text() // nobody who was here before holds the copy
	kept, err := copyCheckpoint(ctx, target, &next, replace)
	if err != nil {
		return err
	}
	if err := readBack(ctx, to, &next); err != nil {
		return err
	}
	mark := *stored
	mark.State, mark.MovedTo, mark.Writer, mark.WrittenAt = checkpoint.Moved, target.String(), next.Writer, time.Now().UTC()
	err = from.Save(ctx, &mark, stored.Writer)
	if checkpoint.IsTakenOver(err) {
		return fmt.Errorf("a relay has gone on in %s meanwhile: stop it, and move again", from)
	}
	if err != nil {
		return err
	}
	a.printf("The checkpoint at %s is now in %s.\nBefore the next start set checkpoint.store: %s", next.LSN, target, to.Checkpoint.Store)
	switch {
	case to.Checkpoint.Path != c.Checkpoint.Path:
		a.printf(" and checkpoint.path: %s", to.Checkpoint.Path)
	case to.Checkpoint.Topic != c.Checkpoint.Topic:
		a.printf(" and checkpoint.topic: %s", to.Checkpoint.Topic)
	}
	a.printf("\nNo relay starts from %s any more.\n", from)
	if kept != "" {
		a.printf("What was in the new place is kept in %s.\n", kept)
	}
	return nil
}

// loadIdle returns the checkpoint of a source from whose slot nobody streams.
func loadIdle(ctx context.Context, c *config.Config, from store) (*checkpoint.Checkpoint, error) {
	conn, _, err := connectIdle(ctx, c)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stored, err := from.Load(ctx)
	switch {
	case err != nil:
		return nil, err
	case stored == nil:
		return nil, fmt.Errorf("nothing is stored in %s: there is nothing to move, just change checkpoint.store", from)
	case stored.State == checkpoint.Moved:
		return nil, fmt.Errorf("the checkpoint was moved to %s already, at %s", stored.MovedTo, stored.WrittenAt.Format(time.RFC3339))
	case stored.State != checkpoint.Streaming:
		return nil, fmt.Errorf("the first start has not finished yet: let tidemark run publish the existing rows first")
	case stored.SystemIdentifier != conn.System.ID || stored.Database != conn.System.Database || stored.Slot != c.Source.Slot:
		return nil, fmt.Errorf("the checkpoint in %s belongs to %s/%s/%s, and this is %s/%s/%s (system identifier, database, slot)",
			from, stored.SystemIdentifier, stored.Database, stored.Slot, conn.System.ID, conn.System.Database, c.Source.Slot)
	}
	return stored, nil
}

// copyCheckpoint stores next in target, unless what is there is worth more.
func copyCheckpoint(ctx context.Context, target store, next *checkpoint.Checkpoint, replace bool) (kept string, err error) {
	there, err := target.Load(ctx)
	var refused error
	switch {
	case checkpoint.IsCorrupt(err):
		refused = err
	case err != nil:
		return "", err
	case there == nil:
		return "", target.Save(ctx, next, "")
	case there.SystemIdentifier != next.SystemIdentifier || there.Database != next.Database || there.Slot != next.Slot:
		refused = fmt.Errorf("in %s is the checkpoint of another source: %s/%s/%s (system identifier, database, slot)",
			target, there.SystemIdentifier, there.Database, there.Slot)
	case there.LSN > next.LSN:
		refused = fmt.Errorf("in %s is a later checkpoint, at %s, and this one is at %s", target, there.LSN, next.LSN)
	default:
		return "", target.Save(ctx, next, there.Writer)
	}
	if !replace {
		return "", fmt.Errorf("%w: look at it (tidemark checkpoint show, with checkpoint.store set to that); to put this one in its place, give --replace", refused)
	}
	return target.Replace(ctx, next, time.Now())
}

// readBack makes sure that another process will find want in the store of c.
func readBack(ctx context.Context, c *config.Config, want *checkpoint.Checkpoint) error {
	store, err := checkpointStore(c)
	if err != nil {
		return err
	}
	defer store.Close()
	got, err := store.Load(ctx)
	if err != nil {
		return err
	}
	if got == nil {
		return fmt.Errorf("what was stored in %s is not there", store)
	}
	a, errA := checkpoint.Encode(got)
	b, errB := checkpoint.Encode(want)
	if err := errors.Join(errA, errB); err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return fmt.Errorf("what was stored in %s reads differently: it is left there, and the original as it is", store)
	}
	return nil
}
