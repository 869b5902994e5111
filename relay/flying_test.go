package relay

import "testing"

// TestSlabCountsUntilItsLastEventIsBack: events lie side by side, and one that stays keeps the memory of all.
func TestSlabCountsUntilItsLastEventIsBack(t *testing.T) {
	t.Parallel()
	f := newFlying(100)
	a, b := &slab{}, &slab{}
	for range 3 {
		f.add(10, a)
		f.add(20, b)
	}
	f.add(15, nil)
	must := func(what string, bytes, events int64) {
		t.Helper()
		if f.bytes.Load() != bytes || f.events.Load() != events {
			t.Errorf("%s: %d bytes of %d events, want %d of %d", what, f.bytes.Load(), f.events.Load(), bytes, events)
		}
	}
	must("all are out", 105, 7)
	f.remove(10, a)
	f.remove(20, b)
	f.remove(20, b)
	must("one is left of b", 105, 4)
	if !f.full() || len(f.room) > 0 {
		t.Error("there is room")
	}
	f.remove(20, b)
	must("b is back", 45, 3)
	if f.full() || len(f.room) == 0 {
		t.Error("nobody is told that there is room")
	}
	f.remove(15, nil)
	must("a lone one is back", 30, 2)
	f.remove(10, a)
	f.add(40, a) // a goes on being filled
	f.remove(10, a)
	f.remove(40, a)
	must("a is back", 0, 0)
}
