package consumer

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"
)

// lane is the order in which something is handled: a key of a partition, or one record without a key.
type lane struct {
	place
	key     string
	keyless int64 // offset + 1 of a record without a key; 0 of a lane with a key
}

func laneOf(r *kgo.Record) lane {
	l := lane{place: place{r.Topic, r.Partition}, key: string(r.Key)}
	if r.Key == nil {
		l.keyless = r.Offset + 1
	}
	return l
}

// take hands a record to its lane. There is a goroutine for each lane that has something to do, so never more than
// there are records.
func (c *Consumer) take(r *kgo.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := place{r.Topic, r.Partition}
	p := c.partitions[at]
	if p == nil {
		p = newPartition(c.base, at)
		c.partitions[at] = p
	}
	it := p.add(r)
	c.records++
	c.bytes += it.bytes
	c.uncommitted++
	l := laneOf(r)
	if waiting, running := c.lanes[l]; running {
		c.lanes[l] = append(waiting, it)
		return
	}
	c.lanes[l] = nil
	c.running.Go(func() { c.runLane(l, it) }) // ends when its lane is empty, or its partitions are given away
}

// runLane handles the items of a lane one after the other. One that cannot be handled because its partition is given
// away is left, as are those behind it.
func (c *Consumer) runLane(l lane, it *item) {
	for it != nil {
		r := it.record
		ok := c.handle(it.partition, r)
		it = c.next(l, it, ok)
	}
}

// next accounts for an item, and returns the lane's next.
func (c *Consumer) next(l lane, it *item, handled bool) *item {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := it.partition; handled {
		if c.partitions[p.place] == p {
			c.uncommitted -= p.done(it)
		}
		p.attempts.Done() // of the attempt that has succeeded
	}
	c.release(it)
	waiting := c.lanes[l]
	if len(waiting) == 0 {
		delete(c.lanes, l)
		return nil
	}
	c.lanes[l] = waiting[1:]
	return waiting[0]
}

// release gives the room of an item back.
func (c *Consumer) release(it *item) {
	it.record = nil
	c.records--
	c.bytes -= it.bytes
	c.wake()
}

func (c *Consumer) wake() {
	select {
	case c.freed <- struct{}{}:
	default:
	}
}

// overdue is how many records may be handled and not committed, because one before them is not: for each that may be waiting.
const overdue = 10

// room waits until there is room, and returns for how many records: none when ctx has ended.
func (c *Consumer) room(ctx context.Context) int {
	for {
		c.mu.Lock()
		n := min(c.cfg.MaxRecords-c.records, overdue*c.cfg.MaxRecords-c.uncommitted)
		if c.bytes >= c.cfg.MaxBytes {
			n = 0
		}
		c.mu.Unlock()
		if n > 0 {
			return n
		}
		select {
		case <-c.freed:
		case <-ctx.Done():
			return 0
		}
	}
}
