package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/relay"
	"github.com/tidemark/tidemark/wal"
)

// statusReport is what `tidemark status --json` prints and /api/status answers. The relay answers from what it has seen
// last (at), status from what it asks.
type statusReport struct {
	At           time.Time              `json:"at"` // when slot and end of the log were looked at
	Slot         string                 `json:"slot"`
	SlotState    string                 `json:"slot_state"` // missing, active, inactive, lost: REASON; unknown, before the relay's first look
	HeldByPID    int                    `json:"held_by_pid,omitempty"`
	HeldBy       string                 `json:"held_by,omitempty"` // application, address and backend of who streams
	Failover     bool                   `json:"failover"`          // the slot is synced to standbys
	Standby      bool                   `json:"standby"`           // the source is a standby
	Timeline     int32                  `json:"timeline"`          // of the source; from the relay, of what is stored
	StoredLSN    string                 `json:"stored_lsn"`        // "" if nothing is stored
	ConfirmedLSN string                 `json:"confirmed_lsn"`     // "" if there is no slot
	CurrentLSN   string                 `json:"current_lsn"`       // the end of the log
	LagBytes     *int64                 `json:"lag_bytes"`         // from the stored LSN to the end of the log
	LagSeconds   *float64               `json:"lag_seconds"`       // see lag
	RetainedWAL  *int64                 `json:"retained_wal"`      // bytes of log that the slot keeps
	Checkpoint   *checkpoint.Checkpoint `json:"checkpoint"`
	Relay        *relay.Status          `json:"relay"` // of the running process, if it answers on http.listen
	Upkeep       *upkeepStatus          `json:"upkeep,omitempty"`
}

