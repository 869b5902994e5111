package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tidemark/tidemark/test/trial"
)

// killsPerRun bounds what one seed and one ledger have to reproduce.
const killsPerRun = 100

// runKills kills a tidemark at random moments, in as many runs as it takes, each with a database and topics of its own.
func (r *report) runKills(ctx context.Context, o *options, s *servers) {
	runs := (o.kills + killsPerRun - 1) / killsPerRun
	for n := range runs {
		if ctx.Err() != nil {
			return
		}
		kills := min(killsPerRun, o.kills-n*killsPerRun)
		name := fmt.Sprintf("kills_%d", n+1)
		fmt.Printf("%-22s ", name)
		t := runKillRun(ctx, o, s, name, kills, (o.rows+runs-1)/runs)
		r.Trials = append(r.Trials, t)
		fmt.Println(t.line())
	}
}

func runKillRun(ctx context.Context, o *options, s *servers, name string, kills, rows int) (t result) {
	t = result{Fault: name, What: "SIGKILL at random moments, from the first millisecond of a start on, under as many rows as that takes", Exits: []string{}}
	stack, err := newStack(ctx, s, name, "", sub(o.seed, name))
	if err != nil {
		t.Broken = "the trial cannot begin: " + err.Error()
		return t
	}
	defer stack.end(ctx, &t)
	if o.verbose {
		stack.Config.Output = prefixed(name)
	}
	began := time.Now()
	if err := stack.killAgainAndAgain(ctx, kills, rows, &t); err != nil {
		t.Broken = err.Error()
	}
	t.Seconds = time.Since(began).Seconds()
	stack.judge(ctx, &fault{}, &t)
	return t
}

func (s *stack) killAgainAndAgain(ctx context.Context, kills, rows int, t *result) error {
	i := s.start(ctx)
	if err := i.ready(ctx); err != nil {
		return err
	}
	// The rows are to last as long as the kills, which takes trying: the rate follows what is left of both.
	s.writers = s.Write(ctx, trial.Load{Writers: 6, Rate: float64(rows) / float64(kills), Seed: s.rng.Uint64()})
	began := time.Now()
	for t.Injections < kills {
		// Most kills hit one that streams, and some one that has not begun.
		s.hold(ctx, s.between(0, 1200*time.Millisecond))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := i.kill(); err != nil {
			return err
		}
		t.Injections++
		committed, _, _ := s.Ledger.Progress()
		perKill := time.Since(began) / time.Duration(t.Injections)
		if left := time.Duration(kills-t.Injections) * perKill; left > 0 {
			s.writers.SetRate(max(1, float64(rows-committed)/left.Seconds()))
		}
	}
	s.writers.SetRate(0)
	return trial.Await(ctx, "the rest of the rows is written", 10*time.Minute, func() (bool, error) {
		committed, _, _ := s.Ledger.Progress()
		return committed >= rows, nil
	})
}
