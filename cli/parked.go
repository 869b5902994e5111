package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/park"
	"github.com/tidemark/tidemark/relay"
	"github.com/tidemark/tidemark/wal"
)

func (a *app) parkedCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "parked",
		Short: "List, show, release or discard events that could not be published",
		Long: `parked deals with the events that could not be published under delivery.on_poison: park. They are in the table
public.tidemark_parked of the source's database, each with the reason. So that the order of its key holds, a parked
event holds up the later events of its key (the same key in the same topic): they are parked behind it.

The way out: see what is wrong (list, show), mend it (the topic's limit, an authorization, ...), then release the event,
and it is published together with what waits behind it. If it must never be published, discard it; what waits behind it
goes on without it.

The commands only change the table. A running relay acts within about a second, one that is started later then.`,
		Example: `  tidemark parked list
  tidemark parked show 5f2c…
  tidemark parked release 5f2c…`,
	}
	source := command.PersistentFlags().String("source", "", "act on the events of this source, as the header tidemark-source names it (default: the configured one)")
	command.AddCommand(
		a.parkedListCommand(source),
		a.parkedShowCommand(source),
		a.parkedReleaseCommand(source),
		a.parkedDiscardCommand(source),
	)
	return command
}

func (a *app) parkedListCommand(source *string) *cobra.Command {
	var asJSON bool
	var limit int
	command := &cobra.Command{
		Use:   "list",
		Short: "List the parked events, those that wait for a decision first",
		Long: `list prints a line for each parked event, without its payload: first those that wait for a decision, with the reason,
then those that wait behind them or are on their way, both oldest first.`,
		Example: "  tidemark parked list\n  tidemark parked list --limit 0 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return &usageError{fmt.Errorf("--limit %d: give 0 for all, or a number above it", limit)}
			}
			report, err := a.listParked(cmd.Context(), *source, limit)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(report)
			}
			return a.printParked(report)
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	command.Flags().IntVar(&limit, "limit", 100, "print at most so many events; 0: all")
	return command
}

func (a *app) parkedShowCommand(source *string) *cobra.Command {
	var asJSON, payload bool
	command := &cobra.Command{
		Use:   "show ID",
		Short: "Show everything about a parked event",
		Long: `show prints what is known of the parked event with that id, headers included. The payload is left out unless --payload
is given: that prints the payload, byte for byte, and nothing else; with --json it is part of the object.

Instead of the id its position will do, as list prints it. It is needed where several parked events share an id.`,
		Example: "  tidemark parked show 5f2c…\n  tidemark parked show 5f2c… --payload > payload.json",
		Args:    oneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := a.load()
			if err != nil {
				return err
			}
			store, err := openParked(cmd.Context(), c, *source)
			if err != nil {
				return err
			}
			defer store.Close()
			events, err := store.Show(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			switch {
			case asJSON:
				return a.printJSON(showParked(events, payload))
			case payload:
				return a.printPayload(args[0], events)
			}
			return a.printParkedEvents(events)
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print one JSON array")
	command.Flags().BoolVar(&payload, "payload", false, "print the payload")
	return command
}

func (a *app) parkedReleaseCommand(source *string) *cobra.Command {
	var key string
	var all bool
	command := &cobra.Command{
		Use:   "release [ID]",
		Short: "Let parked events be published",
		Long: `release frees a parked event, all parked events of a key, or all there are. The relay publishes them, and what waits
behind them, in the order of each key. What still cannot be published is parked again, with the new reason.

An event is not released while an earlier one of its key waits for a decision: the order of the key would be lost.

Instead of the id its position will do, as list prints it. --key takes the key's text, or \x and hex digits, as list
prints it, and means that key in every topic. An event without a key is released by its id, or with --all.`,
		Example: "  tidemark parked release 5f2c…\n  tidemark parked release --key order-17\n  tidemark parked release --all",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			byKey := cmd.Flags().Changed("key")
			if len(args) == 1 && args[0] == "" {
				return &usageError{errors.New("the ID is empty (see tidemark parked release --help)")}
			}
			if given := len(args) + btoi(byKey) + btoi(all); given != 1 {
				return &usageError{errors.New("give one of ID, --key KEY and --all (see tidemark parked release --help)")}
			}
			c, _, err := a.load()
			if err != nil {
				return err
			}
			store, err := openParked(cmd.Context(), c, *source)
			if all && park.IsNoTable(err) {
				a.printf("Nothing is parked.\n")
				return nil
			}
			if err != nil {
				return err
			}
			defer store.Close()
			return a.release(cmd.Context(), store, args, byKey, key)
		},
	}
	command.Flags().StringVar(&key, "key", "", "release all parked events of this key, in every topic")
	command.Flags().BoolVar(&all, "all", false, "release all parked events")
	return command
}

func (a *app) release(ctx context.Context, store *park.Store, args []string, byKey bool, key string) error {
	var n int64
	var err error
	switch {
	case len(args) == 1:
		if err = store.Release(ctx, args[0]); err == nil {
			a.printf("Released: %s, with what waits behind it.\n", cell(args[0]))
		}
	case byKey:
		if n, err = store.ReleaseKey(ctx, key); err == nil {
			a.printf("Released: %s of key %s, with what waits behind.\n", counted(n), cell(key))
		}
	default:
		if n, err = store.ReleaseAll(ctx); err == nil {
			a.printf("Released: %s, with what waits behind.\n", counted(n))
		}
	}
	if err != nil {
		return err
	}
	a.printf("A running relay publishes it within about a second, else the next `tidemark run` does.\n" +
		"`tidemark parked list` shows what is still there, and what could not be published again.\n")
	return nil
}

func (a *app) parkedDiscardCommand(source *string) *cobra.Command {
	var yes bool
	command := &cobra.Command{
		Use:   "discard ID --yes",
		Short: "Remove a parked event for good; it will never be published",
		Long: `discard removes a parked event from the table. It will never reach Kafka, and what waits behind it goes on without it.
Without --yes it changes nothing, says what would be lost and ends with exit status 3.

It is about one event, never about a key or all: those that wait behind it have nothing wrong with them. Instead of the
id its position will do, as list prints it. An event that was handed over already cannot be discarded.

It waits for some seconds until the stored checkpoint is past the event, and fails if that does not come: a relay that
goes on from before the event would park it again.`,
		Example: "  tidemark parked discard 5f2c…         # says what would be lost\n  tidemark parked discard 5f2c… --yes",
		Args:    oneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := a.load()
			if err != nil {
				return err
			}
			store, err := openParked(cmd.Context(), c, *source)
			if err != nil {
				return err
			}
			defer store.Close()
			if !yes {
				return wouldDiscard(cmd.Context(), store, args[0])
			}
			if err := awaitStoredPast(cmd.Context(), c, *source, store, args[0]); err != nil {
				return err
			}
			if err := store.Discard(cmd.Context(), args[0]); err != nil {
				return err
			}
			a.printf("Discarded for good: %s.\nWhat waited behind it alone is published by a running relay within about a second, else by the next `tidemark run`.\n", cell(args[0]))
			return nil
		},
	}
	command.Flags().BoolVar(&yes, "yes", false, "do it")
	return command
}

