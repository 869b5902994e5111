package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestConfigurationsLoad: what a page shows as configuration is one, alone or with the address of a database.
func TestConfigurationsLoad(t *testing.T) {
	t.Parallel()
	for _, name := range documents(t) {
		for _, b := range readPage(t, name).blocks {
			if b.kind == "config" || b.kind == "file" && strings.HasPrefix(b.rest, "config") && b.lang == "yaml" {
				load(t, b)
			}
		}
	}
}

// load has tidemark read a block as its configuration.
func load(t *testing.T, b *block) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(b.text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary(t), "config", "--config", path)
	cmd.Env = environment()
	if !regexp.MustCompile(`(?m)^ *dsn(_file)?:`).MatchString(b.text) {
		cmd.Env = append(cmd.Env, "TIDEMARK_SOURCE_DSN=postgres://localhost/shop")
	}
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s is no configuration: %v\n%s", b, err, output)
	}
}

// TestGoIsFromCompiledFiles: what a page shows of Go is in a file of the repository, which is compiled, line for line but for
// the indentation. A line of the page that is … leaves out some of the file's.
func TestGoIsFromCompiledFiles(t *testing.T) {
	t.Parallel()
	for _, name := range documents(t) {
		for _, b := range readPage(t, name).blocks {
			if b.kind != "from" {
				continue
			}
			source, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(b.rest)))
			if err != nil {
				t.Errorf("%s: %v", b, err)
				continue
			}
			if missing := notIn(b.text, string(source)); missing != "" {
				t.Errorf("%s: %s has no lines that are, after each other,\n%s", b, b.rest, missing)
			}
		}
	}
}

// notIn returns the first part of shown that does not follow, in source, upon the one before it. An import of a line of its own
// may be one of several there.
func notIn(shown, source string) string {
	source = flat(source)
	for _, m := range regexp.MustCompile(`(?m)^import (".*")\n`).FindAllStringSubmatch(shown, -1) {
		if !strings.Contains(source, "\n"+m[1]+"\n") {
			return m[0]
		}
		shown = strings.Replace(shown, m[0], "", 1)
	}
	for part := range strings.SplitSeq("\n"+flat(shown)+"\n", "\n…\n") {
		part = strings.Trim(part, "\n")
		_, rest, found := strings.Cut("\n"+source+"\n", "\n"+part+"\n")
		if !found {
			return part
		}
		source = rest
	}
	return ""
}

// flat is text without indentation, empty lines and the room before a comment.
func flat(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

func TestPartsAreFoundInTheirOrder(t *testing.T) {
	t.Parallel()
	const source = "func f() {\n\ta()\n\n\tb() // why\n\tc()\n}\n"
	for shown, missing := range map[string]string{
		"a()\nb()   // why\n":   "",
		"func f() {\n…\nc()\n}": "",
		"a()\nc()\n":            "a()\nc()",
		"c()\n…\na()\n":         "a()",
		"a(":                    "a(",
	} {
		if got := notIn(shown, source); got != missing {
			t.Errorf("%q: %q, want %q", shown, got, missing)
		}
	}
}
