package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/admin"
	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/reconcile"
)

const (
	// replayAtOnce is how many rows one POST /api/replay takes.
	replayAtOnce = 5000
	// replayExamples is how many rows are named.
	replayExamples = 5
	// replayRequestPatience is how long the relay may take to get past what is committed before a request.
	replayRequestPatience = 10 * time.Second
)

func (a *app) replayCommand() *cobra.Command {
	var key, kind, from, to string
	var asJSON, all bool
	o := reconcile.ReplayOptions{Example: replayExamples, Patience: time.Minute}
	command := &cobra.Command{
		Use:   "replay",
		Short: "Publish chosen rows of the outbox tables again",
		Long: `replay publishes rows that are still in the outbox tables once more, to their topics or to another one, in the order of the
table, which is that of each key. Rows are chosen by id, key, type, time and position; what is given has to hold together.
First look with --dry-run, which counts and names a few.

Each record has the id and, if the row's first record is still in Kafka, the position of that one. The header tidemark-replay
tells it apart: a consumer that drops what it has seen drops these, too, unless it looks at that header. A relay that starts
later does not take them for what it has published. Left to the relay is what it has still to publish, and what is parked; a
relay may run beside it. Two replays or repairs at a time exclude each other.

--from and --to take a time (2026-11-22T10:00:00Z, or 24h for as long ago), by the mapped timestamp column or else the commit,
if the server has track_commit_timestamp on; or a position as the header tidemark-position has it, by the records in Kafka.
A row that is gone from the table (tidemark prune) cannot be replayed. Interrupted, it has published a part: run again, it
publishes that part once more.`,
		Example: `  tidemark replay --id 6b1f0c3e-8f0a-4a57-9c36-2a1c1a4f7d10 --dry-run
  tidemark replay --type OrderPlaced --from 2026-11-22T10:00:00Z --to 2026-11-22T11:00:00Z --rate 500
  tidemark replay --all --to-topic orders.rebuilt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("key") {
				o.Key = &key
			}
			if cmd.Flags().Changed("type") {
				o.Type = &kind
			}
			if err := replayRange(&o, "--from", from, "--to", to, time.Now()); err != nil {
				return wrongUsage(cmd, err)
			}
			switch {
			case o.Rate < 0:
				return wrongUsage(cmd, fmt.Errorf("--rate %g: give 0 for as many as Kafka takes, or a number above it", o.Rate))
			case all && o.Chooses():
				return wrongUsage(cmd, errors.New("--all goes with none of --id, --key, --type, --from and --to"))
			case !all && !o.Chooses():
				return wrongUsage(cmd, errors.New("say which rows: --id, --key, --type, --from, --to; or --all"))
			}
			c, log, err := a.load()
			if err != nil {
				return err
			}
			report, err := replay(cmd.Context(), c, log, o)
			return printReport(a, report, err, asJSON, a.printReplayed)
		},
	}
	flags := command.Flags()
	flags.StringSliceVar(&o.IDs, "id", nil, "the row of this id; may be given again")
	flags.StringVar(&key, "key", "", "the rows of this key")
	flags.StringVar(&kind, "type", "", "the rows of this type, as outbox[].columns.type has it")
	flags.StringVar(&from, "from", "", "the rows from that time on (24h: since a day ago), or from that position on")
	flags.StringVar(&to, "to", "", "the rows before that time, or up to that position")
	flags.StringSliceVar(&o.Only, "table", nil, "only this table, schema.name; may be given again")
	flags.StringVar(&o.Topic, "to-topic", "", "publish to this topic instead of where the rows belong")
	flags.Float64Var(&o.Rate, "rate", 0, "at most so many rows a second; 0: as many as Kafka takes")
	flags.BoolVar(&o.DryRun, "dry-run", false, "count, name a few, and publish nothing")
	flags.BoolVar(&all, "all", false, "every row")
	flags.BoolVar(&asJSON, "json", false, "print one JSON object")
	return command
}

// replayRange reads the bounds, each a time or a position.
func replayRange(o *reconcile.ReplayOptions, fromName, from, toName, to string, now time.Time) error {
	read := func(name, text string, at *time.Time, position **decode.Position) (err error) {
		if text == "" {
			return nil
		}
		if p, err := decode.ParsePosition(text); err == nil {
			*position = &p
			return nil
		}
		if *at, err = moment(name, text, now); err != nil {
			return fmt.Errorf("%w, or a position such as 00000000016b3748-00000000", err)
		}
		return nil
	}
	return errors.Join(read(fromName, from, &o.From, &o.After), read(toName, to, &o.To, &o.Before))
}

// replay replays with the configured parts.
func replay(ctx context.Context, c *config.Config, log zerolog.Logger, o reconcile.ReplayOptions) (*reconcile.ReplayReport, error) {
	s, err := checkpointStore(c)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	reconcileParts(c, s, &o.Options)
	o.LongestTransaction = defaultLongestTransaction
	o.Log = log.With().Str("component", "replay").Logger()
	return reconcile.Replay(ctx, o)
}

// replayRequest is the body of POST /api/replay.
type replayRequest struct {
	IDs    []string `json:"ids"`
	Key    *string  `json:"key"`
	Type   *string  `json:"type"`
	From   string   `json:"from"`  // a time or a position
	To     string   `json:"to"`    // the same
	Topic  string   `json:"topic"` // where they go; "": where they belong
	DryRun bool     `json:"dry_run"`
}

// answerReplay answers POST /api/replay.
func answerReplay(ctx context.Context, c *config.Config, log zerolog.Logger, body json.RawMessage) (*reconcile.ReplayReport, error) {
	wrong := func(err error) error { return &admin.Error{Status: http.StatusBadRequest, Err: err} }
	var r replayRequest
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return nil, wrong(fmt.Errorf("read the request: %w", err))
	}
	o := reconcile.ReplayOptions{
		IDs: r.IDs, Key: r.Key, Type: r.Type, Topic: r.Topic, DryRun: r.DryRun, MostRow: replayAtOnce, Example: replayExamples, Patience: replayRequestPatience,
	}
	o.PassRows = upkeepRows
	if err := replayRange(&o, "from", r.From, "to", r.To, time.Now()); err != nil {
		return nil, wrong(err)
	}
	if !o.Chooses() {
		return nil, wrong(errors.New("say which rows: ids, key, type, from, to; tidemark replay --all publishes everything"))
	}
	report, err := replay(ctx, c, log, o)
	if reconcile.IsTooMany(err) {
		return nil, wrong(fmt.Errorf("%w, which is what one request takes: choose fewer, or use the command tidemark replay", err))
	}
	return report, err
}

func (a *app) printReplayed(r *reconcile.ReplayReport) error {
	what, where := "published again", "where they belong"
	if r.DryRun {
		what = "would be published again"
	}
	if r.Topic != "" {
		where = "to topic " + cell(r.Topic)
	}
	a.printf("%d rows are chosen, %d %s, %s.\n", r.Chosen, r.Replayed, what, where)
	for _, why := range slices.Sorted(maps.Keys(r.Left)) {
		a.printf("%d are left: %s.\n", r.Left[why], oneLine(why, 300))
	}
	if len(r.Examples) > 0 {
		a.printf("\n")
		w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(w, "ID\tTABLE\tTOPIC\tKEY\tPOSITION") // Flush returns the error
		for _, x := range r.Examples {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", cell(x.ID), cell(x.Table), cell(x.Topic), cell(x.Key), x.Position)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if more := r.Replayed - int64(len(r.Examples)); more > 0 {
			a.printf("… and %d more\n", more)
		}
	}
	for _, remark := range r.Remarks {
		a.printf("Note: %s.\n", remark)
	}
	return nil
}
