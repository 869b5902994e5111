package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/park"
	"github.com/tidemark/tidemark/reconcile"
)

// defaultLongestTransaction is how long a transaction that writes to the outbox may take.
const defaultLongestTransaction = 10 * time.Minute

type verifyFlags struct {
	since, sample     string
	tables            []string
	json              bool
	limit             int
	repair            bool
	repairUndecidable bool
	longest           time.Duration
}

func (a *app) verifyCommand() *cobra.Command {
	var f verifyFlags
	command := &cobra.Command{
		Use:   "verify",
		Short: "Hold the outbox tables against the topics, and publish what is missing",
		Long: `verify takes a snapshot of the outbox tables, waits until the relay has published what was committed before it, and then
looks for each row in its topic, by id (also a record that another source or Debezium has written counts), in the table
of parked events and in the dead-letter topic. It is exact, and may run beside the relay at any time. The exit status is 1 if
a row is missing. A row is

  published, parked, dead-lettered   where it should be
  not yet published                  no relay runs; the log has it behind the stored position, and the next run publishes it
  missing                            nothing will bring it, but --repair
  not decidable                      not in Kafka, and perhaps only not any more: retention or compaction has removed records
                                     from its topic. It is not called missing, and left alone

Where retention has cut a topic, a row is decidable if a row before it in the table, or its own timestamp column, shows that
it was written after the oldest record that is left, by more than --longest-transaction. In a compacted topic only the last
row of a key is sure to be there. The order of a table is that of its ids if they are whole numbers, else that of the
inserting transactions.

--repair publishes what is missing, in the order of the table, with the same ids. The records carry the header
tidemark-replay, and as tidemark-position the commit of the row before them: their own is in log that is gone. A consumer
should know them by their ids. A relay may run beside it; run twice, it finds nothing the second time, also if the first one
was killed. What cannot be published is reported. After a lost slot: tidemark init --recreate-slot, tidemark run, and
meanwhile or later tidemark verify --repair.

A row that was discarded with tidemark parked discard is missing, too: delete it from the table. Logical messages leave no
row: of them nothing can be decided, and nothing repaired. The snapshot is an open
transaction for as long as this takes, which holds up vacuum.`,
		Example: `  tidemark verify
  tidemark verify --since 24h --json     # needs outbox[].columns.timestamp, or track_commit_timestamp on the server
  tidemark verify --repair`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.options(time.Now())
			if err != nil {
				return wrongUsage(cmd, err)
			}
			c, log, err := a.load()
			if err != nil {
				return err
			}
			return a.verify(cmd.Context(), c, log, o, f.json)
		},
	}
	flags := command.Flags()
	flags.StringVar(&f.since, "since", "", "only rows written since then: a duration such as 24h, or a time such as 2026-11-22T10:00:00Z")
	flags.StringSliceVar(&f.tables, "table", nil, "only this table, schema.name; may be given again")
	flags.StringVar(&f.sample, "sample", "", "only this share of the rows, chosen by their ids: 1%, 0.01")
	flags.BoolVar(&f.json, "json", false, "print one JSON object")
	flags.IntVar(&f.limit, "limit", 100, "name at most so many missing rows; 0: all")
	flags.BoolVar(&f.repair, "repair", false, "publish what is missing")
	flags.BoolVar(&f.repairUndecidable, "repair-undecidable", false, "with --repair: publish what is not decidable, too; some of it may have been published before")
	flags.DurationVar(&f.longest, "longest-transaction", defaultLongestTransaction, "how long a transaction that writes to the outbox may take")
	return command
}

func (f *verifyFlags) options(now time.Time) (o reconcile.Options, err error) {
	o = reconcile.Options{
		Only: f.tables, Sample: 1, Examples: f.limit, Repair: f.repair, RepairUndecidable: f.repairUndecidable, LongestTransaction: f.longest,
	}
	if f.since != "" {
		if o.Since, err = moment("--since", f.since, now); err != nil {
			return o, err
		}
	}
	if f.sample != "" {
		number, percent := strings.CutSuffix(f.sample, "%")
		o.Sample, err = strconv.ParseFloat(number, 64)
		if percent {
			o.Sample /= 100
		}
		if err != nil || !(o.Sample > 0 && o.Sample <= 1) {
			return o, fmt.Errorf("--sample %s: give a share such as 1%% or 0.01", f.sample)
		}
	}
	switch {
	case f.limit < 0:
		return o, fmt.Errorf("--limit %d: give 0 for all, or a number above it", f.limit)
	case f.longest < 0:
		return o, fmt.Errorf("--longest-transaction %v: not less than 0", f.longest)
	case f.repairUndecidable && !f.repair:
		return o, errors.New("--repair-undecidable goes with --repair")
	}
	return o, nil
}

