package main

import (
	"context"
	"syscall"
	"time"
)

// processFaults are those of tidemark's own process.
func processFaults() []fault {
	return []fault{
		{
			Name: "kill", What: "SIGKILL, started again at once", Quick: true,
			Inject: func(ctx context.Context, s *stack) (func() error, error) {
				i, err := s.active(ctx)
				if err != nil {
					return nil, err
				}
				return nil, i.kill()
			},
		},
		{
			Name: "kill_early", What: "SIGKILL within the first half second of a start, five times in a row", Quick: true,
			Inject: func(ctx context.Context, s *stack) (func() error, error) {
				i, err := s.active(ctx)
				if err != nil {
					return nil, err
				}
				for range 5 {
					if err := i.kill(); err != nil {
						return nil, err
					}
					s.hold(ctx, s.between(0, 500*time.Millisecond))
				}
				return nil, nil
			},
		},
		{
			Name: "term", What: "SIGTERM: drains, ends with 0, started again at once", Quick: true,
			Inject: func(ctx context.Context, s *stack) (func() error, error) {
				i, err := s.active(ctx)
				if err != nil {
					return nil, err
				}
				return nil, i.term()
			},
		},
		{
			Name: "stop_cont",
			What: "SIGSTOP for longer than every timeout; a second instance takes over; SIGCONT wakes the zombie",
			Inject: func(ctx context.Context, s *stack) (func() error, error) {
				zombie, err := s.active(ctx)
				if err != nil {
					return nil, err
				}
				other := s.start(ctx)
				s.hold(ctx, time.Second)
				if err := zombie.signal(syscall.SIGSTOP); err != nil {
					return nil, err
				}
				if err := other.ready(ctx); err != nil {
					return nil, err
				}
				s.hold(ctx, 12*time.Second)
				return func() error {
					if err := zombie.signal(syscall.SIGCONT); err != nil {
						return err
					}
					s.hold(ctx, 5*time.Second) // both run
					return zombie.end()
				}, nil
			},
		},
		{
			Name: "pause", What: "SIGSTOP for 1 to 8 s, with nobody to take over", Quick: true,
			Inject: func(ctx context.Context, s *stack) (func() error, error) {
				i, err := s.active(ctx)
				if err != nil {
					return nil, err
				}
				if err := i.signal(syscall.SIGSTOP); err != nil {
					return nil, err
				}
				s.hold(ctx, s.between(time.Second, 8*time.Second))
				return func() error { return i.signal(syscall.SIGCONT) }, nil
			},
		},
		{
			Name: "two_relays", What: "two instances with one slot and one checkpoint; the active one is killed, again and again", Quick: true,
			Inject: func(ctx context.Context, s *stack) (func() error, error) {
				if len(s.instances) < 2 {
					s.start(ctx)
				}
				i, err := s.active(ctx)
				if err != nil {
					return nil, err
				}
				return nil, i.kill()
			},
		},
	}
}
