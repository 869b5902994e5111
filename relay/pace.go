package relay

import (
	"math"
	"time"
)

// pace chooses how long events gather before they leave together. It follows the rate: a lone event leaves at once, and
// the more there are, the longer a burst may grow, because a request costs as much as some tens of events.
//
// It delays and never reorders or withholds: a burst leaves when it is full or its time has come, whichever is first, in
// the order of the log, and that time is at most maxInterval after the burst before.
type pace struct {
	last time.Time // when the last burst left
	rate float64   // events a second, as of then; what is older counts less and less
}

const (
	// rateMemory is how quickly the rate is forgotten.
	rateMemory = 10 * time.Millisecond
	// gatherPerRate is how long events gather for each event a second: a millisecond at 4,000.
	gatherPerRate = float64(250 * time.Nanosecond)
	maxInterval   = 5 * time.Millisecond
	// busyRate is from when on a row costs less when it waits in the socket until others are there, too.
	busyRate = 20_000
)

// left notes that a burst of n events has left, or, with none, that its time has come.
func (p *pace) left(now time.Time, n int) {
	if since := now.Sub(p.last); since > 0 {
		p.rate *= math.Exp(-float64(since) / float64(rateMemory))
	}
	p.last = now
	p.rate += float64(n) / rateMemory.Seconds()
}

// due is when the next burst has to leave.
func (p *pace) due() time.Time {
	return p.last.Add(min(time.Duration(p.rate*gatherPerRate), maxInterval))
}

// busy reports whether events come so quickly that none is worth being woken for.
func (p *pace) busy() bool { return p.rate >= busyRate }
