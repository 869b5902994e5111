package relay

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/wal"
)

// storeTimeout bounds one attempt to store the checkpoint.
const storeTimeout = 10 * time.Second

// storing keeps the stored checkpoint of one term. Only what its store has taken durably is confirmable.
type storing struct {
	store  Store
	writer string // names this term in the checkpoint
	atomic bool   // the store commits the checkpoint and the events before it together

	mu     sync.Mutex // held while the store works
	stored checkpoint.Checkpoint
	saved  time.Time
	cuts   []cut // oldest first

	lsn   atomic.Uint64 // stored.LSN; the reading goroutine may not wait for a disk
	count atomic.Uint64 // how many transactions of this term are before it
}

// cut says that events which commit later than behind lie at or beyond offsets, in the partitions in which offsets are other
// than those of the cut before.
type cut struct {
	behind  pglogrepl.LSN
	offsets checkpoint.Offsets
}

// maxCuts is how many are kept. They are many when a transaction is not safe for long while later ones are.
const maxCuts = 8

func newStoring(store Store, stored checkpoint.Checkpoint, writer string) *storing {
	s := &storing{store: store, stored: stored, writer: writer}
	s.lsn.Store(uint64(stored.LSN))
	return s
}

// inTransactions makes what is published visible only by what is saved here.
func (s *storing) inTransactions(store Store) { s.store, s.atomic = store, true }

// confirmable returns the LSN that is stored, which is what may be told to Postgres.
func (s *storing) confirmable() pglogrepl.LSN { return pglogrepl.LSN(s.lsn.Load()) }

func (s *storing) current() checkpoint.Checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stored
}

// change stores what edit makes of the stored checkpoint. The maps in it are shared: edit replaces them.
func (s *storing) change(ctx context.Context, edit func(*checkpoint.Checkpoint)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.stored
	edit(&next)
	next.WrittenAt = time.Now().UTC()
	if !s.atomic { // else that waits for acknowledgements, for as long as they take
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, storeTimeout)
		defer cancel()
	}
	if err := s.store.Save(ctx, &next, s.stored.Writer); err != nil {
		return err
	}
	s.stored, s.saved = next, time.Now()
	s.lsn.Store(uint64(next.LSN))
	return nil
}

// claim makes this term the checkpoint's holder, if the one that was read still is, and notes under which id it
// produces. It must be stored before the first event leaves: a successor fences the producers that it finds here. A
// transactional one is known by its transactional id, under which it has many producer ids.
//
// What was published until now, up to the offsets of ends, was published before the server came to its timeline, if the
// checkpoint has forks that are not noted yet: they are, from here on.
func (s *storing) claim(ctx context.Context, producer int64, transactionalID string, timeline int32, ends checkpoint.Offsets) error {
	return s.change(ctx, func(c *checkpoint.Checkpoint) {
		c.Writer = s.writer
		c.Producers, c.TransactionalID = []int64{producer}, ""
		if transactionalID != "" {
			c.Producers, c.TransactionalID = nil, transactionalID
		}
		c.Timeline = timeline
		c.Forks = slices.Clone(c.Forks)
		for i := range c.Forks {
			if c.Forks[i].Offsets == nil {
				c.Forks[i].Offsets = ends
			}
		}
		c.Settle()
	})
}

// cover stores from which offset on events may lie in topics that had none so far. It must be stored before the first
// event goes there: a successor looks for what we left behind in these topics and nowhere else. Where event and checkpoint
// become visible together, the next commit is in time.
func (s *storing) cover(ctx context.Context, topics map[string]topicBase) error {
	current := s.current()
	maps.DeleteFunc(topics, func(name string, base topicBase) bool {
		_, covered := current.Offsets[name]
		return covered && current.TopicIDs[name] == base.id
	})
	if len(topics) == 0 {
		return nil
	}
	edit := func(c *checkpoint.Checkpoint) {
		c.Offsets, c.TopicIDs = maps.Clone(c.Offsets), maps.Clone(c.TopicIDs)
		if c.Offsets == nil {
			c.Offsets = checkpoint.Offsets{}
		}
		if c.TopicIDs == nil {
			c.TopicIDs = map[string]string{}
		}
		for name, base := range topics {
			c.Offsets[name], c.TopicIDs[name] = base.ends, base.id
		}
		c.Forks = slices.Clone(c.Forks)
		for i := range c.Forks { // of a topic of the same name that is no more, if of any
			c.Forks[i].Offsets = maps.Clone(c.Forks[i].Offsets)
			maps.DeleteFunc(c.Forks[i].Offsets, func(name string, _ map[int32]int64) bool { _, isNew := topics[name]; return isNew })
		}
	}
	if s.atomic {
		s.mu.Lock()
		defer s.mu.Unlock()
		edit(&s.stored)
		return nil
	}
	return s.change(ctx, edit)
}

type topicBase struct {
	id   string
	ends map[int32]int64
}

