package docs_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

//nolint:gochecknoglobals // a flag of the test binary; make reference sets it
var update = flag.Bool("update", false, "write what is made from the program into docs/reference")

const (
	madeFrom = "<!-- what follows is made from the program; make reference writes it -->\n"
	madeEnd  = "<!-- the end of what is made from the program -->\n"
)

// TestReference keeps docs/reference, and what documents say there is, at what the program says of itself.
func TestReference(t *testing.T) {
	p := theProgram(t)
	for name, make := range map[string]func(*program) string{
		"commands.md":      commandPages,
		"configuration.md": keyTables,
		"metrics.md":       metricTables,
	} {
		t.Run(name, func(t *testing.T) { isMade(t, name, make(p)) })
	}
	t.Run("is complete", func(t *testing.T) { isComplete(t, p) })
	t.Run("of what documents mention", func(t *testing.T) { everythingExists(t, p) })
	t.Run("has the contract", func(t *testing.T) { contractIsKept(t, p) })
}

// isMade holds the part of a page that is made from the program against it, or writes it.
func isMade(t *testing.T, name, made string) {
	t.Helper()
	path := filepath.Join(root, "docs", "reference", name)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(content), madeFrom)
	old, after, closed := strings.Cut(rest, madeEnd)
	if !found || !closed {
		t.Fatalf("%s has no place for what is made from the program: %q … %q", path, madeFrom, madeEnd)
	}
	made = "\n" + made + "\n"
	if old == made {
		return
	}
	if !*update {
		there, here := strings.Split(old, "\n"), strings.Split(made, "\n")
		i := 0
		for i < len(there)-1 && i < len(here)-1 && there[i] == here[i] {
			i++
		}
		t.Fatalf("%s has\n%s\nand the program says\n%s\nand perhaps more: make reference writes it", path, there[i], here[i])
	}
	if err := os.WriteFile(path, []byte(before+madeFrom+made+madeEnd+after), 0o644); err != nil { //nolint:gosec // a document
		t.Fatal(err)
	}
}
