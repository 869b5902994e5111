package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/test/trial"
)

// stack is what a fault is injected into: one arena, the servers, and the instances of tidemark that serve it.
type stack struct {
	*servers
	*trial.Arena
	rng     *rand.Rand
	writers *trial.Writers
	cleanup []func()
	drawn   []string    // the faults of a mixed trial
	done    counts      // what else was done
	pair    *trial.Pair // of servers for this trial alone; nil if it is on the shared one
	ways    bool        // every instance has its own way to Postgres

	injected  int             // a fault's own count
	takeovers []time.Duration // how long each took

	mu        sync.Mutex
	instances []*instance
	exits     []string // of instances that ended by themselves
}

// newStack makes an arena of its own for one trial.
func newStack(ctx context.Context, s *servers, name, pair string, rng *rand.Rand) (_ *stack, err error) {
	st := &stack{servers: s, rng: rng, done: counts{}}
	database := strings.ReplaceAll(name, "-", "_") + fmt.Sprintf("_%06x", rng.Uint32()&0xffffff)
	var dsn string
	if pair == "" {
		dsn = s.postgres.DSN(database)
		err = s.postgres.CreateDatabase(ctx, database)
	} else {
		if st.pair, err = trial.StartPair(ctx, devstack.PostgresOptions{Version: pair}); err != nil {
			return nil, err
		}
		st.cleanup = append(st.cleanup, func() { _ = st.pair.Close() }) // the trial is over
		dsn = st.pair.DSN(database)
		err = st.pair.CreateDatabase(ctx, database)
	}
	defer func() {
		if err != nil {
			for _, do := range st.cleanup {
				do()
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(s.dir, database)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	st.Arena, err = trial.NewArena(ctx, trial.Options{
		Binary: s.binary, DSN: dsn, Brokers: s.kafka.Brokers(), Dir: dir, Seed: rng.Uint64(), Reader: s.kafkaClient,
		ExactlyOnce: s.mode == exactlyOnce, Store: s.store,
	})
	if err != nil {
		return nil, err
	}
	if st.pair == nil {
		st.Config.DSN = s.throughProxy(dsn)
	}
	st.Config.Brokers = s.relayBrokers()
	return st, nil
}

// instance is one place where a tidemark runs: when it ends, it is started again, as a service manager would.
type instance struct {
	stack *stack
	ctx   context.Context //nolint:containedctx // ends with the instance
	stop  context.CancelFunc
	done  chan struct{}
	way   string          // to Postgres, if it is not the arena's
	proxy *devstack.Proxy // on that way

	mu         sync.Mutex
	relay      *trial.Relay
	expected   bool // that it ends: we have ended it
	starts     int
	suppressed float64 // by relays that have ended
	current    float64 // by the running one, as last seen
	err        error
}

// restartAfter is how long the service manager waits when a process has ended by itself.
const restartAfter = 500 * time.Millisecond

// start starts one more instance.
func (s *stack) start(ctx context.Context) *instance {
	i := &instance{stack: s, done: make(chan struct{})}
	i.ctx, i.stop = context.WithCancel(ctx)
	if s.ways {
		i.ownWay(ctx)
	}
	s.mu.Lock()
	s.instances = append(s.instances, i)
	s.mu.Unlock()
	go i.supervise() // ends with the instance
	return i
}

// ownWay gives the instance a proxy before Postgres that is no one else's.
func (i *instance) ownWay(ctx context.Context) {
	upstream := fmt.Sprintf("127.0.0.1:%d", i.stack.postgres.Port())
	if i.proxy, i.err = devstack.StartProxy(ctx, upstream); i.err != nil {
		return
	}
	i.stack.cleanup = append(i.stack.cleanup, func() { _ = i.proxy.Close() }) // never fails
	i.way = strings.Replace(i.stack.DSN, upstream, i.proxy.Addr(), 1)
}

func (i *instance) supervise() {
	defer close(i.done)
	for i.ctx.Err() == nil {
		config := i.stack.Config
		if i.way != "" {
			config.DSN = i.way
		}
		relay, err := trial.Start(i.ctx, config)
		if err != nil {
			i.mu.Lock()
			i.err = err
			i.mu.Unlock()
			return
		}
		i.mu.Lock()
		i.relay, i.expected, i.starts = relay, false, i.starts+1
		i.mu.Unlock()
		i.watch(relay)
		i.mu.Lock()
		expected := i.expected
		i.suppressed, i.current = i.suppressed+i.current, 0
		i.mu.Unlock()
		if expected || i.ctx.Err() != nil {
			continue
		}
		i.stack.note(relay)
		wait(i.ctx, restartAfter)
	}
}

// watch follows the metrics until the process has ended.
func (i *instance) watch(relay *trial.Relay) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-relay.Done():
			return
		case <-ticker.C:
			if n, err := relay.Metric(i.ctx, "tidemark_duplicates_suppressed_total"); err == nil {
				i.mu.Lock()
				i.current = n
				i.mu.Unlock()
			}
		}
	}
}

