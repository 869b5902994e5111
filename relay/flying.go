package relay

import (
	"context"
	"sync/atomic"
	"time"
)

// flying counts what was read and is not acknowledged. The reading goroutine adds and waits, the producer's removes.
type flying struct {
	limit  int64
	bytes  atomic.Int64 // of memory, slabs that are kept alive by a part of their events included
	events atomic.Int64
	out    atomic.Int64  // of them, those that the producer has
	landed atomic.Int64  // how many have come back from it so far
	room   chan struct{} // capacity 1: something was removed while the limit was reached
}

func newFlying(limit int64) *flying { return &flying{limit: limit, room: make(chan struct{}, 1)} }

// slab is memory that events share: it is free when the last of them has come back. With one topic of ten that cannot be
// published to, every slab is kept, for a tenth of its events.
type slab struct {
	out  atomic.Int64 // its events that have not come back
	back atomic.Int64 // bytes of those that have, as long as it is kept
}

// add counts an event. s is the slab in which it lies, nil for one that has memory of its own.
func (f *flying) add(bytes int, s *slab) {
	if s != nil {
		s.out.Add(1)
	}
	f.bytes.Add(int64(bytes))
	f.events.Add(1)
}

func (f *flying) remove(bytes int, s *slab) {
	f.events.Add(-1)
	freed := int64(bytes)
	if s != nil {
		s.back.Add(freed)
		if s.out.Add(-1) > 0 {
			return
		}
		freed = s.back.Swap(0)
	}
	if f.bytes.Add(-freed)+freed >= f.limit {
		f.wake()
	}
}

// wake lets who waits for room look again.
func (f *flying) wake() {
	select {
	case f.room <- struct{}{}:
	default:
	}
}

// full reports whether no more should be read. One event larger than the limit is let in when nothing else is there.
func (f *flying) full() bool { return f.bytes.Load() >= f.limit }

// handOut counts events that go to the producer, comeBack one that it is done with.
func (f *flying) handOut(n int) { f.out.Add(int64(n)) }

func (f *flying) comeBack(bytes int, s *slab) {
	f.remove(bytes, s)
	f.landed.Add(1)
	f.out.Add(-1) // last: whoever waits for none finds everything done
}

// awaitNone returns when the producer has nothing any more, or with ctx.
func (f *flying) awaitNone(ctx context.Context) {
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for f.out.Load() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
