package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// statusReport is what `tidemark status --json` prints.
type statusReport struct {
	Slot         string                 `json:"slot"`
	SlotState    string                 `json:"slot_state"` // missing, active, inactive, lost: REASON
	HeldByPID    int                    `json:"held_by_pid,omitempty"`
	HeldBy       string                 `json:"held_by,omitempty"` // application, address and backend of who streams
	Failover     bool                   `json:"failover"`          // the slot is synced to standbys
	Standby      bool                   `json:"standby"`           // the source is a standby
	Timeline     int32                  `json:"timeline"`          // of the source
	StoredLSN    string                 `json:"stored_lsn"`        // "" if nothing is stored
	ConfirmedLSN string                 `json:"confirmed_lsn"`     // "" if there is no slot
	CurrentLSN   string                 `json:"current_lsn"`
	LagBytes     *int64                 `json:"lag_bytes"`    // from the stored LSN to the end of the log
	RetainedWAL  *int64                 `json:"retained_wal"` // bytes of log that the slot keeps
	Checkpoint   *checkpoint.Checkpoint `json:"checkpoint"`
	Relay        *relay.Status          `json:"relay"` // of the running process, if it answers on http.listen
}

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	command := &cobra.Command{
		Use:     "status",
		Short:   "Say how far the relay is: stored and confirmed LSN, lag, slot",
		Long:    `status asks Postgres about the slot, reads the stored checkpoint and, if a relay answers on http.listen, what it is doing.`,
		Example: "  tidemark status\n  tidemark status --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := a.load()
			if err != nil {
				return err
			}
			report, err := newStatusReport(cmd.Context(), c)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(report)
			}
			return a.printStatus(report)
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return command
}

func newStatusReport(ctx context.Context, c *config.Config) (*statusReport, error) {
	conn, err := wal.Connect(ctx, sourceOptions(c))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	slot, err := conn.Slot(ctx)
	if err != nil {
		return nil, err
	}
	store, err := checkpointStore(c)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	stored, err := store.Load(ctx)
	if err != nil {
		return nil, err
	}
	end := conn.System.Flushed
	r := &statusReport{
		Slot: c.Source.Slot, SlotState: "missing", Standby: conn.System.Standby, Timeline: conn.System.Timeline,
		CurrentLSN: end.String(), Checkpoint: stored, Relay: askRelay(ctx, c.HTTP.Listen),
	}
	if stored != nil {
		r.StoredLSN = stored.LSN.String()
		r.LagBytes = distance(pglogrepl.LSN(stored.LSN), end)
	}
	if slot == nil {
		return r, nil
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
	return r, nil
}

func distance(from, to pglogrepl.LSN) *int64 {
	n := max(int64(to)-int64(from), 0) //nolint:gosec // a log of 8 EiB is out of reach
	return &n
}

// askRelay returns what the running relay says of itself, nil if none answers.
func askRelay(ctx context.Context, listen string) *relay.Status {
	if listen == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listen+"/api/status", nil)
	if err != nil {
		return nil
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil
	}
	defer func() { _ = response.Body.Close() }() // read to its end or given up
	var s relay.Status
	if response.StatusCode != http.StatusOK || json.NewDecoder(http.MaxBytesReader(nil, response.Body, 1<<20)).Decode(&s) != nil {
		return nil
	}
	return &s
}

func (a *app) printStatus(r *statusReport) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
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
	line("lag", bytesText(r.LagBytes))
	line("retained log", bytesText(r.RetainedWAL))
	if r.Checkpoint != nil {
		if r.Checkpoint.State == checkpoint.Moved {
			line("checkpoint", "moved to "+r.Checkpoint.MovedTo)
		}
		line("checkpoint written", r.Checkpoint.WrittenAt.Format(time.RFC3339)+" ("+time.Since(r.Checkpoint.WrittenAt).Round(time.Second).String()+" ago)")
	}
	if r.Relay == nil {
		line("relay", "none answers on http.listen")
	} else {
		line("relay", fmt.Sprintf("%s since %s, %d events in flight", r.Relay.State, r.Relay.Since.Format(time.RFC3339), r.Relay.InFlightEvents))
		if r.Relay.LastError != "" {
			line("last error", r.Relay.LastError)
		}
	}
	return w.Flush()
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
