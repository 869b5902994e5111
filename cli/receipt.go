package cli

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/park"
	"github.com/tidemark/tidemark/receipt"
)

// receiptDefaults are those of the command and of GET /api/events/{id}.
func receiptDefaults() receipt.Options {
	return receipt.Options{Depth: 200_000, Timeout: 5 * time.Second}
}

func (a *app) receiptCommand() *cobra.Command {
	o := receiptDefaults()
	var asJSON bool
	command := &cobra.Command{
		Use:   "receipt ID",
		Short: "Say where an event is: topic, partition and offset, or why it is not in Kafka",
		Long: `receipt looks for the event of that id, in a few seconds at most. It takes the row from the outbox tables, by id, and makes
the topic and the key of it as the relay does. The key says the partition, and the time of the row says from which offset
on the record must be: its mapped timestamp column, else the time of its commit, if the server has track_commit_timestamp
on, else the time in an id that is a UUID of version 7. Only what is committed counts. If the event is there more than once
(a replay, a duplicate), each is listed. The answer is one of

  published          topic, partition, offset, time and position
  parked             and why
  dead_lettered      it is in the dead-letter topic alone
  not_yet_published  it is in the table, and the relay has not come so far
  missing            it is in the table, the relay is past it, and nothing will bring it but tidemark verify --repair
  unknown            it was not found, and not all could be searched
  not_found          it is neither in the table nor in Kafka, as far as that was searched

and what was searched, and what was not. The exit status is 1 if Kafka does not have it.

If the row is gone from the table (tidemark prune, the application), or nothing tells its time, the ends of the topics are
read: --depth records, or all with --depth 0. --topic and --key say which partition is enough. Without an index on the
column of the id the database has to read the whole table.`,
		Example: `  tidemark receipt 6b1f0c3e-8f0a-4a57-9c36-2a1c1a4f7d10
  tidemark receipt 4711 --table public.outbox --json
  tidemark receipt 4711 --topic outbox.event.order --key 42 --depth 0 --timeout 1m   # the row was pruned long ago`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 || args[0] == "":
				return errors.New("give the ID of an event")
			case len(args) > 1:
				return fmt.Errorf("unexpected argument %q", args[1])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.Depth < 0:
				return wrongUsage(cmd, fmt.Errorf("--depth %d: give 0 for all, or a number above it", o.Depth))
			case o.Timeout <= 0:
				return wrongUsage(cmd, fmt.Errorf("--timeout %s: give more than 0", o.Timeout))
			case o.Key != "" && o.Topic == "":
				return wrongUsage(cmd, errors.New("--key goes with --topic"))
			}
			c, _, err := a.load()
			if err != nil {
				return err
			}
			return a.receipt(cmd.Context(), c, o, args[0], asJSON)
		},
	}
	flags := command.Flags()
	flags.BoolVar(&asJSON, "json", false, "print one JSON object")
	flags.StringSliceVar(&o.Only, "table", nil, "look only into this table, schema.name; may be given again")
	flags.StringVar(&o.Topic, "topic", "", "where to look if the row is not in the table any more (default all topics that the tables can lead to)")
	flags.StringVar(&o.Key, "key", "", "with --topic: the key of the event, which tells the partition")
	flags.Int64Var(&o.Depth, "depth", o.Depth, "read at most so many records of a topic where the time of the event is not known; 0: all")
	flags.DurationVar(&o.Timeout, "timeout", o.Timeout, "give up after this time, and say what was not searched")
	return command
}

// eventOf answers GET /api/events/{id}.
func eventOf(ctx context.Context, c *config.Config, id string) (*receipt.Receipt, error) {
	return findReceipt(ctx, c, receiptDefaults(), id)
}

func (a *app) receipt(ctx context.Context, c *config.Config, o receipt.Options, id string, asJSON bool) error {
	r, err := findReceipt(ctx, c, o, id)
	if err != nil {
		return err
	}
	if asJSON {
		err = a.printJSON(r)
	} else {
		err = a.printReceipt(r)
	}
	if err == nil && !r.InKafka() {
		err = fmt.Errorf("event %s is not in Kafka, as far as was searched: %s", cell(id), r.State)
	}
	return err
}

// findReceipt looks for the event with the configured parts.
func findReceipt(ctx context.Context, c *config.Config, o receipt.Options, id string) (*receipt.Receipt, error) {
	s, err := checkpointStore(c)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	o.Source, o.Tables, o.Kafka, o.DeadLetterTopic = sourceOptions(c), tables(c), kafkaOptions(c), c.Delivery.DeadLetterTopic
	o.Messages, o.SourceName, o.Stored = messages(c), sourceName(c), storedPosition(c, s)
	o.Parked = func(ctx context.Context, source, id string) ([]receipt.Parked, error) {
		table, err := park.OpenExisting(ctx, string(c.Source.AdminDSN), source)
		if park.IsNoTable(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		defer table.Close()
		events, err := table.Show(ctx, id)
		if park.IsNotFound(err) {
			return nil, nil
		}
		var out []receipt.Parked
		for i := range events {
			e := &events[i]
			if e.Event.ID == id { // not only its position
				out = append(out, receipt.Parked{
					Position: e.Event.Position.String(), Topic: e.Event.Topic, Reason: e.Reason, State: stateText(e.State, e.Behind), Since: e.ParkedAt,
				})
			}
		}
		return out, err
	}
	return receipt.Find(ctx, o, id)
}

func (a *app) printReceipt(r *receipt.Receipt) error {
	a.printf("%s: %s. %s\n", cell(r.ID), r.State, oneLine(r.Text, -1))
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	if len(r.Records) > 0 {
		_, _ = fmt.Fprintln(w, "\nTOPIC\tPARTITION\tOFFSET\tTIMESTAMP\tPOSITION\tSOURCE\t") // Flush returns the error
	}
	for i := range r.Records {
		x := &r.Records[i]
		remark := ""
		switch {
		case x.DeadLetter:
			remark = "dead letter"
		case x.Replayed:
			remark = "replayed"
		case x.Duplicate:
			remark = "duplicate"
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\t%s\n", cell(x.Topic), x.Partition, x.Offset, x.Timestamp.Format(time.RFC3339Nano), orNone(x.Position), orNone(x.Source), remark)
	}
	_, _ = fmt.Fprintln(w)
	for i := range r.Rows {
		row := &r.Rows[i]
		key, when := "(null)", ""
		if row.Key != nil {
			key = cell(*row.Key)
		}
		if row.Committed != nil {
			when = ", committed " + row.Committed.Format(time.RFC3339Nano)
		}
		_, _ = fmt.Fprintf(w, "row\tof %s, topic %s, key %s%s\n", cell(row.Table), cell(row.Topic), key, when)
	}
	if len(r.Rows) == 0 {
		_, _ = fmt.Fprintln(w, "row\tnone in the tables that were searched")
	}
	for _, p := range r.Parked {
		_, _ = fmt.Fprintf(w, "parked\t%s ago at position %s, %s: %s\n", ageText(p.Since), p.Position, p.State, oneLine(p.Reason, 200))
	}
	if r.LagBytes != nil {
		_, _ = fmt.Fprintf(w, "relay\tstored %s, %s of log behind\n", r.Stored, bytesText(r.LagBytes))
	}
	for _, what := range r.Searched {
		_, _ = fmt.Fprintf(w, "searched\t%s\n", oneLine(what, -1))
	}
	for _, what := range r.NotSearched {
		_, _ = fmt.Fprintf(w, "not searched\t%s\n", oneLine(what, -1))
	}
	return w.Flush()
}
