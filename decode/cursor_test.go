package decode

import (
	"errors"
	"testing"
)

func TestACursorReadsZeroAfterItsFirstFailure(t *testing.T) {
	t.Parallel()
	whole := func() *cursor { return &cursor{msg: []byte("text\x00\x01\x02\x03\x04\x05\x06\x07\x08")} }
	failures := map[string]func(c *cursor){
		"a fault":            func(c *cursor) { c.fail("%w", errors.ErrUnsupported) },
		"too many bytes":     func(c *cursor) { c.bytes(14) },
		"far too many bytes": func(c *cursor) { c.bytes(1<<32 - 1) },
		"no end of a text":   func(c *cursor) { c.text(); c.text() },
		"an early end":       func(c *cursor) { _ = c.end() },
	}
	for name, fail := range failures {
		c := whole()
		fail(c)
		first := c.err
		if first == nil {
			t.Fatalf("%s is no failure", name)
		}
		if c.uint8() != 0 || c.uint16() != 0 || c.uint32() != 0 || c.uint64() != 0 || c.text() != nil || c.bytes(1) != nil {
			t.Errorf("after %s there is still something to read", name)
		}
		if got := c.end(); !errors.Is(got, first) {
			t.Errorf("after %s the error is %v, not the first, %v", name, got, first)
		}
	}
	c := whole()
	if string(c.text()) != "text" || c.uint8() != 1 || c.uint16() != 0x0203 || c.uint32() != 0x04050607 || c.bytes(0) == nil ||
		c.uint8() != 8 || c.bytes(0) == nil || c.end() != nil {
		t.Errorf("a whole message: %v", c.err)
	}
}