// cutAt notes a cut. Of two cuts behind the same commit, the later one is the better.
func (s *storing) cutAt(behind pglogrepl.LSN, offsets checkpoint.Offsets) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.cuts); n > 0 && s.cuts[n-1].behind == behind {
		s.cuts[n-1].offsets = overlay(s.cuts[n-1].offsets, offsets)
		return
	}
	s.cuts = append(s.cuts, cut{behind, offsets})
	if len(s.cuts) <= maxCuts {
		return
	}
	// Half of them serve as well: each second one takes in the one before it.
	kept := s.cuts[:0]
	for i := 0; i+1 < len(s.cuts); i += 2 {
		kept = append(kept, cut{s.cuts[i+1].behind, overlay(s.cuts[i].offsets, s.cuts[i+1].offsets)})
	}
	if len(s.cuts)%2 == 1 {
		kept = append(kept, s.cuts[len(s.cuts)-1])
	}
	clear(s.cuts[len(kept):])
	s.cuts = kept
}

// idleEvery is how often a checkpoint is stored that has nothing new but the end of the log. A store in the source's own
// cluster writes to that log itself, which would call for the next checkpoint, and so on.
const idleEvery = time.Second

// canWait reports whether mark has no event that is not stored, and something was stored just now.
func (s *storing) canWait(mark checkpoint.Mark) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.saved) < idleEvery && (mark.Events == 0 || positionOf(mark) == s.stored.Position)
}

// positionOf returns the text of the position of a mark's last event.
func positionOf(mark checkpoint.Mark) string {
	return decode.Position{Commit: mark.Commit, Index: mark.Events - 1}.String()
}

// advance stores mark, which was read from this timeline or an earlier one, with the offsets of the latest cut that it has
// passed.
func (s *storing) advance(ctx context.Context, mark checkpoint.Mark, timeline int32) error {
	if current := s.current(); !moves(&current, mark, timeline) {
		return nil
	}
	return s.commit(ctx, mark, timeline)
}

// commit is advance for a store that has something to save also when mark says nothing new.
func (s *storing) commit(ctx context.Context, mark checkpoint.Mark, timeline int32) error {
	err := s.change(ctx, func(c *checkpoint.Checkpoint) {
		if !moves(c, mark, timeline) {
			return
		}
		c.LSN = max(c.LSN, checkpoint.LSN(mark.End))
		c.Timeline = timeline
		if mark.Events > 0 {
			c.Position = positionOf(mark)
		}
		for _, cut := range s.cuts {
			if cut.behind < mark.End {
				c.Offsets = overlay(c.Offsets, cut.offsets)
			}
		}
		c.Settle()
	})
	if err != nil {
		return err
	}
	s.count.Store(mark.Count)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cuts = slices.DeleteFunc(s.cuts, func(c cut) bool { return c.behind < mark.End })
	return nil
}

// moves reports whether mark is news to a checkpoint.
func moves(c *checkpoint.Checkpoint, mark checkpoint.Mark, timeline int32) bool {
	return (mark.End > pglogrepl.LSN(c.LSN) || timeline != c.Timeline) && c.State == checkpoint.Streaming
}

// beforeStream reports whether the rows that were there before the slot are still being published.
func (s *storing) beforeStream() bool {
	current := s.current()
	return current.State != checkpoint.Streaming
}

// overlay returns old with what is newer put over it.
func overlay(old, newer checkpoint.Offsets) checkpoint.Offsets {
	out := maps.Clone(old)
	if out == nil {
		out = checkpoint.Offsets{}
	}
	for topic, partitions := range newer {
		merged := maps.Clone(out[topic])
		if merged == nil {
			merged = make(map[int32]int64, len(partitions))
		}
		maps.Copy(merged, partitions)
		out[topic] = merged
	}
	return out
}

// save stores what is safe by now; unless all of it, it may leave out what can wait.
func (p *path) save(ctx context.Context, all bool) error {
	// The order matters: what is handed over after the last line lands behind the ends that the one before has seen.
	if landed := p.flying.landed.Load(); landed != p.cutLanded {
		p.cutLanded = landed
		ends := checkpoint.Offsets(p.pub.Ends())
		p.store.cutAt(pglogrepl.LSN(p.handedCommit.Load()), ends)
	}
	mark := p.tracker.Safe()
	timeline, err := p.timeline(ctx) // asked after that, and so holds for all of it
	if err != nil {
		return err
	}
	if !all && p.store.canWait(mark) && timeline == p.store.current().Timeline {
		return nil
	}
	if err := p.store.advance(ctx, mark, timeline); err != nil {
		return err
	}
	p.status.stored(p.store.current())
	p.flying.wake()
	return nil
}

// timeline returns the one that what was read until now is from. Only a standby's changes while it is read from: when it is
// promoted, or follows one that was.
func (p *path) timeline(ctx context.Context) (int32, error) {
	current := p.store.current().Timeline
	lookout := p.lookout.Load()
	if lookout == nil {
		return current, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	timeline, err := lookout.Timeline(ctx)
	if err == nil && timeline != current {
		p.Log.Info().Int32("from", current).Int32("timeline", timeline).Msg("the server that is read from has come to another timeline, and so has the checkpoint")
	}
	return timeline, err
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
		err := p.save(ctx, p.Once)
		// Taken over, what we know of the stream is of no use any more. And a server that shuts down and has our checkpoint
		// would wait for ever for what it does not let us store.
		if checkpoint.IsTakenOver(err) || wal.IsGoingDown(err) {
			p.fail(err)
			return
		}
		if err != nil {
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
