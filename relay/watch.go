package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/publish"
)

const (
	watchEvery    = time.Second
	pingPatience  = 5 * time.Second
	stallPatience = 10 * time.Second // how long events may be under way before it is looked into
)

// watch looks at the Kafka side once a second, until ctx is done: the client itself retries in silence for as long as it
// takes.
func (p *path) watch(ctx context.Context) {
	w := newWatcher(p)
	every(ctx, watchEvery, func() {
		w.brokers(ctx)
		w.progress(ctx)
		w.lag()
	})
}

// every calls look again and again, until ctx is done.
func every(ctx context.Context, interval time.Duration, look func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			look()
		}
	}
}

type watcher struct {
	*path
	silentSince, silentSaid time.Time

	noted                     uint64 // the commit LSN whose time is on the status board
	landed                    int64
	progressed, stallLookedAt time.Time
}

func newWatcher(p *path) *watcher { return &watcher{path: p, progressed: time.Now()} }

// brokers says when no broker answers, and when one does again.
func (w *watcher) brokers(ctx context.Context) {
	if w.flying.out.Load() == 0 || !w.silentSince.IsZero() { // idle, or already in trouble: nobody else asks
		ping, cancel := context.WithTimeout(ctx, pingPatience)
		_ = w.pub.Ping(ping) // what comes of it is in the publisher's account, which follows
		cancel()
	}
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	silent, err := w.pub.Silence(now)
	w.status.kafka(silent > 0, err)
	switch {
	case silent == 0 && !w.silentSince.IsZero():
		w.Metrics.reconnected("kafka")
		w.Log.Info().Dur("lasted", now.Sub(w.silentSince)).Msg("recovered: Kafka answers again")
		w.silentSince, w.silentSaid = time.Time{}, time.Time{}
	case silent > 0 && now.Sub(w.silentSaid) >= sayEvery:
		if w.silentSince.IsZero() {
			w.silentSince = now.Add(-silent)
		}
		w.silentSaid = now
		problem, hint := publish.ConnectHint(err)
		w.Log.Warn().Str("err", problem).Strs("brokers", w.Kafka.Brokers).Dur("silent", silent).Int64("inflight", w.flying.events.Load()).
			Msg("no Kafka broker answers: events wait (" + hint + ")")
	}
}

// lag notes how old what was handed over last is, unless that was noted before.
func (w *watcher) lag() {
	commit, at := w.handedCommit.Load(), w.handedAt.Load() // perhaps of two bursts, which are as old as each other
	if at != 0 && commit != w.noted {
		w.noted = commit
		w.status.handed(pglogrepl.LSN(commit), time.Unix(0, at))
	}
}

// progress looks into it when brokers answer and nothing is acknowledged all the same. A topic that was deleted ends the
// term: the next one creates it again, or says that it is missing.
func (w *watcher) progress(ctx context.Context) {
	now := time.Now()
	if landed := w.flying.landed.Load(); landed != w.landed || w.flying.out.Load() == 0 {
		w.landed, w.progressed = landed, now
	}
	stalled := now.Sub(w.progressed)
	w.status.stalled(stalled)
	if stalled < stallPatience || !w.silentSince.IsZero() || now.Sub(w.stallLookedAt) < stallPatience {
		return
	}
	w.stallLookedAt = now
	look, cancel := context.WithTimeout(ctx, pingPatience)
	defer cancel()
	missing, err := w.pub.MissingTopics(look)
	switch {
	case ctx.Err() != nil:
	case len(missing) > 0:
		w.fail(fmt.Errorf("topic %s: %w", missing[0], errTopicGone))
	default:
		w.Log.Warn().Err(err).Dur("stalled", stalled).Int64("inflight", w.flying.events.Load()).
			Msg("brokers answer and nothing is acknowledged: a partition may have no leader, or too few replicas in sync (kafka-topics --describe --unavailable-partitions, --under-min-isr-partitions)")
	}
}

var errTopicGone = errors.New("was deleted while events were under way to it")
