package wal

import (
	"maps"
	"testing"
)

func TestParseHistory(t *testing.T) {
	t.Parallel()
	const text = "# a remark\n\n1\t0/3000148\tno recovery target specified\n\n2\t1/A0B0C0D0\tbefore 2026-11-22 10:00:00+00\n"
	h, err := parseHistory([]byte(text))
	if want := (History{1: 0x3000148, 2: 0x1a0b0c0d0}); err != nil || !maps.Equal(h, want) {
		t.Errorf("%v, %v, want %v", h, err, want)
	}
	for _, text := range []string{"1", "x\t0/1\t", "1\tx", "1\t0", "99999999999\t0/1\t"} {
		if h, err := parseHistory([]byte(text)); err == nil {
			t.Errorf("%q: %v, want an error", text, h)
		}
	}
}
