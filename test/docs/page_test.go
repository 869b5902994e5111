package docs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// page is a document and its fenced blocks, in order.
type page struct {
	name   string // such as docs/operate.md
	blocks []*block
}

// block is a fenced block, with what the comment before it says is to be done with it.
type block struct {
	page    string
	line    int    // of the fence
	lang    string // "" if the fence says none
	text    string // without the indentation of the fence, ends with a newline
	kind    string // of the comment: run, output, file, config, from, not run; "" without one
	rest    string // what the comment says behind a colon
	outputs []*block
}

func (b *block) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

var (
	// firstMark is a command that comes before what follows, and that readers need not see.
	firstMark = regexp.MustCompile(`^<!-- first: (.+) -->$`)
	fenceOpen = regexp.MustCompile("^( *)```+ *([A-Za-z0-9_+-]*)")
	marker    = regexp.MustCompile(`^<!-- (not run|run|output|file|config|from)(?:: (.+?))? -->$`)
)

// documents are the names of all pages, README.md first.
func documents(t *testing.T) []string {
	t.Helper()
	names := []string{"README.md"}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, _ os.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			name, err := filepath.Rel(root, path)
			names = append(names, filepath.ToSlash(name))
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func readPage(t *testing.T, name string) *page {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name)) //nolint:gosec // ours
	if err != nil {
		t.Fatal(err)
	}
	p, err := parsePage(name, string(content))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func parsePage(name, content string) (*page, error) {
	p := &page{name: name}
	var open *block
	var indent, before string
	var last *block // what was run last
	for i, line := range strings.Split(content, "\n") {
		m := fenceOpen.FindStringSubmatch(line)
		switch {
		case open == nil && m != nil:
			open, indent = &block{page: name, line: i + 1, lang: m[2]}, m[1]
			if mark := marker.FindStringSubmatch(before); mark != nil {
				open.kind, open.rest = mark[1], mark[2]
			}
		case open == nil:
			text := strings.TrimSpace(line)
			if m := firstMark.FindStringSubmatch(text); m != nil {
				p.blocks = append(p.blocks, &block{page: name, line: i + 1, lang: "sh", text: m[1] + "\n", kind: "run"})
			}
			if text != "" {
				before = text
			}
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			p.blocks = append(p.blocks, open)
			switch open.kind {
			case "run":
				last = open
			case "output":
				if last == nil {
					return nil, fmt.Errorf("%s is the output of nothing", open)
				}
				last.outputs = append(last.outputs, open)
			}
			open, before = nil, ""
		default:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%s is not closed", open)
	}
	return p, nil
}

// marked are the languages whose blocks have to say what is done with them.
func marked() []string {
	return []string{"sh", "bash", "shell", "console", "sql", "yaml", "yml", "go", "golang"}
}

// TestEveryBlockSaysWhetherItIsRun: commands, SQL, configuration and Go that a reader copies are tried, or say why not.
func TestEveryBlockSaysWhetherItIsRun(t *testing.T) {
	for _, name := range documents(t) {
		for _, b := range readPage(t, name).blocks {
			switch {
			case b.kind == "" && slices.Contains(marked(), b.lang):
				t.Errorf("%s: a block of %s without a word on whether it is run; CONTRIBUTING.md has the comments that say it", b, b.lang)
			case b.kind == "not run" && b.rest == "":
				t.Errorf("%s: not run, and no reason", b)
			case (b.kind == "file" || b.kind == "from") && b.rest == "":
				t.Errorf("%s: %s, and no name", b, b.kind)
			case b.kind == "config" && b.lang != "yaml":
				t.Errorf("%s: config is for yaml", b)
			case b.kind == "run" && !slices.Contains([]string{"sh", "bash", "sql"}, b.lang):
				t.Errorf("%s: only sh and sql can be run", b)
			}
		}
	}
}
