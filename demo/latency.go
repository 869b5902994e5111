package demo

import (
	"math"
	"time"
)

// latency collects durations: all of them, and those of the last seconds apart.
type latency struct {
	all    histogram
	window [windowSeconds]struct {
		second int64
		histogram
	}
}

const windowSeconds = 5

type percentiles struct {
	p50, p99, most time.Duration
}

func (l *latency) add(d time.Duration, at time.Time) {
	l.all.add(d)
	second := at.Unix()
	w := &l.window[second%windowSeconds]
	if w.second != second {
		w.second, w.histogram = second, histogram{}
	}
	w.add(d)
}

func (l *latency) recent(now time.Time) percentiles {
	var sum histogram
	for i := range l.window {
		if w := &l.window[i]; now.Unix()-w.second < windowSeconds {
			sum.merge(&w.histogram)
		}
	}
	return sum.percentiles()
}

// histogram counts durations in buckets, each two percent wider than the one before.
type histogram struct {
	buckets [1000]uint32 // from a microsecond to some minutes
	n       int
	most    time.Duration
}

const growth = 1.02

func (h *histogram) add(d time.Duration) {
	micros := max(float64(d)/float64(time.Microsecond), 1)
	bucket := min(int(math.Log(micros)/math.Log(growth)), len(h.buckets)-1)
	h.buckets[bucket]++
	h.n++
	h.most = max(h.most, d)
}

func (h *histogram) merge(other *histogram) {
	for i, n := range other.buckets {
		h.buckets[i] += n
	}
	h.n += other.n
	h.most = max(h.most, other.most)
}

func (h *histogram) percentiles() percentiles {
	return percentiles{h.quantile(0.50), h.quantile(0.99), h.most}
}

// quantile returns the upper bound of the bucket in which the quantile lies; 0 if there is nothing.
func (h *histogram) quantile(q float64) time.Duration {
	rank, seen := int(math.Ceil(q*float64(h.n))), 0
	for i, n := range h.buckets {
		seen += int(n)
		if seen >= rank && n > 0 {
			upper := time.Duration(math.Pow(growth, float64(i+1)) * float64(time.Microsecond))
			return min(upper, h.most)
		}
	}
	return 0
}
