package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/test/ledger"
	"github.com/tidemark/tidemark/test/trial"
)

// whereFaults are those of the setups: a second instance on another host, a primary that fails over, a read replica.
func whereFaults() []fault {
	promised := "the way out publishes every row of the table again, and what the old primary had published and the standby lacks is in Kafka"
	return []fault{
		{
			Name: "takeover_kill", What: "SIGKILL of the active instance while a second one waits", Alone: true, Prepare: ownTimeout,
			Inject: func(ctx context.Context, s *stack) (func() error, error) {
				return s.takeOver(ctx, 10*time.Second, func(active *instance) (func() error, error) {
					return nil, active.gone()
				})
			},
		},
		{
			Name: "takeover_silent", What: "the host of the active instance falls silent while a second one waits: its process stands still (SIGSTOP), or what it sends to Postgres is dropped", Alone: true, Prepare: ownTimeout,
			Inject: func(ctx context.Context, s *stack) (func() error, error) {
				return s.takeOver(ctx, 15*time.Second, func(active *instance) (func() error, error) {
					if s.injected++; s.injected%2 == 0 {
						active.proxy.Blackhole()
						return func() error { return errors.Join(active.proxy.Restore(), active.end()) }, nil
					}
					wake := func() error { return errors.Join(active.signal(syscall.SIGCONT), active.end()) }
					return wake, active.signal(syscall.SIGSTOP)
				})
			},
		},
		{
			Name: "failover_18", What: "Postgres 18: the primary is killed under load, and its synchronous standby, to which the slot is synced, is promoted", Alone: true,
			Pair: "18", Inject: failOver,
		},
		{
			Name: "failover_17", What: "the same with Postgres 17", Alone: true,
			Pair: "17", Inject: failOver,
		},
		{
			Name: "failover_without_slot", What: "the primary is killed under load, and a standby without the slot is promoted; after the refusal, init --recreate-slot --republish", Alone: true,
			Pair: "18", Refused: true,
			Load:      func(_ *stack, l *trial.Load) { l.Kinds = []trial.Kind{trial.Single} },
			Tolerated: []ledger.Finding{ledger.Doubled, ledger.Unstable, ledger.Backward, ledger.Phantom}, Twice: promised,
			Prepare: func(_ context.Context, s *stack) error {
				s.Config = s.Config.With("TIDEMARK_SOURCE_FAILOVER", "false")
				return nil
			},
			Inject: failOverWithoutSlot,
		},
		{
			Name: "replica", What: "the source is a hot standby; tidemark is killed", Alone: true,
			Pair: "18", Prepare: onReplica,
			Inject: func(ctx context.Context, s *stack) (func() error, error) {
				i, err := s.active(ctx)
				if err != nil {
					return nil, err
				}
				return nil, i.kill()
			},
		},
		{
			Name: "replica_primary_restart", What: "the source is a hot standby; its primary is restarted, in order or by a crash", Alone: true,
			Pair: "18", Prepare: onReplica,
			Inject: func(ctx context.Context, s *stack) (func() error, error) {
				mode := devstack.StopFast
				if s.rng.IntN(2) == 0 {
					mode = devstack.StopImmediate
				}
				return nil, s.pair.Primary.Restart(ctx, mode)
			},
		},
		{
			Name: "replica_restart", What: "the source is a hot standby, which is restarted, in order or by a crash", Alone: true,
			Pair: "18", Prepare: onReplica,
			Inject: func(ctx context.Context, s *stack) (func() error, error) {
				mode := devstack.StopFast
				if s.rng.IntN(2) == 0 {
					mode = devstack.StopImmediate
				}
				return nil, s.pair.Standby.Restart(ctx, mode)
			},
		},
		{
			Name: "replica_promoted", What: "the source is a hot standby, which is promoted while its primary dies; once", Alone: true, Once: true,
			Pair: "18", Prepare: onReplica,
			Inject: func(ctx context.Context, s *stack) (func() error, error) { return nil, s.pair.Failover(ctx) },
		},
	}
}

