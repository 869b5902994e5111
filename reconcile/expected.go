package reconcile

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
)

// mark is a hash of what a row and its record have in common: the topic and the id. Two of n pairs share one by chance with
// a probability of n²/2^129: for a row that is missing to be taken for one of a billion records, 3 in 10^30.
type mark [16]byte

// marker makes marks. One goroutine uses it.
type marker struct{ scratch []byte }

func (m *marker) of(topic, id string) mark {
	m.scratch = binary.BigEndian.AppendUint32(m.scratch[:0], uint32(len(topic))) //nolint:gosec // a topic has 249 bytes
	m.scratch = append(append(m.scratch, topic...), id...)
	sum := sha256.Sum256(m.scratch)
	return mark(sum[:16])
}

func (m *mark) high() uint64 { return binary.BigEndian.Uint64(m[:8]) }

// expected holds the marks of rows, as many as there is room for: those from one value on. What has no room is for another
// pass. 20 bytes a row.
type expected struct {
	from, last uint64 // of mark.high, both included
	room       int
	entries    []entry
	doubles    int64 // rows that share topic and id with another
}

type entry struct {
	mark mark
	row  uint32
}

func newExpected(from, last uint64, room int) *expected {
	return &expected{from: from, last: last, room: room}
}

// add enters a row, unless it is not of this range. If there is no more room, the range is halved.
func (e *expected) add(m mark, row uint32) {
	if high := m.high(); high < e.from || high > e.last {
		return
	}
	e.entries = append(e.entries, entry{m, row})
	for len(e.entries) > e.room && e.last-e.from > math.MaxUint32 {
		e.last = e.from + (e.last-e.from)/2
		e.entries = slices.DeleteFunc(e.entries, func(x entry) bool { return x.mark.high() > e.last })
	}
}

// seal ends the adding, and calls shared for each row that has its mark in common with another.
func (e *expected) seal(shared func(row uint32)) {
	slices.SortFunc(e.entries, func(a, b entry) int { return bytes.Compare(a.mark[:], b.mark[:]) })
	for i := 1; i < len(e.entries); i++ {
		if e.entries[i].mark == e.entries[i-1].mark {
			e.doubles++
			shared(e.entries[i-1].row)
			shared(e.entries[i].row)
		}
	}
}

// each calls f for every row with the mark.
func (e *expected) each(m mark, f func(row uint32)) {
	high := m.high()
	if high < e.from || high > e.last {
		return
	}
	low, end := 0, len(e.entries)
	for low < end {
		middle := int(uint(low+end) >> 1)
		if bytes.Compare(e.entries[middle].mark[:], m[:]) < 0 {
			low = middle + 1
		} else {
			end = middle
		}
	}
	for ; low < len(e.entries) && e.entries[low].mark == m; low++ {
		f(e.entries[low].row)
	}
}
