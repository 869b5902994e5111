package decode

import (
	"cmp"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
	"pgregory.net/rapid"
)

// positions draws from small ranges as well, so that parts of two positions are equal often enough.
func positions() *rapid.Generator[Position] {
	return rapid.Custom(func(t *rapid.T) Position {
		return Position{
			Commit: pglogrepl.LSN(rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 300)).Draw(t, "commit")),
			Index:  rapid.OneOf(rapid.Uint32(), rapid.Uint32Range(0, 300)).Draw(t, "index"),
		}
	})
}

func TestPositionTextHasTheOrderOfThePositions(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, q := positions().Draw(t, "p"), positions().Draw(t, "q")
		if got, want := strings.Compare(p.String(), q.String()), p.Compare(q); got != want {
			t.Fatalf("%s and %s compare as texts to %d, as positions to %d", p, q, got, want)
		}
		want := cmp.Compare(p.Commit, q.Commit)
		if want == 0 {
			want = cmp.Compare(p.Index, q.Index)
		}
		if p.Compare(q) != want || q.Compare(p) != -want {
			t.Fatalf("%s and %s compare to %d and %d, want %d", p, q, p.Compare(q), q.Compare(p), want)
		}
	})
}

func TestPositionComesBackFromItsText(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := positions().Draw(t, "p")
		q, err := ParsePosition(p.String())
		if err != nil || p != q {
			t.Fatalf("%+v is written %s and read as %+v, %v", p, p, q, err)
		}
		if got := string(p.Append([]byte("x"))); got != "x"+p.String() {
			t.Fatalf("appended: %q", got)
		}
	})
	if got := (Position{Commit: 0x16B3748, Index: 10}).String(); got != "00000000016b3748-0000000a" {
		t.Errorf("the text is %s", got)
	}
}

func TestParsePositionRefuses(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "-", "00000000016b3748", "00000000016b3748-0000000", "00000000016b3748-0000000aa", "00000000016b3748_0000000a",
		"00000000016B3748-0000000a", "00000000016b3748-0000000A", "0000000001gb3748-0000000a", "00000000016b3748-0000000g",
		" 0000000016b3748-0000000a", "+0000000016b3748-0000000a", "0/16B3748",
	} {
		if p, err := ParsePosition(s); err == nil {
			t.Errorf("%q is read as %s", s, p)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	f.Add("00000000016b3748-0000000a")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParsePosition(s); err == nil && p.String() != s {
			t.Errorf("%q is read as the position %s", s, p)
		}
	})
}
