package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	fence   = regexp.MustCompile("(?ms)^```.*?^```")
)

// TestLinksLeadSomewhere follows every link of every document that does not leave the repository, down to the heading.
func TestLinksLeadSomewhere(t *testing.T) {
	names := documents(t)
	more, err := filepath.Glob(filepath.Join(root, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range more {
		if name := filepath.Base(path); name != "README.md" {
			names = append(names, name)
		}
	}
	links := 0
	for _, name := range names {
		document := filepath.Join(root, filepath.FromSlash(name))
		for _, found := range link.FindAllStringSubmatch(contentOf(t, document), -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			links++
			path, anchor, _ := strings.Cut(found[1], "#")
			target := document
			if path != "" {
				target = filepath.Join(filepath.Dir(document), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which is not there", document, found[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(t, target), anchor) {
				t.Errorf("%s links to %s, and there is no such heading", document, found[1])
			}
		}
	}
	if len(names) < 10 || links < 40 {
		t.Errorf("%d links in %d documents were found, which cannot be all", links, len(names))
	}
}

// contentOf is a document without its blocks of code.
func contentOf(t *testing.T, document string) string {
	t.Helper()
	content, err := os.ReadFile(document) //nolint:gosec // ours
	if err != nil {
		t.Fatal(err)
	}
	return fence.ReplaceAllString(string(content), "")
}

// anchors are the headings of a document as GitHub names them: lower case, spaces as hyphens, other signs left out.
func anchors(t *testing.T, document string) []string {
	t.Helper()
	var names []string
	for _, h := range heading.FindAllStringSubmatch(contentOf(t, document), -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(h[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}
