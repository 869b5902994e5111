package cli

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/tidemark/tidemark/reconcile"
	"github.com/tidemark/tidemark/relay"
)

// upkeep is what a relay that streams does now and then beside its job, gently and one at a time: it verifies, and it prunes.
// What fails is logged and tried again the next time; nothing of it ends the process.
type upkeep struct {
	*job

	turn sync.Mutex // held by what is done
	mu   sync.Mutex // guards last
	last upkeepStatus
}

// upkeepStatus is its part of /api/status. What is not configured, or was not done yet, is null.
type upkeepStatus struct {
	Reconcile *upkeepResult `json:"reconcile"`
	Prune     *upkeepResult `json:"prune"`
}

// upkeepResult is how the last time ended.
type upkeepResult struct {
	EndedAt time.Time `json:"ended_at"`
	Seconds float64   `json:"seconds"`
	Rows    int64     `json:"rows"`              // that were verified, or that were old enough
	Missing int64     `json:"missing,omitempty"` // that Kafka lacks
	Deleted int64     `json:"deleted,omitempty"`
	Error   string    `json:"error,omitempty"`
}

// upkeepRows bounds the memory of a pass inside the relay: 20 MB.
const upkeepRows = 1 << 20

// memory is what it may take besides the relay's.
func (u *upkeep) memory() int64 {
	if u.config.Reconcile.Interval == 0 && !u.prunes() {
		return 0
	}
	return 48 << 20
}

func (u *upkeep) prunes() bool { return u.config.Prune.Interval > 0 && u.config.Prune.OlderThan > 0 }

// run goes on until ctx is done.
func (u *upkeep) run(ctx context.Context) error {
	var group sync.WaitGroup
	if every := u.config.Reconcile.Interval; every > 0 {
		group.Go(func() { u.every(ctx, every, u.reconcile) })
	}
	if u.prunes() {
		group.Go(func() { u.every(ctx, u.config.Prune.Interval, u.prune) })
	}
	group.Wait()
	return nil
}

// every has work done each interval, by the process that streams alone. Of two that are due, one waits for the other.
func (u *upkeep) every(ctx context.Context, interval time.Duration, work func(context.Context)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		u.turn.Lock()
		if ctx.Err() == nil && u.relay.Status().State == relay.Streaming {
			work(ctx)
		}
		u.turn.Unlock()
	}
}

func (u *upkeep) reconcile(ctx context.Context) {
	began := time.Now()
	log := u.log.With().Str("component", "reconcile").Logger()
	report, err := u.verify(ctx, log)
	result := newUpkeepResult(began, err)
	if report != nil {
		result.Rows, result.Missing = report.Rows, report.Missing()
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		log.Warn().Err(err).Msg("the tables could not be held against the topics")
	case result.Missing > 0:
		u.metrics.Missing(int(result.Missing))
		first := report.Found[0]
		log.Error().Int64("missing", result.Missing).Int64("rows", result.Rows).Str("first", first.ID).Str("table", first.Table).Str("topic", first.Topic).
			Msg("rows are missing in Kafka: tidemark verify names them, tidemark verify --repair publishes them")
	default:
		u.metrics.Missing(0)
		log.Info().Int64("rows", result.Rows).Int64("undecidable", report.Counts[reconcile.Undecidable]).Dur("took", time.Since(began)).
			Msg("no row is missing in Kafka")
	}
	u.mu.Lock()
	u.last.Reconcile = &result
	u.mu.Unlock()
}

func (u *upkeep) verify(ctx context.Context, log zerolog.Logger) (*reconcile.Report, error) {
	s, err := checkpointStore(u.config)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	o := reconcile.Options{
		Sample: 1, Examples: 1, LongestTransaction: defaultLongestTransaction, PassRows: upkeepRows, Gentle: true, Log: log.Level(max(log.GetLevel(), zerolog.WarnLevel)),
	}
	reconcileParts(u.config, s, &o)
	return reconcile.Verify(ctx, o)
}

func (u *upkeep) prune(ctx context.Context) {
	began := time.Now()
	log := u.log.With().Str("component", "prune").Logger()
	o := reconcile.PruneOptions{Before: began.Add(-u.config.Prune.OlderThan), Patience: prunePatience, Deleted: u.metrics.Pruned}
	o.PassRows, o.Gentle = upkeepRows, true
	report, err := prune(ctx, u.config, log.Level(max(log.GetLevel(), zerolog.WarnLevel)), o)
	result := newUpkeepResult(began, err)
	kept := zerolog.Dict()
	stay := int64(0)
	if report != nil {
		result.Deleted = report.Deleted()
		for _, t := range report.Tables {
			result.Rows += t.Old
			for why, n := range t.Kept {
				kept = kept.Int64(t.Table+": "+why, n)
				stay += n
			}
		}
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		log.Warn().Err(err).Int64("deleted", result.Deleted).Msg("pruning was not done")
	case stay > 0:
		log.Warn().Int64("deleted", result.Deleted).Int64("stay", stay).Dict("kept", kept).Dur("took", time.Since(began)).
			Msg("old rows were deleted, and others stay that are not surely in Kafka: see tidemark prune --help for what to do about each kind")
	default:
		log.Info().Int64("deleted", result.Deleted).Dur("took", time.Since(began)).Msg("old rows were deleted")
	}
	u.mu.Lock()
	u.last.Prune = &result
	u.mu.Unlock()
}

func newUpkeepResult(began time.Time, err error) upkeepResult {
	r := upkeepResult{EndedAt: time.Now().UTC(), Seconds: time.Since(began).Seconds()}
	if err != nil && !errors.Is(err, context.Canceled) {
		r.Error = err.Error()
	}
	return r
}

func (u *upkeep) status() *upkeepStatus {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.last
	return &s
}