// storedPatience is how long the stored checkpoint may take to pass an event that is parked: a relay stores it within a second.
const storedPatience = 5 * time.Second

// awaitStoredPast waits until the stored checkpoint is past the event of that id. Before that its row in the table is what
// tells a successor of the relay, which reads the event again, that it was dealt with.
func awaitStoredPast(ctx context.Context, c *config.Config, source string, parked *park.Store, id string) error {
	events, err := parked.Show(ctx, id)
	if err != nil || len(events) > 1 { // which Discard has something to say about
		return err
	}
	at := events[0].Event.Position
	store, err := checkpointStore(c)
	if err != nil {
		return err
	}
	defer store.Close()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(storedPatience); ; {
		stored, err := store.Load(ctx)
		if err != nil {
			return err
		}
		if stored == nil || (source != "" && source != stored.SystemIdentifier+"/"+stored.Database+"/"+stored.Slot) { // nobody goes on from there
			return nil
		}
		if stored.State == checkpoint.Streaming && stored.LSN > checkpoint.LSN(at.Commit) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the stored checkpoint, at %s, is not past the event at position %s: a relay that goes on from there would park it again; "+
				"see that a relay runs, and what holds it up (tidemark status), and try again", stored.LSN, at)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// wouldDiscard returns the refusal that says what would be lost.
func wouldDiscard(ctx context.Context, store *park.Store, id string) error {
	events, err := store.Show(ctx, id)
	if err != nil {
		return err
	}
	var what []string
	for i := range events {
		e := &events[i]
		reason := e.Reason
		if e.Behind {
			reason = "nothing is wrong with it"
		}
		what = append(what, fmt.Sprintf("event %s of %s at position %s, topic %s, key %s, payload %s, committed %s (%s)",
			cell(e.Event.ID), cell(e.Event.Table), e.Event.Position, cell(e.Event.Topic), keyCell(e.Event.Key), valueText(e), e.Event.CommitTime.Format(time.RFC3339), reason))
	}
	hint := "Nothing is changed. Add --yes to discard it"
	if len(events) > 1 {
		hint = "Nothing is changed. Several events have this id: give the position of the one that is meant"
	}
	return &loss{fmt.Errorf("discarding means that this is never published: %s. %s", strings.Join(what, "; "), hint)}
}

// loss is a refusal: going on would lose an event.
type loss struct{ err error }

func (l *loss) Error() string { return l.err.Error() }
func (l *loss) Unwrap() error { return l.err }
func (l *loss) Refused() bool { return true }

// openParked opens the table of parked events, which it does not create. An empty source is the configured one, whose
// name takes the source's system identifier.
func openParked(ctx context.Context, c *config.Config, source string) (*park.Store, error) {
	if source == "" {
		var err error
		if source, err = configuredSource(ctx, c); err != nil {
			return nil, err
		}
	}
	return park.OpenExisting(ctx, string(c.Source.AdminDSN), source)
}

// configuredSource returns the text of the header tidemark-source.
func configuredSource(ctx context.Context, c *config.Config) (string, error) {
	conn, err := wal.Connect(ctx, sourceOptions(c))
	if err != nil {
		return "", fmt.Errorf("%w (needed for the source's name, unless --source gives it)", err)
	}
	defer conn.Close()
	return relay.SourceName(conn.System, c.Source.Slot), nil
}

// oneID takes the one argument that tells an event.
func oneID(_ *cobra.Command, args []string) error {
	switch {
	case len(args) == 0 || args[0] == "":
		return errors.New("give the ID of a parked event, or its position")
	case len(args) > 1:
		return fmt.Errorf("unexpected argument %q", args[1])
	}
	return nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