func (a *app) statusCommand() *cobra.Command {
	var asJSON, watch, live, ready bool
	var interval time.Duration
	command := &cobra.Command{
		Use:   "status",
		Short: "Say how far the relay is: stored and confirmed LSN, lag, slot",
		Long: `status asks Postgres about the slot, reads the stored checkpoint and, if a relay answers on http.listen, what it is doing.

The lag in seconds is for how long the oldest of what is not stored yet has been committed, as the relay knows it. If none
answers, and the log has gone on since the checkpoint was written, it is the time since then.

--watch goes on until it is stopped: in place on a terminal, else with a line (or, with --json, an object) an interval. It
goes on through errors, too, and says them.

--live and --ready only ask the relay that runs on this host, over http.listen, and fail with its reason if the answer is no: the
health check of a container. A hot standby is live and not ready.`,
		Example: "  tidemark status\n  tidemark status --json\n  tidemark status --watch --interval 5s >> status.log\n" +
			"  tidemark status --ready",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < 100*time.Millisecond {
				return &usageError{fmt.Errorf("--interval %v: give at least 100ms", interval)}
			}
			if cmd.Flags().Changed("interval") && !watch {
				return &usageError{errors.New("--interval goes with --watch (see tidemark status --help)")}
			}
			c, _, err := a.load()
			if err != nil {
				return err
			}
			switch {
			case live:
				return a.probe(cmd.Context(), c, livePath)
			case ready:
				return a.probe(cmd.Context(), c, readyPath)
			}
			asked := &asker{config: c}
			defer asked.close()
			if watch {
				return a.watchStatus(cmd.Context(), asked, interval, asJSON)
			}
			report, err := asked.report(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(report)
			}
			return a.printStatus(a.stdout, report)
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print one JSON object; with --watch, one a line")
	command.Flags().BoolVarP(&watch, "watch", "w", false, "go on until stopped")
	command.Flags().DurationVar(&interval, "interval", 2*time.Second, "how often, with --watch")
	command.Flags().BoolVar(&live, "live", false, "ask the running relay whether it lives")
	command.Flags().BoolVar(&ready, "ready", false, "ask the running relay whether it is streaming and within its WAL budget")
	command.MarkFlagsMutuallyExclusive("live", "ready", "json")
	command.MarkFlagsMutuallyExclusive("live", "ready", "watch")
	return command
}

// asker makes one report after the other, over the same connections as long as they last.
type asker struct {
	config *config.Config
	conn   *wal.Conn
	store  store
}

func (q *asker) close() {
	if q.conn != nil {
		q.conn.Close()
		q.conn = nil
	}
	if q.store != nil {
		q.store.Close()
		q.store = nil
	}
}

// report asks Postgres, the checkpoint's store and the relay. After an error it connects anew.
func (q *asker) report(ctx context.Context) (r *statusReport, err error) {
	defer func() {
		if err != nil {
			q.close()
		}
	}()
	if q.conn == nil {
		q.conn, err = wal.Connect(ctx, sourceOptions(q.config))
	} else {
		err = q.conn.Refresh(ctx)
	}
	if err != nil {
		return nil, err
	}
	slot, err := q.conn.Slot(ctx)
	if err != nil {
		return nil, err
	}
	if q.store == nil {
		if q.store, err = checkpointStore(q.config); err != nil {
			return nil, err
		}
	}
	stored, err := q.store.Load(ctx)
	if err != nil {
		return nil, err
	}
	r = newStatusReport(q.config, slot, q.conn.System.Flushed, stored)
	r.Standby, r.Timeline, r.Relay = q.conn.System.Standby, q.conn.System.Timeline, askRelay(ctx, q.config)
	r.LagSeconds = r.lag(time.Now())
	return r, nil
}

// liveReport is the report of the process that runs the relay. It asks nobody.
func liveReport(c *config.Config, live *relay.Relay) *statusReport {
	status, sight := live.Status(), live.Sight()
	var slot *wal.Slot
	var end pglogrepl.LSN
	if sight.Slot != nil {
		slot, end = sight.Slot.Slot, sight.Slot.End
		if sight.Checkpoint != nil {
			end = max(end, pglogrepl.LSN(sight.Checkpoint.LSN)) // which is known to be there since
		}
	}
	r := newStatusReport(c, slot, end, sight.Checkpoint)
	r.Relay, r.At = &status, sight.At
	if sight.Slot == nil {
		r.At, r.SlotState, r.CurrentLSN, r.LagBytes, r.RetainedWAL = time.Now(), "unknown", "", nil, nil
	} else {
		r.Standby = sight.Slot.Standby
	}
	r.At = r.At.UTC()
	if sight.Checkpoint != nil {
		r.Timeline = sight.Checkpoint.Timeline
	}
	r.LagSeconds = r.lag(time.Now())
	return r
}

func newStatusReport(c *config.Config, slot *wal.Slot, end pglogrepl.LSN, stored *checkpoint.Checkpoint) *statusReport {
	r := &statusReport{At: time.Now().UTC(), Slot: c.Source.Slot, SlotState: "missing", CurrentLSN: end.String(), Checkpoint: stored}
	if stored != nil {
		r.StoredLSN = stored.LSN.String()
		r.LagBytes = distance(pglogrepl.LSN(stored.LSN), end)
	}
	if slot == nil {
		return r
	}
	r.ConfirmedLSN, r.HeldByPID, r.HeldBy, r.Failover = slot.ConfirmedFlushLSN, slot.ActivePID, slot.Holder(), slot.Failover
	reason, lost := slot.Lost()
	switch {
	case lost:
		r.SlotState = "lost: " + reason
	case slot.Active:
		r.SlotState = "active"
	default:
		r.SlotState = "inactive"
	}
	if restart, err := checkpoint.ParseLSN(slot.RestartLSN); err == nil {
		r.RetainedWAL = distance(restart, end)
	}
	return r
}

// lag returns what the relay says. If none does, it is 0 where everything is stored, and else the time since the checkpoint
// was written: what a relay had not read by then is older. Nil: nothing is stored.
func (r *statusReport) lag(now time.Time) *float64 {
	if r.Relay != nil && r.Relay.LagSeconds != nil {
		return r.Relay.LagSeconds
	}
	if r.Checkpoint == nil || r.LagBytes == nil {
		return nil
	}
	seconds := 0.0
	if *r.LagBytes > 0 {
		seconds = max(now.Sub(r.Checkpoint.WrittenAt).Seconds(), 0)
	}
	return &seconds
}

func distance(from, to pglogrepl.LSN) *int64 {
	n := max(int64(to)-int64(from), 0) //nolint:gosec // a log of 8 EiB is out of reach
	return &n
}

// askRelay returns what the running relay says of itself, nil if none answers.
func askRelay(ctx context.Context, c *config.Config) *relay.Status {
	if c.HTTP.Listen == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	response, err := get(ctx, c, "/api/status")
	if err != nil {
		return nil
	}
	defer func() { _ = response.Body.Close() }() // read to its end or given up
	var s statusReport
	if response.StatusCode != http.StatusOK || json.NewDecoder(http.MaxBytesReader(nil, response.Body, 16<<20)).Decode(&s) != nil {
		return nil
	}
	return s.Relay
}

func (a *app) printStatus(out io.Writer, r *statusReport) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, value string) { _, _ = fmt.Fprintf(w, "%s\t%s\n", name, value) } // Flush returns the error
	held := ""
	if r.HeldBy != "" {
		held = ", held by " + r.HeldBy
	}
	if r.Failover {
		held += ", synced to standbys"
	}
	line("slot", r.Slot+": "+r.SlotState+held)
	if r.Standby {
		line("source", fmt.Sprintf("a standby, on timeline %d", r.Timeline))
	} else {
		line("source", fmt.Sprintf("a primary, on timeline %d", r.Timeline))
	}
	line("stored", orNone(r.StoredLSN))
	line("confirmed", orNone(r.ConfirmedLSN))
	line("end of log", r.CurrentLSN)
	line("lag", r.lagText())
	line("retained log", bytesText(r.RetainedWAL)+r.budgetText())
	if r.Checkpoint != nil {
		if r.Checkpoint.State == checkpoint.Moved {
			line("checkpoint", "moved to "+r.Checkpoint.MovedTo)
		}
		line("checkpoint written", r.Checkpoint.WrittenAt.Format(time.RFC3339)+" ("+time.Since(r.Checkpoint.WrittenAt).Round(time.Second).String()+" ago)")
	}
	if r.Relay == nil {
		line("relay", "none answers on http.listen")
		return w.Flush()
	}
	s := r.Relay
	line("relay", fmt.Sprintf("%s since %s", s.State, s.Since.Format(time.RFC3339)))
	line("rate", fmt.Sprintf("%.0f events/s", s.Rate))
	line("in flight", fmt.Sprintf("%s, %s", counted(s.InFlightEvents), bytesText(&s.InFlightBytes)))
	line("oldest unacknowledged", secondsText(s.OldestUnacked))
	line("parked", counted(s.Parked))
	if s.LastError != "" {
		when := ""
		if s.LastErrorAt != nil {
			when = " (" + ageText(*s.LastErrorAt) + " ago)"
		}
		line("last error", oneLine(s.LastError, -1)+when)
	}
	return w.Flush()
}

