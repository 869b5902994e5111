package park

import (
	"reflect"
	"testing"
	"unicode/utf8"

	"github.com/tidemark/tidemark/decode"
)

// FuzzRow: whatever an event is made of, it fits into the columns and comes back as it was; and no text in them makes
// reading panic, or is read as more than it is.
func FuzzRow(f *testing.F) {
	for _, s := range []string{"", "a", `\x`, `\x6`, `\x61`, `\xgg`, "ä", "a\x00b", "\xff", `[]`, `[{"key":"a","value":"Yg=="}]`, `[{"key":"\\x61","value":null}]`} {
		f.Add(s, []byte(s), true)
	}
	f.Fuzz(func(t *testing.T, text string, value []byte, ascii bool) {
		s := &Store{ascii: ascii}
		stored := s.text(text)
		for _, r := range stored {
			if r == 0 || r == utf8.RuneError && !utf8.ValidString(stored) || ascii && r >= utf8.RuneSelf {
				t.Fatalf("%q is stored as %q, which the database cannot hold", text, stored)
			}
		}
		if got := plain(stored); got != text {
			t.Fatalf("%q is stored as %q and read as %q", text, stored, got)
		}
		want := []decode.Header{{Key: text, Value: value}, {Key: "null"}}
		encoded, err := s.headersText(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseHeaders(encoded)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("headers %q are stored as %s and read as %q, %v", want, encoded, got, err)
		}
		size := 0
		edited, err := parseHeaders(value) // a table that somebody has edited
		for _, h := range edited {
			size += len(h.Key) + len(h.Value)
		}
		if err == nil && size > 3*len(value) {
			t.Fatalf("%d bytes of headers in %q", size, value)
		}
		_ = plain(text)
		if short := shortened(text); len(short) > maxReason+len("…") {
			t.Fatalf("a reason of %d bytes", len(short))
		}
	})
}
