package reconcile

import (
	"fmt"
	"math"
	"testing"
)

// TestExpectedFindsEveryRowInSomePass: whatever the room, the passes cover all rows, each once, and never find what is not
// there.
func TestExpectedFindsEveryRowInSomePass(t *testing.T) {
	const rows = 5000
	var m marker
	ids := make([]mark, rows)
	for i := range ids {
		ids[i] = m.of("topic", fmt.Sprint(i))
	}
	for _, room := range []int{50, 1000, 2500, rows - 1, rows, 10 * rows} {
		found := make([]int, rows)
		passes := 0
		for from := uint64(0); ; passes++ {
			e := newExpected(from, math.MaxUint64, room)
			for i := range ids {
				e.add(ids[i], uint32(i))
			}
			e.seal(func(uint32) {})
			if len(e.entries) > room || e.doubles != 0 {
				t.Fatalf("%d rows where there is room for %d, %d doubles", len(e.entries), room, e.doubles)
			}
			for i := range ids {
				e.each(ids[i], func(row uint32) {
					if row != uint32(i) {
						t.Fatalf("row %d is found for row %d", row, i)
					}
					found[row]++
				})
				e.each(m.of("topic ", fmt.Sprint(i)), func(uint32) { t.Fatal("a row of another topic is found") })
			}
			if e.last == math.MaxUint64 {
				break
			}
			from = e.last + 1
		}
		for i, n := range found {
			if n != 1 {
				t.Fatalf("room for %d: row %d is found in %d passes of %d", room, i, n, passes+1)
			}
		}
	}
}

func TestExpectedCountsWhatSharesAnID(t *testing.T) {
	var m marker
	e := newExpected(0, math.MaxUint64, 3)
	for row := range uint32(3) {
		e.add(m.of("t", "same"), row)
	}
	e.seal(func(uint32) {})
	n := 0
	e.each(m.of("t", "same"), func(uint32) { n++ })
	if n != 3 || e.doubles != 2 {
		t.Errorf("%d rows are found, %d share an id", n, e.doubles)
	}
	if m.of("ab", "c") == m.of("a", "bc") {
		t.Error("topic and id run into each other")
	}
}
