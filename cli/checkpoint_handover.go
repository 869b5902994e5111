package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/reconcile"
	"github.com/tidemark/tidemark/relay"
	"github.com/tidemark/tidemark/wal"
)

const (
	handoverRows   = 2_000_000 // some 300 MB
	handoverMargin = time.Hour // by how much clocks may differ
)

func (a *app) checkpointHandoverCommand() *cobra.Command {
	var from string
	var accept bool
	command := &cobra.Command{
		Use:   "handover --from-slot NAME",
		Short: "Take over where another relay, such as Debezium, has stopped",
		Long: `handover stores as the checkpoint where another relay has stopped, so that tidemark goes on from there: nothing is left
out, and nothing is published twice. The order of steps matters:

 1. tidemark init, with source.existing_rows: skip, while the other relay still runs. It creates tidemark's slot.
 2. Wait until the other relay's slot (--from-slot) has confirmed a later position than that slot's.
 3. Stop the other relay, for good.
 4. tidemark checkpoint handover
 5. tidemark run

handover reads the log from tidemark's slot to its end, looks up each row in Kafka by topic and id (header id), and takes the end of the last
transaction that has a row there. Rows before it that are not there it publishes: those of a transaction that the other
relay was stopped in, or that a crash has kept out of Kafka. It may be interrupted, and run again.

It refuses (exit status 3) if the other relay may not have published what was committed before tidemark's slot was
created; with --accept-gap it goes on, and tidemark verify --repair publishes what is missing.`,
		Example: "  tidemark checkpoint handover --from-slot debezium",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" {
				return &usageError{errors.New("--from-slot is required: the other relay's slot says whether it has stopped, and how far it has come")}
			}
			c, log, err := a.load()
			if err != nil {
				return err
			}
			if from == c.Source.Slot {
				return &usageError{fmt.Errorf("--from-slot %s is source.slot: give tidemark a slot of its own", from)}
			}
			return a.handover(cmd.Context(), c, log, from, accept)
		},
	}
	command.Flags().StringVar(&from, "from-slot", "", "the slot of the other relay")
	command.Flags().BoolVar(&accept, "accept-gap", false, "go on although events may be missing in Kafka")
	return command
}

func (a *app) handover(ctx context.Context, c *config.Config, log zerolog.Logger, from string, accept bool) error {
	store, err := checkpointStore(c)
	if err != nil {
		return err
	}
	defer store.Close()
	if stored, err := store.Load(ctx); err != nil {
		return err
	} else if stored != nil {
		return fmt.Errorf("a checkpoint is stored already, in %s: tidemark goes on from there, and there is nothing to hand over", store)
	}
	conn, slot, err := connectIdle(ctx, c)
	if err != nil {
		return err
	}
	defer conn.Close()
	if slot == nil {
		return fmt.Errorf("slot %s does not exist: start the other relay again, let tidemark init create the slot, and hand over then", c.Source.Slot)
	}
	begin, err := slot.Confirmed()
	if err != nil {
		return fmt.Errorf("slot %s: confirmed_flush_lsn: %w", slot.Name, err)
	}
	if err := otherHasPassed(ctx, c, from, begin, accept); err != nil {
		return err
	}
	at := time.Now()
	publication, err := goodPublication(ctx, conn)
	if err != nil {
		return err
	}
	o := reconcile.HandoverOptions{From: begin, MostRows: handoverRows, ClockMargin: handoverMargin}
	reconcileParts(c, store, &o.Options)
	o.Log = log.With().Str("component", "handover").Logger()
	report, err := reconcile.Handover(ctx, o)
	if err != nil {
		return err
	}
	next := relay.NewCheckpoint(conn.System, slot.Name)
	next.LSN = checkpoint.LSN(report.LSN)
	next.Publication = relay.NewPublication(*publication, at, next.LSN)
	if _, err := store.Replace(ctx, &next, time.Now()); err != nil {
		return err
	}
	a.printf("Behind slot %s, which begins at %s, the log has %d events in %d transactions; %d of them were in Kafka.\n",
		slot.Name, begin, report.Rows, report.Transactions, report.Present)
	if report.Published > 0 {
		a.printf("%d that were committed before the last of those were not, and have been published.\n", report.Published)
	}
	a.printf("The checkpoint is at %s: all events committed before are in Kafka, and tidemark run publishes those behind it.\nDo not start the other relay again: it would publish them, too.\n", next.LSN)
	return nil
}

// otherHasPassed makes sure that nobody streams from the other relay's slot, and that it has confirmed what lies before begin.
func otherHasPassed(ctx context.Context, c *config.Config, from string, begin pglogrepl.LSN, accept bool) error {
	source := sourceOptions(c)
	source.Slot = from
	conn, err := wal.Connect(ctx, source)
	if err != nil {
		return err
	}
	defer conn.Close()
	other, err := conn.Slot(ctx)
	if err != nil {
		return err
	}
	wayOut := fmt.Sprintf("start the other relay again, wait until confirmed_flush_lsn of slot %s in pg_replication_slots is at least that (a new row in the outbox moves it), and stop it; or go on with --accept-gap, and after tidemark run has started, tidemark verify --repair publishes what is missing", from)
	switch {
	case other == nil && accept:
		return nil
	case other == nil:
		return &relay.Refusal{Reason: fmt.Errorf("slot %s does not exist, so it is not known how far the other relay has come", from), WayOut: "name its slot; if it is gone, go on with --accept-gap, and after tidemark run has started, tidemark verify --repair publishes what is missing"}
	case other.Active:
		return fmt.Errorf("slot %s is in use by %s: stop the other relay first", from, other.Holder())
	case other.Database != conn.System.Database:
		return fmt.Errorf("slot %s belongs to database %s, and source.dsn leads to %s", from, other.Database, conn.System.Database)
	}
	confirmed, err := other.Confirmed()
	if err != nil {
		return fmt.Errorf("slot %s: confirmed_flush_lsn: %w", from, err)
	}
	if confirmed < begin && !accept {
		return &relay.Refusal{
			Reason: fmt.Errorf("slot %s has confirmed %s, and slot %s begins at %s: what was committed between the two may not have been published by the other relay, and tidemark does not see it", from, confirmed, c.Source.Slot, begin),
			WayOut: wayOut,
		}
	}
	return nil
}