// ownTimeout gives every instance a way to Postgres of its own, with the server's default for wal_sender_timeout.
func ownTimeout(_ context.Context, s *stack) error {
	s.ways = true
	return nil
}

// takeOver has the active instance vanish, and measures how long the other needs.
func (s *stack) takeOver(ctx context.Context, limit time.Duration, vanish func(*instance) (func() error, error)) (func() error, error) {
	active, err := s.active(ctx)
	if err != nil {
		return nil, err
	}
	other := s.start(ctx)
	waits := func() (bool, error) {
		relay := other.process()
		if relay == nil {
			return false, nil
		}
		status, body, err := relay.Get(ctx, "/readyz")
		return err == nil && status == http.StatusServiceUnavailable && strings.Contains(body, "hot standby"), nil
	}
	if err := trial.Await(ctx, "a second instance waits", time.Minute, waits); err != nil {
		return nil, err
	}
	began := time.Now()
	heal, err := vanish(active)
	if err != nil {
		return heal, err
	}
	if err := other.ready(ctx); err != nil {
		return heal, err
	}
	took := time.Since(began)
	s.takeovers = append(s.takeovers, took)
	if took > limit {
		err = fmt.Errorf("the takeover took %v, and may take %v", took, limit)
	}
	return heal, err
}

// failOver kills the primary and promotes the standby, and gives that one a standby of its own.
func failOver(ctx context.Context, s *stack) (func() error, error) {
	if err := s.pair.AwaitSynced(ctx, s.Config.Slot); err != nil {
		return nil, err
	}
	s.hold(ctx, s.between(0, 3*time.Second))
	if err := s.pair.Failover(ctx); err != nil {
		return nil, err
	}
	promoted := time.Now()
	took, err := s.awaitArrival(ctx, promoted)
	if err != nil {
		return nil, err
	}
	s.takeovers = append(s.takeovers, took)
	return nil, s.pair.Rebuild(ctx)
}

func failOverWithoutSlot(ctx context.Context, s *stack) (func() error, error) {
	i, err := s.active(ctx)
	if err != nil {
		return nil, err
	}
	s.hold(ctx, s.between(0, 3*time.Second))
	if err := s.pair.Failover(ctx); err != nil {
		return nil, err
	}
	err = trial.Await(ctx, "it is refused", time.Minute, func() (bool, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.exits) > s.injected, nil
	})
	if err != nil {
		return nil, err
	}
	if err := i.gone(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.injected = len(s.exits)
	s.mu.Unlock()
	way := s.Config
	way.Args = []string{"init", "--recreate-slot", "--republish"}
	out, err := trial.Run(ctx, way, "")
	if err != nil {
		return nil, err
	}
	if status, err := out.Wait(time.Minute); err != nil || status != 0 {
		return nil, errors.Join(err, fmt.Errorf("init --recreate-slot --republish: exit status %d: %s", status, out.Log()))
	}
	if err := s.pair.Rebuild(ctx); err != nil {
		return nil, err
	}
	return nil, s.start(ctx).ready(ctx)
}

// onReplica has tidemark read from the standby.
func onReplica(ctx context.Context, s *stack) error {
	database := s.Config.Slot
	s.Config.DSN = s.pair.StandbyDSN(database)
	s.Config = s.Config.With("TIDEMARK_SOURCE_ADMIN_DSN", s.pair.DSN(database))
	return s.pair.CatchUp(ctx) // with the outbox table
}

// gone takes the instance away for good, with SIGKILL.
func (i *instance) gone() error {
	i.stop()
	err := i.kill()
	<-i.done
	i.stack.mu.Lock()
	defer i.stack.mu.Unlock()
	i.stack.instances = slices.DeleteFunc(i.stack.instances, func(other *instance) bool { return other == i })
	return err
}
