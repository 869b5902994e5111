package relay_test

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/tidemark/tidemark/checkpoint"
)

func TestCommittedRowsArriveOnceInOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.insert(10) // there before the slot
	r := b.start()
	b.records("outbox.event.order", 10)
	for range 5 {
		b.insert(100)
		b.exec("begin")
		b.insert(3)
		b.exec("rollback")
	}
	records := b.records("outbox.event.order", 510)
	mustArriveInOrder(t, records)
	r.stop()

	b.insert(50)
	r = b.start()
	mustArriveInOrder(t, b.records("outbox.event.order", 560))
	r.stop()
}

// amnesia is a store that takes no later LSN once it is told so: it stays as a crash soon after would have left it.
type amnesia struct {
	*checkpoint.File
	on   atomic.Bool
	last atomic.Uint64 // the LSN that was stored last
}

func (a *amnesia) Save(ctx context.Context, c *checkpoint.Checkpoint, holder string) error {
	if a.on.Load() && uint64(c.LSN) != a.last.Load() {
		return errors.New("nothing is stored any more")
	}
	a.last.Store(uint64(c.LSN))
	return a.File.Save(ctx, c, holder)
}

func TestResumePublishesNothingTwice(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.insert(1)
	forgetful := &amnesia{File: b.store}
	b.options.Store = forgetful
	b.options.ResumeDedupe = true
	want := 1
	for round := range 4 {
		forgetful.on.Store(false)
		r := b.start()
		b.insert(10)
		want += 10
		b.records("outbox.event.order", want)
		topic := "outbox.event.round" + strconv.Itoa(round)
		b.exec(`insert into outbox (aggregatetype, aggregateid, type) values ($1, 'k', 'placed')`, "round"+strconv.Itoa(round))
		b.records(topic, 1)
		forgetful.on.Store(true) // from here on, it is as if the process were killed
		b.insert(100 * (round + 1))
		want += 100 * (round + 1)
		b.exec(`insert into outbox (aggregatetype, aggregateid, type) values ($1, 'k', 'placed')`, "round"+strconv.Itoa(round))
		b.records("outbox.event.order", want)
		b.records(topic, 2)
		// And a topic that is new since the last checkpoint.
		b.exec(`insert into outbox (aggregatetype, aggregateid, type) values ($1, 'k', 'placed')`, "fresh"+strconv.Itoa(round))
		b.records("outbox.event.fresh"+strconv.Itoa(round), 1)
		r.stop()
	}
	forgetful.on.Store(false)
	r := b.start()
	b.insert(5)
	mustArriveInOrder(t, b.records("outbox.event.order", want+5))
	for round := range 4 {
		mustArriveInOrder(t, b.records("outbox.event.round"+strconv.Itoa(round), 2))
		b.records("outbox.event.fresh"+strconv.Itoa(round), 1)
	}
	r.stop()
}
