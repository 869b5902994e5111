package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidemark/tidemark/test/trial"
)

// actor is a service that is started again whenever it was killed, as a service manager would.
type actor struct {
	name  string
	start func(context.Context) (*trial.Process, error)

	mu      sync.Mutex
	process *trial.Process // the last one; nil before the first
	killed  bool           // and nobody has noticed yet
	kills   int
}

// run returns when the service ends by itself, or with ctx. An end that nobody has asked for is an error.
func (a *actor) run(ctx context.Context) error {
	for {
		p, err := a.start(ctx)
		if err != nil {
			return err
		}
		a.mu.Lock()
		a.process = p
		a.mu.Unlock()
		select {
		case <-p.Done():
		case <-ctx.Done():
			return p.Kill()
		}
		a.mu.Lock()
		killed := a.killed
		a.killed = false
		a.mu.Unlock()
		switch {
		case p.Status() == 0:
			return nil
		case !killed:
			return fmt.Errorf("%s ended with status %d: %s", a.name, p.Status(), lastLines(p.Log()))
		}
	}
}

// ended reports whether it has ended by itself.
func (a *actor) ended() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.process != nil && !a.killed && !a.process.Running()
}

// kill kills it, and reports whether there was something to kill.
func (a *actor) kill() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.process == nil || a.killed || !a.process.Running() {
		return false
	}
	a.killed = true
	a.kills++
	return a.process.Kill() == nil
}

func lastLines(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// cast is all of them.
type cast struct {
	*stack
	relay    trial.Config
	orders   *actor
	everyone []*actor
}

func (s *stack) cast(ctx context.Context, checkpoint string) (*cast, error) {
	c := &cast{stack: s, relay: s.config(checkpoint)}
	tidemark := &actor{name: "tidemark", start: func(ctx context.Context) (*trial.Process, error) {
		r, err := trial.Start(ctx, c.relay)
		if err != nil {
			return nil, err
		}
		return r.Process, nil
	}}
	c.orders = s.actor("orders", "orders", []string{"ORDERS_DSN=" + s.postgres.DSN(shop)}, "--customers", strconv.Itoa(s.Orders))
	c.everyone = []*actor{tidemark, c.orders}
	environ := []string{"BILLING_DSN=" + s.postgres.DSN(ledger), "KAFKA_BROKERS=" + strings.Join(s.kafka.Brokers(), ",")}
	for i := range s.Readers {
		instance := strconv.Itoa(i + 1)
		c.everyone = append(c.everyone, s.actor("billing-"+instance, "billing", environ, "--instance", instance))
	}
	return c, ctx.Err()
}

func (s *stack) actor(name, program string, environ []string, args ...string) *actor {
	return &actor{name: name, start: func(ctx context.Context) (*trial.Process, error) {
		return trial.StartProcess(ctx, s.service(name, program, environ, args...))
	}}
}

// perform runs everyone until all orders have arrived, or nothing does any more; then it has old events published again.
func (c *cast) perform(ctx context.Context) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	group, running := errgroup.WithContext(ctx)
	ordered := make(chan struct{})
	for _, a := range c.everyone {
		group.Go(func() error {
			err := a.run(running)
			if a == c.orders && err == nil {
				close(ordered)
			}
			return err
		})
	}
	group.Go(func() error {
		defer end()
		arrived, stop := context.WithCancel(running)
		defer stop()
		var killing sync.WaitGroup
		defer killing.Wait()
		defer stop()
		if c.KillEvery > 0 {
			killing.Go(func() { c.killAll(arrived) })
		}
		if err := c.awaitAll(running, ordered); err != nil {
			return err
		}
		if c.Rounds > 0 {
			killing.Wait() // everything may have arrived before everyone was killed
		}
		stop()
		if err := c.awaitRead(running); err != nil { // what is billed twice may come last
			return err
		}
		return c.publishOldOnesAgain(running)
	})
	return group.Wait()
}

// killAll kills one after the other, each as often, at random moments; first the orders, which may be done soon.
func (c *cast) killAll(ctx context.Context) {
	random := rand.New(rand.NewPCG(c.Seed, 0)) //nolint:gosec // a trial that can be run again
	next, rounds := []int{slices.Index(c.everyone, c.orders)}, 0
	for delay := float64(c.KillEvery) / 2; ; {
		timer := time.NewTimer(time.Duration(delay * random.Float64()))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if len(next) == 0 || len(next) == 1 && c.everyone[next[0]].ended() {
			if rounds++; rounds > c.Rounds && c.Rounds > 0 {
				return
			}
			next = random.Perm(len(c.everyone))
		}
		for i, n := range next {
			if c.everyone[n].kill() {
				next = slices.Delete(next, i, i+1)
				delay = float64(c.KillEvery) * 2
				break
			}
		}
	}
}

func (c *cast) kills() map[string]int {
	kills := map[string]int{}
	for _, a := range c.everyone {
		kills[a.name] = a.kills
	}
	return kills
}

// patience is how long nothing may arrive before what is missing counts as lost.
const patience = time.Minute

// awaitAll says every second how far everyone is, and returns when every order is billed and its last status known, or
// nothing arrives any more.
func (c *cast) awaitAll(ctx context.Context, ordered <-chan struct{}) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	last, since := progress{}, time.Now()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		now, err := c.progress(ctx)
		if err != nil {
			return err
		}
		c.say("%s · killed %d times\n", now, c.allKills())
		if now != last {
			last, since = now, time.Now()
		}
		select {
		case <-ordered:
			if now.billed >= c.Orders && now.shipped >= c.Orders || time.Since(since) > patience {
				return nil
			}
		default: // more is to come, however slowly
		}
	}
}

func (c *cast) allKills() (n int) {
	for _, a := range c.everyone {
		a.mu.Lock()
		n += a.kills
		a.mu.Unlock()
	}
	return n
}

// publishOldOnesAgain has every first status published again, behind the last ones, when inbox does not know their ids any
// more, as after its retention: only their positions tell that they are old.
func (c *cast) publishOldOnesAgain(ctx context.Context) error {
	if err := c.exec(ctx, ledger, "delete from inbox where kafka_topic = 'outbox.event.order-status'"); err != nil {
		return err
	}
	config := c.relay
	config.Args = []string{"replay", "--type", "StatusPlaced"}
	replay, err := trial.Run(ctx, config, "")
	if err != nil {
		return err
	}
	if status, err := replay.Wait(10 * time.Minute); status != 0 || err != nil {
		return errors.Join(err, fmt.Errorf("replay ended with status %d: %s", status, lastLines(replay.Log())))
	}
	return c.awaitRead(ctx)
}
