package demo

import (
	"strings"
	"testing"
)

func TestScreenDrawsOverItsLastFrame(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	s := &screen{out: &out, terminal: &Terminal{Size: func() (int, int) { return 5, 3 }}}
	s.progress("wait…")
	s.draw([]string{"1234567", "\x1b[1mab\x1b[0mcdefg", "does not fit"})
	s.say("stays")
	s.draw([]string{"new"})
	const want = "\rwait…\x1b[K\n\x1b[J" +
		"\x1b[1A\r12345\x1b[K\n\r\x1b[1mab\x1b[0mcde\x1b[K\n\x1b[J" +
		"stays\n" +
		"\rnew\x1b[K\n\x1b[J"
	if out.String() != want {
		t.Errorf("wrote %q,\nwant  %q", out.String(), want)
	}
}