// note keeps how an instance has ended by itself.
func (s *stack) note(relay *trial.Relay) {
	lines := strings.Split(strings.TrimSpace(relay.Log()), "\n")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exits = append(s.exits, fmt.Sprintf("exit status %d: %s", relay.Status(), lines[len(lines)-1]))
}

// current returns the running process, nil before the first.
func (i *instance) process() *trial.Relay {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.relay
}

// kill ends the process with SIGKILL; it is started again at once.
func (i *instance) kill() error {
	i.mu.Lock()
	i.expected = true
	relay := i.relay
	i.mu.Unlock()
	return relay.Kill()
}

// term ends the process with SIGTERM; it is started again at once. Its exit status has to be 0.
func (i *instance) term() error {
	i.mu.Lock()
	i.expected = true
	relay := i.relay
	i.mu.Unlock()
	status, err := relay.Stop(40 * time.Second)
	if err == nil && status != 0 {
		err = fmt.Errorf("SIGTERM ended it with status %d:\n%s", status, end(relay.Log(), 2000))
	}
	return err
}

// end takes the instance away for good, with SIGTERM.
func (i *instance) end() error {
	i.stop()
	err := i.term()
	<-i.done
	i.stack.mu.Lock()
	defer i.stack.mu.Unlock()
	i.stack.instances = slices.DeleteFunc(i.stack.instances, func(other *instance) bool { return other == i })
	return err
}

func end(s string, n int) string { return s[max(0, len(s)-n):] }

// signal sends a signal to the process.
func (i *instance) signal(sig syscall.Signal) error { return i.process().Signal(sig) }

// ready waits until the instance streams.
func (i *instance) ready(ctx context.Context) error {
	return trial.Await(ctx, "an instance is ready", time.Minute, func() (bool, error) {
		relay := i.process()
		if relay == nil {
			return false, nil
		}
		status, _, err := relay.Get(ctx, "/readyz")
		return err == nil && status == 200, nil
	})
}

// isReady reports whether the instance streams now.
func (i *instance) isReady(ctx context.Context) bool {
	relay := i.process()
	if relay == nil {
		return false
	}
	status, _, err := relay.Get(ctx, "/readyz")
	return err == nil && status == 200
}

// active returns the instance that streams, as soon as one does.
func (s *stack) active(ctx context.Context) (*instance, error) {
	var found *instance
	err := trial.Await(ctx, "an instance is ready", time.Minute, func() (bool, error) {
		s.mu.Lock()
		instances := slices.Clone(s.instances)
		s.mu.Unlock()
		for _, i := range instances {
			if i.isReady(ctx) {
				found = i
				return true, nil
			}
		}
		return false, nil
	})
	return found, err
}

// endAll ends all instances with SIGTERM.
func (s *stack) endAll() error {
	s.mu.Lock()
	instances := slices.Clone(s.instances)
	s.mu.Unlock()
	var errs []error
	for _, i := range instances {
		errs = append(errs, i.end(), i.err)
	}
	return errors.Join(errs...)
}

// killAll leaves nothing running, whatever happened before.
func (s *stack) killAll() {
	s.mu.Lock()
	instances := slices.Clone(s.instances)
	s.instances = nil
	s.mu.Unlock()
	for _, i := range instances {
		i.stop()
		if relay := i.process(); relay != nil {
			_ = i.kill()
		}
		<-i.done
	}
}

// suppressed is how many duplicates the instances say they have suppressed.
func (s *stack) suppressed() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.instances {
		i.mu.Lock()
		n += int(i.suppressed + i.current)
		i.mu.Unlock()
	}
	return n
}

// between draws a duration.
func (s *stack) between(from, to time.Duration) time.Duration {
	return from + time.Duration(s.rng.Int64N(int64(to-from)))
}

// hold lets time pass.
func (s *stack) hold(ctx context.Context, d time.Duration) { wait(ctx, d) }

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
