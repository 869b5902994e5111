package relay

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/rs/zerolog"
)

// outage paces the attempts to get over something that passes by itself, and says so without flooding the log: one line
// when it begins, one a period while it lasts, one when it is over. Not for concurrent use.
type outage struct {
	log      zerolog.Logger
	what     string
	since    time.Time // zero while all is well
	attempts int
	said     time.Time
}

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 5 * time.Second
	sayEvery     = 30 * time.Second
)

func newOutage(log zerolog.Logger, what string) *outage { return &outage{log: log, what: what} }

// wait notes a failed attempt and returns when it is time for the next; an error is ctx's.
func (o *outage) wait(ctx context.Context, err error) error {
	now := time.Now()
	if o.since.IsZero() {
		o.since = now
	}
	o.attempts++
	backoff := min(firstBackoff<<min(o.attempts-1, 10), lastBackoff)
	backoff = backoff/2 + rand.N(backoff/2) //nolint:gosec // spreads attempts, nothing secret
	if o.said.IsZero() || now.Sub(o.said) >= sayEvery {
		o.said = now
		o.log.Warn().Err(err).Int("attempt", o.attempts).Dur("backoff", backoff).Msg(o.what)
	}
	timer := time.NewTimer(backoff)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// healed notes that all is well again.
func (o *outage) healed() {
	if o.since.IsZero() {
		return
	}
	o.log.Info().Dur("lasted", time.Since(o.since)).Int("attempts", o.attempts).Msg("recovered: " + o.what)
	o.since, o.said, o.attempts = time.Time{}, time.Time{}, 0
}
