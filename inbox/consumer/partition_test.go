package consumer

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"
)

// TestOnlyWhatIsWhollyHandledMayBeCommitted holds a partition against the naive rule, whatever the order in which its
// records are handled, and with gaps between their offsets, as compaction and transactions leave them.
func TestOnlyWhatIsWhollyHandledMayBeCommitted(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := newPartition(t.Context(), place{"orders", 0})
		defer p.cancel()
		var all, open []*item
		offset, popped := int64(0), 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(open) == 0 || rapid.Bool().Draw(t, "take") {
				offset += rapid.Int64Range(1, 3).Draw(t, "gap")
				it := p.add(&kgo.Record{Offset: offset, LeaderEpoch: 3})
				all, open = append(all, it), append(open, it)
			} else {
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				popped += p.done(open[i])
				open = append(open[:i:i], open[i+1:]...)
			}
			var want kgo.EpochOffset
			handled := 0
			for _, it := range all {
				if !it.handled {
					break
				}
				want, handled = it.next, handled+1
			}
			if p.safe != want || popped != handled || len(p.items) != len(all)-handled {
				t.Fatalf("%v may be committed, want %v; %d counted, want %d; %d are held, want %d", p.safe, want, popped, handled, len(p.items), len(all)-handled)
			}
		}
	})
}
