package consumer

import (
	"context"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// place is a partition of a topic.
type place struct {
	topic     string
	partition int32
}

// item is a record that was taken and may not be committed yet. Guarded by Consumer.mu, but for what never changes.
type item struct {
	partition *partition
	record    *kgo.Record // nil when it is handled, so that its memory is free
	bytes     int
	next      kgo.EpochOffset // what is committed when it and all before it are handled
	handled   bool
}

// partition is one term of owning a partition: what was taken, in order, and what may be committed.
// Guarded by Consumer.mu, but for ctx and stop.
type partition struct {
	place
	items []*item // the first is not handled

	safe      kgo.EpochOffset // all before it is handled
	committed kgo.EpochOffset

	ctx    context.Context // of the attempts; cancelled when there is no more time for them
	cancel context.CancelFunc
	stop   chan struct{} // closed: no new attempt

	stopped  bool
	attempts sync.WaitGroup // under way, or successful and not accounted for; added to while it is not stopped
}

func newPartition(ctx context.Context, at place) *partition {
	p := &partition{place: at, stop: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(ctx)
	return p
}

// halt lets no attempt begin any more.
func (p *partition) halt() {
	if !p.stopped {
		p.stopped = true
		close(p.stop)
	}
}

// add takes a record, the next of its partition.
func (p *partition) add(r *kgo.Record) *item {
	it := &item{partition: p, record: r, bytes: size(r), next: kgo.EpochOffset{Epoch: r.LeaderEpoch, Offset: r.Offset + 1}}
	p.items = append(p.items, it)
	return it
}

// done marks the item as handled and moves what may be committed up to the first that is not. It returns how many
// records it has moved over.
func (p *partition) done(it *item) int {
	it.handled, it.record = true, nil
	n := 0
	for n < len(p.items) && p.items[n].handled {
		p.safe = p.items[n].next
		p.items[n] = nil
		n++
	}
	p.items = p.items[n:]
	return n
}
