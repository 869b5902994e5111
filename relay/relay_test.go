package relay_test

import (
	"testing"
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
