package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/inbox"
)

// handleParked handles the parked events that are due, one after the other.
func (c *Consumer) handleParked(ctx context.Context) {
	for ctx.Err() == nil {
		err := c.oneParked(ctx)
		if errors.Is(err, inbox.ErrNothingDue) {
			return
		}
		if err != nil {
			if ctx.Err() == nil {
				c.cfg.Hooks.Error(fmt.Errorf("handle parked events: %w", err))
			}
			return // the next look tries again
		}
	}
}

// oneParked handles the next, or notes that it has failed again.
func (c *Consumer) oneParked(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HandleTimeout)
	defer cancel()
	began := time.Now()
	tx, err := c.cfg.DB.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after the commit there is nothing to roll back
	p, err := inbox.HandleParked(ctx, tx, c.cfg.Name, func(ctx context.Context, tx pgx.Tx, p inbox.ParkedEvent) error {
		return c.work(ctx, tx, p.Event)
	})
	if err == nil {
		err = c.commitWork(ctx, tx)
	}
	failed, own := asFailure(err)
	switch {
	case err == nil:
		c.cfg.Hooks.Done(p.Event, inbox.Handled, time.Since(began))
		return nil
	case !own:
		return err
	}
	n := p.Attempts + 1
	wait, held := c.backoff(n), failed.final || n >= c.cfg.Attempts
	noting, cancelNoting := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout) // the attempt may have used up its time
	defer cancelNoting()
	if err := inbox.Postpone(noting, c.cfg.DB, c.cfg.Name, p.ID, failed.Error(), wait, held); err != nil {
		return err
	}
	if held {
		c.cfg.Hooks.Park(p.Event, failed)
	} else {
		c.cfg.Hooks.Retry(p.Event, n, wait, failed)
	}
	return nil
}
