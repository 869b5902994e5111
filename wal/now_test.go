package wal

import (
	"testing"

	"github.com/jackc/pglogrepl"
)

func TestWithoutPageHeader(t *testing.T) {
	const block, segment = 8192, 16 << 20
	for at, want := range map[pglogrepl.LSN]pglogrepl.LSN{
		segment + 40:           segment,              // a segment's first page, empty
		segment + 24:           segment + 24,         // inside its header: never seen
		segment + block + 24:   segment + block,      // a page, empty
		segment + block + 40:   segment + block + 40, // a page with 16 bytes of a record
		segment + 3*block + 24: segment + 3*block,
		segment + 5000:         segment + 5000,
		segment + 2*block:      segment + 2*block,
	} {
		if got := withoutPageHeader(at, block, segment); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
}
