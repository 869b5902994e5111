package publish

import (
	"strconv"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestKeysStayUntilPartitionsAreAdopted: records of one key must never be under way to two partitions at once.
func TestKeysStayUntilPartitionsAreAdopted(t *testing.T) {
	t.Parallel()
	p := newPartitioner()
	topic := p.ForTopic("t")
	where := func(n int) (partitions [100]int) {
		for i := range partitions {
			partitions[i] = topic.Partition(&kgo.Record{Key: []byte(strconv.Itoa(i))}, n)
		}
		return partitions
	}
	before := where(3)
	if got := where(12); got != before || !p.moved.Load() {
		t.Errorf("with partitions added: moved %v, some key is elsewhere: %v", p.moved.Load(), got != before)
	}
	all := p.adopt()
	if len(all) != 1 || all[0] != (moved{"t", 3, 12}) || p.moved.Load() {
		t.Errorf("adopted %v", all)
	}
	fresh := newPartitioner().ForTopic("t")
	for i, got := range where(12) {
		if want := fresh.Partition(&kgo.Record{Key: []byte(strconv.Itoa(i))}, 12); got != want {
			t.Errorf("key %d goes to partition %d, and a client that starts now chooses %d", i, got, want)
		}
	}
	for i, got := range where(2) { // created again with fewer
		if got >= 2 {
			t.Errorf("key %d goes to partition %d of 2", i, got)
		}
	}
}