// moment reads a time, or how long ago it was.
func moment(flag, text string, now time.Time) (time.Time, error) {
	if age, err := time.ParseDuration(text); err == nil && age > 0 {
		return now.Add(-age), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, fmt.Errorf("%s %s: give a duration such as 24h, or a time such as 2026-11-22T10:00:00Z", flag, text)
	}
	return at, nil
}

// reconcileParts enters the configured parts.
func reconcileParts(c *config.Config, s store, o *reconcile.Options) {
	o.Source, o.Tables, o.Kafka, o.DeadLetterTopic = sourceOptions(c), tables(c), kafkaOptions(c), c.Delivery.DeadLetterTopic
	o.Messages = messages(c)
	o.SourceName = sourceName(c)
	o.Stored = storedPosition(c, s)
	o.Parked = func(ctx context.Context, each func(topic, id string)) error {
		table, err := park.OpenExisting(ctx, string(c.Source.AdminDSN), "")
		if park.IsNoTable(err) {
			return nil
		}
		if err != nil {
			return err
		}
		defer table.Close()
		return table.Routes(ctx, each)
	}
}

func (a *app) verify(ctx context.Context, c *config.Config, log zerolog.Logger, o reconcile.Options, asJSON bool) error {
	store, err := checkpointStore(c)
	if err != nil {
		return err
	}
	defer store.Close()
	reconcileParts(c, store, &o)
	o.Log = log.With().Str("component", "verify").Logger()
	report, err := reconcile.Verify(ctx, o)
	if err = printReport(a, report, err, asJSON, a.printVerified); err != nil || report == nil {
		return err
	}
	if n := report.Missing(); n > 0 {
		if o.Repair {
			return fmt.Errorf("%d rows are still missing in Kafka: see the reasons", n)
		}
		return fmt.Errorf("%d rows are missing in Kafka: tidemark verify --repair publishes them", n)
	}
	return nil
}

func (a *app) printVerified(r *reconcile.Report) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fates := []struct {
		fate reconcile.Fate
		text string
	}{
		{reconcile.Published, "published"},
		{reconcile.Parked, "parked"},
		{reconcile.DeadLettered, "dead-lettered"},
		{reconcile.NotYetPublished, "not yet published"},
		{reconcile.Undecidable, "not decidable"},
		{reconcile.Missing, "missing"},
		{reconcile.Repaired, "repaired"},
		{reconcile.Unpublishable, "unpublishable"},
	}
	for _, t := range r.Tables {
		_, _ = fmt.Fprintf(w, "%s\t%d rows\n", t.Table, t.Rows) // Flush returns the error
		for _, f := range fates {
			if n := t.Counts[f.fate]; n > 0 || f.fate == reconcile.Published || f.fate == reconcile.Missing {
				_, _ = fmt.Fprintf(w, "  %s\t%d\n", f.text, n)
			}
		}
	}
	for i := range r.Found {
		f := &r.Found[i]
		reason := ""
		if f.Reason != "" {
			reason = ": " + oneLine(f.Reason, 300)
		}
		_, _ = fmt.Fprintf(w, "%s %s of %s to topic %s%s\n", f.Fate, cell(f.ID), cell(f.Table), cell(f.Topic), reason)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if r.Left > 0 {
		a.printf("and %d more (--limit 0 names all)\n", r.Left)
	}
	switch r.Relay {
	case "stopped":
		a.printf("No relay runs: what is not yet published is what it will publish when it does.\n")
	case "no slot":
		a.printf("There is no slot that can be used: nothing will publish what is missing, nor what is committed from now on. First tidemark init --recreate-slot.\n")
	}
	if n := r.Counts[reconcile.Undecidable]; n > 0 {
		a.printf("%d rows are not decidable: Kafka has removed records of their topics, and theirs may have been among them.\n", n)
	}
	if r.SharedIDs > 0 {
		a.printf("%d rows share topic and id with another row: one record stands for all of them, and it cannot be told which.\n", r.SharedIDs)
	}
	for _, remark := range r.Remarks {
		a.printf("Note: %s.\n", remark)
	}
	return nil
}
