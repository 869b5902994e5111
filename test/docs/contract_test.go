package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// program is what the code of tidemark says that there is, by the names under which documents mention it.
type program struct {
	commands []*command
	keys     []key
	metrics  []metric
	headers  map[string]bool // of records
	routes   []string        // of HTTP: GET /livez
}

func theProgram(t *testing.T) *program {
	t.Helper()
	return &program{
		commands: commands(t), keys: keys(t), metrics: append(metrics(t), clientMetrics(t)...), headers: headers(t), routes: routes(t),
	}
}

// command returns the command of that path, nil if there is none.
func (p *program) command(path string) *command {
	for _, c := range p.commands {
		if c.path == path {
			return c
		}
	}
	return nil
}

// key returns the key of that path, nil if there is none.
func (p *program) key(path string) *key {
	for i := range p.keys {
		if p.keys[i].path == path {
			return &p.keys[i]
		}
	}
	return nil
}

// metric returns the metric of that name, nil if there is none.
func (p *program) metric(name string) *metric {
	for i := range p.metrics {
		if p.metrics[i].name == name {
			return &p.metrics[i]
		}
	}
	return nil
}

// contractIsKept: each public name is in the program, and in the reference.
func contractIsKept(t *testing.T, p *program) {
	t.Helper()
	names, err := os.ReadFile("testdata/contract.txt")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(names)) {
		kind, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		if kind == "" || kind == "#" {
			continue
		}
		seen++
		var page string
		var is bool
		mention := "`" + name + "`"
		switch kind {
		case "command":
			page, is = "commands.md", p.command(name) != nil
			mention = "# tidemark " + name + "\n"
		case "flag":
			i := strings.LastIndex(name, " ")
			c := p.command(name[:i])
			page, is, mention = "commands.md", c != nil && c.takes(name[i+1:]), name[i+1:]
		case "exit":
			page, is = "commands.md", exits(t)[name]
		case "key":
			is = p.key(name) != nil
			page = "configuration.md"
		case "default":
			path, value, _ := strings.Cut(name, " ")
			page, is, mention = "configuration.md", p.key(path) != nil && p.key(path).usual == value, "`"+value+"`"
		case "metric":
			name, labels, _ := strings.Cut(strings.TrimSuffix(name, "}"), "{")
			m := p.metric(name)
			page, is, mention = "metrics.md", m != nil && (labels == "" || strings.Join(m.labels, ",") == labels), "`"+name+"`"
		case "header":
			page, is = "record.md", p.headers[name]
		case "http":
			page, is = "http.md", slices.Contains(p.routes, name)
		default:
			t.Errorf("%q is of no kind", line)
			continue
		}
		if !is {
			t.Errorf("the program has no %s %s", kind, name)
		}
		if !strings.Contains(reference(t, page), mention) {
			t.Errorf("docs/reference/%s has no %s", page, mention)
		}
	}
	if seen < 120 {
		t.Errorf("the contract has %d names, which cannot be all", seen)
	}
}

// isComplete: what pages written by hand list is what the code has: every route, every header, every exit status, and
// no other.
func isComplete(t *testing.T, p *program) {
	t.Helper()
	compare := func(page string, listed, there []string) {
		t.Helper()
		if len(there) == 0 {
			t.Errorf("%s: nothing of it was found in the code", page)
		}
		for _, name := range there {
			if !slices.Contains(listed, name) {
				t.Errorf("docs/reference/%s lacks %s", page, name)
			}
		}
		for _, name := range listed {
			if !slices.Contains(there, name) {
				t.Errorf("docs/reference/%s has %s, which the code has not", page, name)
			}
		}
	}
	var listed []string
	for _, m := range regexp.MustCompile("`((?:GET|POST) /[^`]*)`").FindAllStringSubmatch(reference(t, "http.md"), -1) {
		listed = append(listed, m[1])
	}
	compare("http.md", listed, p.routes)

	listed = nil
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(reference(t, "record.md"), -1) {
		for _, m := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(row[1], -1) {
			listed = append(listed, m[1])
		}
	}
	var there []string
	for name := range p.headers {
		there = append(there, name)
	}
	compare("record.md", listed, there)

	listed, there = nil, nil
	for _, m := range regexp.MustCompile("(?m)^\\| `([0-9]+)` \\|").FindAllStringSubmatch(reference(t, "commands.md"), -1) {
		listed = append(listed, m[1])
	}
	for status := range exits(t) {
		there = append(there, status)
	}
	compare("commands.md", listed, there)
}

func reference(t *testing.T, page string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "docs", "reference", page))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// routes are what admin serves: METHOD PATH.
func routes(t *testing.T) (all []string) {
	t.Helper()
	for _, name := range []string{"server.go", "api.go", "page.go"} {
		content, err := os.ReadFile(filepath.Join(root, "admin", name)) //nolint:gosec // ours
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`mux\.Handle(?:Func)?\("((?:GET|POST) /[^"]*)"`).FindAllStringSubmatch(string(content), -1) {
			all = append(all, m[1])
		}
		for _, m := range regexp.MustCompile(`"(/[^"]*)": \{"`).FindAllStringSubmatch(string(content), -1) {
			all = append(all, "GET "+strings.TrimSuffix(m[1], "{$}"))
		}
	}
	return all
}

// headers are those that decode and the dead letters of relay write: the constants that are named so, and literals of their form.
func headers(t *testing.T) map[string]bool {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "decode", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	written := regexp.MustCompile(`^(ce_[a-z]+|tidemark-[a-z-]+[a-z]|content-type)$`)
	all := map[string]bool{}
	for _, path := range append(paths, filepath.Join(root, "relay", "poison.go")) {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				for i, name := range n.Names {
					if i < len(n.Values) && strings.HasPrefix(strings.ToLower(name.Name), "header") && text(n.Values[i]) != "" {
						all[text(n.Values[i])] = true
					}
				}
			case *ast.BasicLit:
				if written.MatchString(text(n)) {
					all[text(n)] = true
				}
			default:
			}
			return true
		})
	}
	delete(all, "ce_datacontenttype") // which is the header content-type
	return all
}

// exits are the statuses that cli has.
func exits(t *testing.T) map[string]bool {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "cli", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\texit\w+ += (\d+)`).FindAllStringSubmatch(string(content), -1) {
		all[m[1]] = true
	}
	if len(all) == 0 {
		t.Fatal("cli/main.go has no exit statuses")
	}
	return all
}