func (r *statusReport) lagText() string {
	if r.LagSeconds == nil {
		return bytesText(r.LagBytes)
	}
	return bytesText(r.LagBytes) + ", " + secondsText(*r.LagSeconds)
}

func (r *statusReport) budgetText() string {
	if r.Relay == nil || r.Relay.WALBudget == 0 || r.RetainedWAL == nil {
		return ""
	}
	return fmt.Sprintf(", %d %% of source.wal_budget", *r.RetainedWAL*100/r.Relay.WALBudget)
}

// secondsText is a duration as a person says it.
func secondsText(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	if d >= 10*time.Second {
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%.1fs", d.Seconds())
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func bytesText(n *int64) string {
	if n == nil {
		return "unknown"
	}
	const unit = 1024
	if *n < unit {
		return fmt.Sprintf("%d B", *n)
	}
	value, prefix := float64(*n)/unit, 0
	for value >= unit && prefix < 4 {
		value /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[prefix])
}

func (a *app) printJSON(v any) error {
	encoder := json.NewEncoder(a.stdout)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return errors.Join(errors.New("write the result"), err)
	}
	return nil
}

// printReport prints what a command has found, also what it had found by the time of err, which is returned; nil is nothing.
func printReport[R any](a *app, report *R, err error, asJSON bool, show func(*R) error) error {
	switch {
	case report == nil:
		return err
	case asJSON:
		return errors.Join(err, a.printJSON(report))
	default:
		return errors.Join(err, show(report))
	}
}
