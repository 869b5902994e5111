package relay

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/decode"
)

// storeTimeout bounds one attempt to store the checkpoint.
const storeTimeout = 10 * time.Second

// storing keeps the stored checkpoint of one term. Only what its store has taken durably is confirmable.
type storing struct {
	store  Store
	writer string // names this term in the checkpoint

	mu     sync.Mutex
	stored checkpoint.Checkpoint
}

func newStoring(store Store, stored checkpoint.Checkpoint, writer string) *storing {
	return &storing{store: store, stored: stored, writer: writer}
}

// confirmable returns the LSN that is stored, which is what may be told to Postgres.
func (s *storing) confirmable() pglogrepl.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return pglogrepl.LSN(s.stored.LSN)
}

// errTakenOver says that another process has moved the checkpoint since this one read it.
var errTakenOver = errors.New("another process has published from this slot meanwhile")

// claim writes this term's name into the checkpoint, if it is still the one that was read.
func (s *storing) claim(ctx context.Context) error {
	current, err := s.store.Load(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	stored := s.stored
	s.mu.Unlock()
	if current == nil || current.LSN != stored.LSN || current.Writer != stored.Writer {
		return errTakenOver
	}
	if stored.Writer == s.writer {
		return nil
	}
	stored.Writer = s.writer
	return s.replace(ctx, stored)
}

// advance stores mark.
func (s *storing) advance(ctx context.Context, mark checkpoint.Mark) error {
	s.mu.Lock()
	next := s.stored
	s.mu.Unlock()
	if mark.End <= pglogrepl.LSN(next.LSN) || next.State != checkpoint.Streaming {
		return nil
	}
	next.LSN = checkpoint.LSN(mark.End)
	if mark.Events > 0 {
		next.Position = decode.Position{Commit: mark.Commit, Index: mark.Events - 1}.String()
	}
	return s.replace(ctx, next)
}

func (s *storing) replace(ctx context.Context, next checkpoint.Checkpoint) error {
	next.WrittenAt = time.Now().UTC()
	if err := s.store.Save(ctx, &next); err != nil {
		return err
	}
	s.mu.Lock()
	s.stored = next
	s.mu.Unlock()
	return nil
}

// save stores what is safe by now.
func (p *path) save(ctx context.Context) error {
	if err := p.store.advance(ctx, p.tracker.Safe()); err != nil {
		return err
	}
	p.status.stored(p.store.confirmable())
	return nil
}

// keepCheckpoint stores what is safe, again and again, until ctx is done. While the store does not take it nothing is
// confirmed, and Postgres keeps the log.
func (p *path) keepCheckpoint(ctx context.Context) {
	trouble := newOutage(p.Log, "the checkpoint cannot be stored in "+p.Store.String()+": Postgres keeps its log until it can")
	ticker := time.NewTicker(p.CheckpointEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := p.save(ctx); err != nil {
			p.status.checkpointFailed(err)
			if trouble.wait(ctx, err) != nil {
				return
			}
			continue
		}
		p.status.checkpointFailed(nil)
		trouble.healed()
		if p.Once && p.store.confirmable() >= p.target {
			p.fail(errOnce)
			return
		}
	}
}

// watchKafka says when no broker answers, and again when one does, until ctx is done. The client itself retries for as
// long as it takes.
func (p *path) watchKafka(ctx context.Context) {
	const every, patience = time.Second, 5 * time.Second
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var since, said time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if p.flying.events.Load() == 0 || !since.IsZero() { // idle, or already in trouble: nobody else asks
			ping, cancel := context.WithTimeout(ctx, patience)
			err := p.pub.Ping(ping)
			cancel()
			if ctx.Err() != nil {
				return
			}
			_ = err // the publisher's own account of it follows
		}
		silent, err := p.pub.Silence(time.Now())
		p.status.kafka(silent > 0, err)
		now := time.Now()
		switch {
		case silent > 0 && since.IsZero():
			since = now.Add(-silent)
			fallthrough
		case silent > 0 && now.Sub(said) >= sayEvery:
			said = now
			p.Log.Warn().Err(err).Strs("brokers", p.Kafka.Brokers).Dur("silent", silent).Int64("inflight", p.flying.events.Load()).
				Msg("no Kafka broker answers: events wait (check kafka.brokers, and that the brokers are up)")
		case silent == 0 && !since.IsZero():
			p.Metrics.reconnected("kafka")
			p.Log.Info().Dur("lasted", now.Sub(since)).Msg("recovered: Kafka answers again")
			since, said = time.Time{}, time.Time{}
		}
	}
}
