package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// watchStatus prints a report an interval, until ctx is done, which is no error. A server that is away is said, and asked
// again.
func (a *app) watchStatus(ctx context.Context, asked *asker, interval time.Duration, asJSON bool) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		report, err := asked.report(ctx)
		if ctx.Err() != nil {
			return nil // being stopped is no error
		}
		switch {
		case asJSON:
			err = a.printObject(report, err)
		case a.terminal() != nil:
			err = a.redraw(report, err, interval)
		default:
			a.printf("%s\n", statusLine(report, err))
			err = nil
		}
		if out, ok := a.stdout.(*results); ok && out.err != nil { // nobody reads any more
			return fmt.Errorf("write the result: %w", out.err)
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// printObject prints one line of JSON: the report, or when and why there is none.
func (a *app) printObject(report *statusReport, err error) error {
	var value any = report
	if err != nil {
		value = struct {
			At    time.Time `json:"at"`
			Error string    `json:"error"`
		}{time.Now().UTC(), err.Error()}
	}
	text, err := json.Marshal(value)
	a.printf("%s\n", text)
	return err
}

// redraw prints over what it has printed before.
func (a *app) redraw(report *statusReport, err error, interval time.Duration) error {
	var text bytes.Buffer
	if err != nil {
		_, _ = fmt.Fprintf(&text, "no answer: %s\n", oneLine(err.Error(), -1)) // into memory
	} else if err := a.printStatus(&text, report); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(&text, "\n%s, every %v; Ctrl-C ends it\n", time.Now().Format(time.TimeOnly), interval)
	// Home; each line is cleared to its end, and at last what is below: nothing flickers.
	a.printf("\x1b[H%s\x1b[J", strings.ReplaceAll(text.String(), "\n", "\x1b[K\n"))
	return nil
}

// statusLine is a report on one line.
func statusLine(r *statusReport, err error) string {
	now := time.Now().Format(time.RFC3339)
	if err != nil {
		return now + " no answer: " + oneLine(err.Error(), -1)
	}
	line := fmt.Sprintf("%s slot %s, stored %s, lag %s, retained %s", now, r.SlotState, orNone(r.StoredLSN), r.lagText(), bytesText(r.RetainedWAL))
	if r.Relay == nil {
		return line + ", no relay answers on http.listen"
	}
	s := r.Relay
	line = fmt.Sprintf("%s, %s, %.0f events/s, %d in flight, oldest %s, %d parked", line, s.State, s.Rate, s.InFlightEvents, secondsText(s.OldestUnacked), s.Parked)
	if s.LastError != "" {
		line += ", last error: " + oneLine(s.LastError, 200)
	}
	return line
}
