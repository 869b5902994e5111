package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/doctor"
	"github.com/tidemark/tidemark/park"
	"github.com/tidemark/tidemark/relay"
	"github.com/tidemark/tidemark/wal"
)

func (a *app) doctorCommand() *cobra.Command {
	var asJSON bool
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Check everything that can be wrong, on both sides, and say how to mend it",
		Long: `doctor looks at Postgres, Kafka and what is between: the role's rights, wal_level, slot and publication, the tables against
the mapping, the brokers under the addresses that they give out, the topics that the newest rows lead to, rights, replicas and
sizes, the checkpoint against the slot. It prints a line a check with what it found, and under it what to do. The failing ones
are repeated at the end. It may run at any time, also beside the relay: it changes nothing and holds up nobody, and ends
within a minute whatever does not answer.

  ok       as it should be
  warn     it works, and should be seen to
  fail     it does not work; the exit status is 1 then
  skipped  it could not be looked at, and why

Of each table it looks at the rows at the end: topics that only older rows lead to are not seen.`,
		Example: "  tidemark doctor\n  tidemark doctor --json | jq -r '.checks[] | select(.state == \"fail\") | .sql[]?'   # the statements that mend it",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := a.load()
			if err != nil {
				return err
			}
			report, err := examine(cmd.Context(), c)
			if err != nil {
				return err
			}
			if asJSON {
				err = a.printJSON(report)
			} else {
				err = a.printDoctor(report)
			}
			if n := report.Counts[doctor.Fail]; err == nil && n > 0 {
				return errors.New(failedChecks(report))
			}
			return err
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return command
}

func failedChecks(r *doctor.Report) string {
	var names []string
	for _, f := range r.Checks {
		if f.State == doctor.Fail && !slices.Contains(names, f.Check) {
			names = append(names, f.Check)
		}
	}
	return "failed: " + strings.Join(names, ", ")
}

// examine is what the command and the HTTP API call.
func examine(ctx context.Context, c *config.Config) (*doctor.Report, error) {
	store, err := checkpointStore(c)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return doctor.Run(ctx, doctorOptions(c, store)), nil
}

// doctorFor is examine for the HTTP API: one at a time, since each takes a walsender, and within the time that an answer has.
func doctorFor(c *config.Config) func(context.Context) (any, error) {
	const limit = 25 * time.Second
	turn := make(chan struct{}, 1)
	return func(ctx context.Context) (any, error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another examination: %w", ctx.Err())
		}
		defer func() { <-turn }()
		return examine(ctx, c)
	}
}

func doctorOptions(c *config.Config, s store) doctor.Options {
	o := doctor.Options{
		Source: sourceOptions(c), Tables: tables(c), Messages: messages(c), Kafka: kafkaOptions(c), Store: s,
		Create: c.Source.Create, Failover: c.Source.Failover, WALBudget: c.Source.WALBudget,
		ExactlyOnce: c.Delivery.Mode == "exactly_once", ResumeDedupe: c.Delivery.ResumeDedupe,
		Prunes:   c.Prune.Interval > 0,
		OnPoison: c.Delivery.OnPoison, DeadLetterTopic: c.Delivery.DeadLetterTopic, HTTPListen: c.HTTP.Listen,
		SourceName: func(sys wal.System) string { return relay.SourceName(sys, c.Source.Slot) },
		Judge: func(slot *wal.Slot, stored *checkpoint.Checkpoint, sys wal.System, history wal.History) (string, error) {
			return relay.Judge(slot, stored, sys, history, c.Source.Slot)
		},
		SamePublication: func(was *checkpoint.Publication, is wal.Fingerprint) error {
			return relay.SamePublication(c.Source.Publication, was, is, nil)
		},
		Parked: func(ctx context.Context, sys wal.System) (n int64, there bool, err error) {
			table, err := park.OpenExisting(ctx, string(c.Source.AdminDSN), relay.SourceName(sys, c.Source.Slot))
			if park.IsNoTable(err) {
				return 0, false, nil
			}
			if err != nil {
				return 0, false, err
			}
			defer table.Close()
			n, err = table.Count(ctx)
			return n, true, err
		},
	}
	if c.HTTP.TLS.CertFile != "" {
		o.HTTPTLS = func() (*tls.Config, error) { return relayTLS(c) }
	}
	if k, ok := s.(*checkpoint.Kafka); ok {
		o.CheckpointTopic = c.Checkpoint.Topic
		if o.ExactlyOnce {
			o.Kafka.TransactionalID = k.TransactionalID()
		}
	}
	return o
}

func (a *app) printDoctor(r *doctor.Report) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for i := range r.Checks {
		f := &r.Checks[i]
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", mark(f.State), f.Check, f.Finding) // Flush returns the error
		if f.State == doctor.Warn {
			printFix(w, f, "\t\t  ")
		}
	}
	if err := w.Flush(); err != nil {
		return errors.Join(errors.New("write the result"), err)
	}
	a.printf("\n%d ok, %d to see to, %d failed, %d skipped, in %.1f s\n",
		r.Counts[doctor.OK], r.Counts[doctor.Warn], r.Counts[doctor.Fail], r.Counts[doctor.Skipped], r.Seconds)
	for i := range r.Checks {
		f := &r.Checks[i]
		if f.State == doctor.Fail {
			a.printf("\n%s %s: %s\n", mark(f.State), f.Check, f.Finding)
			printFix(a.stdout, f, "  ")
		}
	}
	return nil
}

// printFix prints what to do, and the statements that do it, a line each.
func printFix(w io.Writer, f *doctor.Finding, indent string) {
	if f.Fix != "" {
		_, _ = fmt.Fprintf(w, "%sfix: %s\n", indent, f.Fix) // whoever flushes returns the error
	}
	for _, sql := range f.SQL {
		_, _ = fmt.Fprintf(w, "%s  %s;\n", indent, sql)
	}
	for _, key := range slices.Sorted(maps.Keys(f.Config)) {
		_, _ = fmt.Fprintf(w, "%s  %s: %s\n", indent, key, f.Config[key])
	}
}

func mark(s doctor.State) string {
	switch s {
	case doctor.OK:
		return "ok"
	case doctor.Warn:
		return "WARN"
	case doctor.Fail:
		return "FAIL"
	default:
		return "--"
	}
}
