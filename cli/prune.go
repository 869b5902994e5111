package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/reconcile"
)

// prunePatience is how long the relay may take to get past what was committed before a prune.
const prunePatience = time.Minute

func (a *app) pruneCommand() *cobra.Command {
	var older string
	var asJSON bool
	var o reconcile.PruneOptions
	command := &cobra.Command{
		Use:   "prune",
		Short: "Delete old rows of the outbox tables that are surely in Kafka",
		Long: `prune deletes rows that are older than --older-than, and of each of which it has seen the record in Kafka (committed, by
topic and id), and that the relay is past. The age alone never deletes anything. Kept, and counted, is every row that is

  not_yet_published   the relay has not got so far: it stands still, or Kafka is away
  parked              in the table of parked events
  dead_lettered       in the dead-letter topic, perhaps without its payload
  missing             not in Kafka, and nothing will bring it but tidemark verify --repair
  undecidable         not in Kafka, and perhaps only not any more: retention or compaction has deleted records of its topic.
                      Prune more often than the topics lose their records; or --undecidable deletes these, too. That trusts the
                      stored position alone, which may have been moved over rows (checkpoint adopt, init --recreate-slot,
                      source.existing_rows: skip): first tidemark verify

The age of a row is that of its mapped timestamp column, else of its commit, if the server has track_commit_timestamp on. Rows
are deleted in batches of 500, of which each is followed by a rest as long as it took; nothing is locked that an insert waits
for. Partitions of a table that is partitioned by a time are dropped as a whole where every row in them can go, their range
is over and the role owns them; beside writers (detach concurrently), if there is no default partition.

A relay may run beside it: deletes are not published. It needs the right to delete (the message prints the GRANT), on
source.admin_dsn. Its snapshot is an open transaction for as long as it takes, which holds up vacuum. To prune regularly inside
tidemark run, set prune.older_than and prune.interval.`,
		Example: `  tidemark prune --older-than 72h --dry-run
  tidemark prune --older-than 72h --table public.outbox`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if older == "" {
				return wrongUsage(cmd, errors.New("--older-than is required, such as 72h"))
			}
			if o.Before, err = moment("--older-than", older, time.Now()); err != nil {
				return wrongUsage(cmd, err)
			}
			if o.Patience <= 0 {
				return wrongUsage(cmd, fmt.Errorf("--wait %s: give more than 0", o.Patience))
			}
			if o.Before.After(time.Now()) {
				return wrongUsage(cmd, fmt.Errorf("--older-than %s: that is still to come", older))
			}
			c, log, err := a.load()
			if err != nil {
				return err
			}
			report, err := prune(cmd.Context(), c, log, o)
			return printReport(a, report, err, asJSON, a.printPruned)
		},
	}
	flags := command.Flags()
	flags.StringVar(&older, "older-than", "", "only rows that were written before: a duration such as 72h, or a time such as 2026-11-22T10:00:00Z")
	flags.StringSliceVar(&o.Only, "table", nil, "only this table, schema.name; may be given again")
	flags.BoolVar(&o.DryRun, "dry-run", false, "count, and delete nothing")
	flags.BoolVar(&o.Undecidable, "undecidable", false, "delete also rows whose records Kafka may have deleted since")
	flags.DurationVar(&o.Patience, "wait", prunePatience, "how long the relay may take to get past what is committed now, before nothing is done")
	flags.BoolVar(&asJSON, "json", false, "print one JSON object")
	return command
}

// prune prunes with the configured parts.
func prune(ctx context.Context, c *config.Config, log zerolog.Logger, o reconcile.PruneOptions) (*reconcile.PruneReport, error) {
	s, err := checkpointStore(c)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	reconcileParts(c, s, &o.Options)
	o.LongestTransaction = defaultLongestTransaction
	o.Log = log.With().Str("component", "prune").Logger()
	return reconcile.Prune(ctx, o)
}

func (a *app) printPruned(r *reconcile.PruneReport) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	deleted := "deleted"
	if r.DryRun {
		deleted = "would be deleted"
	}
	for _, t := range r.Tables {
		_, _ = fmt.Fprintf(w, "%s\t%d rows older than %s\n", t.Table, t.Old, r.Before.Format(time.RFC3339)) // Flush returns the error
		_, _ = fmt.Fprintf(w, "  %s\t%d\n", deleted, t.Deleted)
		if len(t.Dropped) > 0 {
			_, _ = fmt.Fprintf(w, "  of them with their partitions\t%s\n", strings.Join(t.Dropped, ", "))
		}
		for _, why := range slices.Sorted(maps.Keys(t.Kept)) {
			_, _ = fmt.Fprintf(w, "  kept: %s\t%d\n", why, t.Kept[why])
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, remark := range r.Remarks {
		a.printf("Note: %s.\n", remark)
	}
	return nil
}
