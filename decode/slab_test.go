package decode

import (
	"fmt"
	"strings"
	"testing"
)

func TestAPlainRowAllocatesNothingOfItsOwn(t *testing.T) { //nolint:paralleltest // counts all allocations
	d := newDecoder(t, plainTable())
	feed(t, d, relationMessage(1, "public", "outbox", plainColumns()...), beginMessage(0x20, 7))
	msg := insertMessage(1, "id", "topic", "key", strings.Repeat("payload ", 30))
	var ev Event
	const rows = 10_000
	n := testing.AllocsPerRun(1, func() {
		for range rows {
			_, _ = d.Decode(msg, &ev)
		}
	})
	if n > rows/50 {
		t.Errorf("%v allocations for %d rows", n, rows)
	}
}

func TestNothingLargeIsKeptBetweenRows(t *testing.T) {
	t.Parallel()
	d := newDecoder(t, plainTable())
	large := strings.Repeat("x", 1<<20)
	feed(t, d, relationMessage(1, "public", "outbox", plainColumns()...), beginMessage(0x20, 7),
		insertMessage(1, "i", large, "k", large))
	for i, v := range d.row[:cap(d.row)] {
		if v.data != nil {
			t.Errorf("column %d still refers to the message", i)
		}
	}
	if n := cap(d.builder.scratch); n > maxScratch {
		t.Errorf("%d bytes of a topic's name are kept", n)
	}
}

func TestALargeValueDoesNotWasteAChunk(t *testing.T) {
	t.Parallel()
	var s byteSlab
	small := append(s.piece(3), "abc"...)
	left := len(s.free)
	large := s.piece(ownBytes + 1)
	if len(s.free) != left || cap(large) != ownBytes+1 || cap(small) != 3 {
		t.Errorf("%d bytes are left of %d; capacities %d, %d", len(s.free), left, cap(large), cap(small))
	}
	if (&byteSlab{}).piece(0) == nil || s.piece(0) == nil {
		t.Error("a piece of no bytes is nil, which would make a null of an empty text")
	}
}

func TestMoreHeadersThanAChunkHolds(t *testing.T) {
	t.Parallel()
	var s headerSlab
	var rows [][]Header
	for row := range 40 {
		h := s.open(4)
		count := row * row
		if row == 30 {
			count = len(s.free) // exactly what is left
		}
		for i := range count {
			h = append(h, Header{Key: fmt.Sprintf("%d-%d", row, i)})
		}
		rows = append(rows, s.close(h))
	}
	for row, headers := range rows {
		if len(headers) != row*row && row != 30 {
			t.Fatalf("row %d has %d headers", row, len(headers))
		}
		for i, h := range headers {
			if h.Key != fmt.Sprintf("%d-%d", row, i) {
				t.Fatalf("header %d of row %d is %q", i, row, h.Key)
			}
		}
	}
}
