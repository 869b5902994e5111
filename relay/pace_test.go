package relay

import (
	"testing"
	"time"

	"github.com/tidemark/tidemark/publish"
)

// feed has bursts of n events leave at their due times, beginning at now, until the end of d, and returns that.
func feed(p *pace, now time.Time, d time.Duration, perSecond float64) time.Time {
	waiting, end := 0.0, now.Add(d)
	for now.Before(end) {
		step := max(p.due().Sub(now), 100*time.Microsecond) // as often as the socket brings something
		now = now.Add(step)
		waiting += perSecond * step.Seconds()
		if n := int(waiting); n > 0 {
			p.left(now, n)
			waiting -= float64(n)
		}
	}
	return now
}

func TestPaceFollowsTheRate(t *testing.T) {
	for _, c := range []struct {
		perSecond float64
		from, to  time.Duration // how long a burst may gather
	}{
		{10, 0, 50 * time.Microsecond},
		{500, 0, 250 * time.Microsecond},
		{10_000, 1750 * time.Microsecond, 3500 * time.Microsecond},
		{100_000, maxInterval, maxInterval},
		{1_000_000, maxInterval, maxInterval},
	} {
		var p pace
		feed(&p, time.Unix(1, 0), time.Second, c.perSecond)
		if d := p.due().Sub(p.last); d < c.from || d > c.to {
			t.Errorf("at %.0f/s a burst gathers for %v, want %v to %v", c.perSecond, d, c.from, c.to)
		}
	}
}

func TestPaceForgetsABacklog(t *testing.T) {
	var p pace
	now := feed(&p, time.Unix(1, 0), time.Second, 130_000)
	if d := p.due().Sub(p.last); d != maxInterval {
		t.Fatalf("in a backlog a burst gathers for %v, want %v", d, maxInterval)
	}
	now = now.Add(100 * time.Millisecond)
	if !p.due().Before(now) {
		t.Error("the first event after a pause has to wait")
	}
	p.left(now, 1)
	if d := p.due().Sub(now); d > 50*time.Microsecond {
		t.Errorf("the second one would have to wait for %v", d)
	}
}

// TestABurstLeavesInTime: also where the clock is not looked at for each event, when nothing comes any more.
func TestABurstLeavesInTime(t *testing.T) {
	ago, now := time.Now().Add(-time.Hour), time.Now()
	for _, c := range []struct {
		name   string
		pace   pace
		events int
		amidst bool
		want   bool
	}{
		{"none", pace{last: ago}, 0, false, false},
		{"full", pace{last: now, rate: 1e6}, burstEvents, true, true},
		{"a lone one", pace{last: ago}, 1, true, true},
		{"one of few, too early", pace{last: now.Add(time.Hour), rate: busyRate - 1}, 1, true, false},
		{"one of few", pace{last: ago, rate: busyRate - 1}, 3, true, true},
		{"one of many", pace{last: ago, rate: busyRate}, 3, true, false},
		{"the sixteenth of many", pace{last: ago, rate: busyRate}, 16, true, true},
		{"the sixteenth of many, too early", pace{last: now.Add(time.Hour), rate: busyRate}, 16, true, false},
		{"the last of many", pace{last: ago, rate: busyRate}, 3, false, true},
	} {
		p := &path{pace: c.pace, burst: make([]publish.Delivery, c.events, burstEvents)}
		if got := p.burstIsDue(c.amidst); got != c.want {
			t.Errorf("%s: due is %t", c.name, got)
		}
	}
}
