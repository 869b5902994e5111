package docs_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// never are texts that are other ones each time, whatever a document shows in their place.
//
//nolint:gochecknoglobals // compiled once
var never = []*regexp.Regexp{
	regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), // a UUID
	regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:\d\d)?)?`),
	regexp.MustCompile(`\b\d{1,2}:\d\d:\d\d\b`),
	regexp.MustCompile(`[0-9a-f]{16}-[0-9a-f]{8}`),    // a position
	regexp.MustCompile(`\b[0-9A-F]{1,8}/[0-9A-F]+\b`), // an LSN
	regexp.MustCompile(`\b\d{19}\b`),                  // a system identifier
}

// matches returns nil if the lines that a document shows were printed, in that order; others may be between them. An … stands
// for anything, and what is never the same may differ, as may the width of gaps.
func matches(shown, printed string) error {
	lines := strings.Split(printed, "\n")
	for want := range strings.Lines(shown) {
		want = plain(want)
		if want == "" || want == "…" {
			continue
		}
		pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".*") + "$")
		found := false
		for len(lines) > 0 && !found {
			found = pattern.MatchString(plain(lines[0]))
			lines = lines[1:]
		}
		if !found {
			return fmt.Errorf("the document shows %q, and it was not printed, or not there:\n%s", want, printed)
		}
	}
	return nil
}

// plain is a line with single blanks, and with a name in the place of what is never the same.
func plain(line string) string {
	for i, re := range never {
		line = re.ReplaceAllString(line, "<"+strings.Repeat("#", i+1)+">")
	}
	return strings.Join(strings.Fields(line), " ")
}

func TestOutputIsComparedWithoutWhatIsNeverTheSame(t *testing.T) {
	const printed = "start\nstored 0/16B3748 at 2026-11-23T10:00:00.5Z\nid  6b1f0c3e-8f0a-4a57-9c36-2a1c1a4f7d10\n12 events\n"
	for _, shown := range []string{
		"stored 1/0 at 2026-11-22T09:00:00Z\nid 00000000-0000-0000-0000-000000000000\n12 events",
		"start\n…\n12 events", "… events", "stored 0/1 at …", "",
	} {
		if err := matches(shown, printed); err != nil {
			t.Errorf("%q: %v", shown, err)
		}
	}
	for _, shown := range []string{"13 events", "12 events\nstart", "events", "start stored"} {
		if matches(shown, printed) == nil {
			t.Errorf("%q was found", shown)
		}
	}
}
