package consumer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/inbox"
)

// Poison marks an error of Handle as one that trying again will not mend: the event is parked at once.
func Poison(err error) error {
	if err == nil {
		return nil
	}
	return failure{err, true}
}

// failure is an error that is the event's own, and counts as an attempt. All others are the database's, and do not.
type failure struct {
	error

	final bool // not to be tried again
}

func (f failure) Unwrap() error { return f.error }

func asFailure(err error) (failure, bool) { return errors.AsType[failure](err) }

// errGivenAway ends the work on a record whose partition is given away: it is left to the next owner.
var errGivenAway = errors.New("the partition is given away")

// handle deals with one record: its event is handled, dropped or parked when it returns true. It returns false if the
// partition is given away.
func (c *Consumer) handle(p *partition, r *kgo.Record) bool {
	e, err := c.cfg.Event(r)
	if err != nil {
		e.Record = Record(r) // whatever was made of it, this is where it lies
		return c.park(p, e, err, 0)
	}
	for n := 1; ; n++ {
		var outcome inbox.Outcome
		var took time.Duration
		err := c.persist(p, e, func(ctx context.Context) (err error) {
			began := time.Now()
			outcome, err = c.once(ctx, e)
			took = time.Since(began)
			return err
		})
		failed, own := asFailure(err)
		switch {
		case err == nil:
			c.cfg.Hooks.Done(e, outcome, took)
			return true
		case !own:
			return false
		case failed.final || n >= c.cfg.Attempts:
			return c.park(p, e, failed.error, n)
		}
		wait := c.backoff(n)
		c.cfg.Hooks.Retry(e, n, wait, failed.error)
		if !p.wait(wait) {
			return false
		}
	}
}

// park sets the event aside, however long the database takes to come back.
func (c *Consumer) park(p *partition, e inbox.Event, reason error, attempts int) bool {
	parked := false
	err := c.persist(p, e, func(ctx context.Context) error {
		tx, err := c.cfg.DB.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(ctx) //nolint:errcheck // after the commit there is nothing to roll back
		if parked, err = inbox.Park(ctx, tx, c.cfg.Name, e, reason.Error(), attempts); err != nil {
			return err
		}
		return tx.Commit(ctx)
	})
	if err != nil {
		return false
	}
	if parked {
		c.cfg.Hooks.Park(e, reason)
	} else {
		c.cfg.Hooks.Done(e, inbox.Duplicate, 0)
	}
	return true
}

// persist runs attempt until it succeeds, fails for the event's own reasons, or the partition is given away. Troubles of
// the database do not end it.
func (c *Consumer) persist(p *partition, e inbox.Event, attempt func(context.Context) error) error {
	for n := 1; ; n++ {
		err := c.try(p, attempt)
		if _, own := asFailure(err); err == nil || own || errors.Is(err, errGivenAway) {
			return err
		}
		wait := c.backoff(n)
		c.cfg.Hooks.Retry(e, 0, wait, err)
		if !p.wait(wait) {
			return errGivenAway
		}
	}
}

// try runs one attempt, when it is its turn. One that succeeds counts as under way until it is accounted for (next), so
// that it is committed before its partition is given away.
func (c *Consumer) try(p *partition, attempt func(context.Context) error) error {
	select {
	case c.turns <- struct{}{}:
		defer func() { <-c.turns }()
	case <-p.stop:
		return errGivenAway
	}
	if !c.begin(p) {
		return errGivenAway
	}
	ctx, cancel := context.WithTimeout(p.ctx, c.cfg.HandleTimeout)
	defer cancel()
	err := attempt(ctx)
	if err == nil {
		return nil
	}
	p.attempts.Done()
	if p.ctx.Err() != nil {
		return errGivenAway
	}
	return err
}

// begin counts an attempt, unless the partition is given away: who gives it away waits for those that were counted.
func (c *Consumer) begin(p *partition) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.stopped {
		return false
	}
	p.attempts.Add(1)
	return true
}

// wait returns false if the partition is given away meanwhile.
func (p *partition) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.stop:
		return false
	}
}

// once is one attempt to handle the event: a transaction.
func (c *Consumer) once(ctx context.Context, e inbox.Event) (inbox.Outcome, error) {
	tx, err := c.cfg.DB.Begin(ctx)
	if err != nil {
		return inbox.Failed, err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after the commit there is nothing to roll back
	outcome, err := inbox.Once(ctx, tx, c.cfg.Name, e, func(ctx context.Context, tx pgx.Tx) error { return c.work(ctx, tx, e) }, c.opts...)
	if errors.Is(err, inbox.ErrNoID) {
		return inbox.Failed, failure{err, true}
	}
	if err != nil {
		return inbox.Failed, err
	}
	return outcome, c.commitWork(ctx, tx)
}

// work runs Handle, and tells its failures from the database's.
func (c *Consumer) work(ctx context.Context, tx pgx.Tx, e inbox.Event) (err error) {
	defer func() {
		// A panic is the event's as well: it must not take the other events' process down again and again.
		if r := recover(); r != nil {
			err = failure{fmt.Errorf("panic: %v\n%s", r, debug.Stack()), false}
		}
	}()
	err = c.cfg.Handle(ctx, tx, e)
	if _, own := asFailure(err); err == nil || own {
		return err
	}
	tooLong := errors.Is(ctx.Err(), context.DeadlineExceeded)
	if !tooLong && (tx.Conn().IsClosed() || passes(err)) {
		return err
	}
	return failure{err, false}
}

// commitWork commits what Handle did; what the database refuses only now is the event's failure, too.
func (c *Consumer) commitWork(ctx context.Context, tx pgx.Tx) error {
	err := tx.Commit(ctx)
	if _, refused := errors.AsType[*pgconn.PgError](err); refused && !passes(err) || errors.Is(err, pgx.ErrTxCommitRollback) {
		return failure{fmt.Errorf("commit: %w", err), false}
	}
	return err
}

// passes reports whether err is of a kind that has nothing to do with the event: a server that goes, is full or read-only,
// a deadlock, a lock, a serialization failure. (https://www.postgresql.org/docs/current/errcodes-appendix.html)
func passes(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	switch e.Code[:2] {
	case "08", "40", "53", "57", "58":
		return true
	}
	const lockNotAvailable, readOnly = "55P03", "25006"
	return e.Code == lockNotAvailable || e.Code == readOnly
}

// backoff is the wait after the n-th failure, counted from 1; half of it is random, so that those that failed together do
// not try again together.
func (c *Consumer) backoff(n int) time.Duration {
	d := c.cfg.MaxBackoff
	if n < 32 {
		d = min(d, max(c.cfg.Backoff<<(n-1), 1))
	}
	return d/2 + rand.N(d/2+1) //nolint:gosec // no secret
}
