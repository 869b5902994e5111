package docs_test

import (
	"strings"
	"testing"
)

// TestTheRunnerOfBlocks runs a page that uses all that a page can use.
func TestTheRunnerOfBlocks(t *testing.T) {
	newReader(t, readPage(t, "test/docs/testdata/page.md")).read()
}

// TestWrongBlocksAreFound: what a page shows and what does not happen is an error.
func TestWrongBlocksAreFound(t *testing.T) {
	for wrong, wants := range map[string]string{
		"<!-- run -->\n```sh\nfalse\ntrue\n```\n":                                 "exit status 1",
		"<!-- run: status 2 -->\n```sh\ntrue\n```\n":                              "exit status 0",
		"<!-- run -->\n```sh\nfalse | cat\n```\n":                                 "exit status 1",
		"<!-- run -->\n```sh\necho a\n```\n<!-- output -->\n```\nb\n```\n":        `shows "b"`,
		"<!-- run -->\n```sql\nselect 1 / 0;\n```\n":                              "division by zero",
		"<!-- run: stays -->\n```sh\ntrue\n```\n<!-- run -->\n```sh\ntrue\n```\n": "has ended before",
	} {
		p, err := parsePage("wrong", wrong)
		if err != nil {
			t.Fatal(err)
		}
		r := newReader(t, p)
		err = nil
		for _, b := range p.blocks {
			if b.kind == "run" && err == nil {
				err = r.run(b)
			}
		}
		if err == nil || !strings.Contains(err.Error(), wants) {
			t.Errorf("%q: %v, want %q", wrong, err, wants)
		}
		r.cleanUp()
	}
}
