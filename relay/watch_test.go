package relay

import "testing"

// TestNothingStallsBeforeItCould has an event under way when the first look is taken: it has been so for no time.
func TestNothingStallsBeforeItCould(t *testing.T) {
	p := &path{Relay: New(Options{}), flying: newFlying(1)}
	p.flying.handOut(1)
	newWatcher(p).progress(t.Context()) // what has stalled is looked into, and there is no publisher to ask
	if s := p.Status(); s.OldestUnacked > 1 {
		t.Errorf("%+v", s)
	}
}
