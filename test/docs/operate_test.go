package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// operate is the page where an operator begins, and published is where the alerts find it and those beside it.
const (
	operate   = "docs/operate.md"
	published = "https://github.com/tidemark/tidemark/blob/main/"
)

// TestEveryAlertLeadsToItsWayOut: the runbook_url of each alert is a heading of a page, and the list of alerts leads there, too.
func TestEveryAlertLeadsToItsWayOut(t *testing.T) {
	t.Parallel()
	rules, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "tidemark.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	alerts := regexp.MustCompile(`(?m)^ +- alert: (\w+)\n(?: .*\n)*? +runbook_url: (\S+)$`).FindAllStringSubmatch(string(rules), -1)
	if all := strings.Count(string(rules), "- alert: "); len(alerts) != all || all < 10 {
		t.Fatalf("%d of %d alerts have a runbook_url", len(alerts), all)
	}
	listed := tableRows(t, "## Alerts")
	for _, alert := range alerts {
		name, url := alert[1], alert[2]
		page, anchor, _ := strings.Cut(strings.TrimPrefix(url, published), "#")
		target := filepath.Join(root, filepath.FromSlash(page))
		if _, err := os.Stat(target); err != nil {
			t.Errorf("%s leads to %s, which is not there", name, url)
			continue
		}
		if !slices.Contains(anchors(t, target), anchor) {
			t.Errorf("%s leads to %s, and there is no such heading", name, url)
		}
		same := "](#" + anchor + ")"
		if page != operate {
			same = "](" + strings.TrimPrefix(page, "docs/") + "#" + anchor + ")"
		}
		if !slices.ContainsFunc(listed, func(row string) bool {
			return slices.Contains(regexp.MustCompile(`\w+`).FindAllString(row, -1), name) && strings.Contains(row, same)
		}) {
			t.Errorf("%s does not list %s with a link to %s", operate, name, url)
		}
	}
	for _, row := range listed {
		for _, name := range regexp.MustCompile(`Tidemark\w+`).FindAllString(row, -1) {
			if !slices.ContainsFunc(alerts, func(a []string) bool { return a[1] == name }) {
				t.Errorf("%s lists %s, and there is no such alert", operate, name)
			}
		}
	}
}

// TestEveryMessageHasItsWayOut: what the log warns of, and what is refused, is in the operator's page by a part of its text,
// and what the page has is a part of one.
func TestEveryMessageHasItsWayOut(t *testing.T) {
	t.Parallel()
	warnings, refusals, said := messages(t)
	if len(warnings) < 20 || len(refusals) < 10 {
		t.Fatalf("%d warnings and %d refusals were found, which cannot be all", len(warnings), len(refusals))
	}
	hold(t, "## What the log says", warnings, said)
	hold(t, "## The checkpoint", refusals, said)
}

func hold(t *testing.T, section string, texts, said []string) {
	t.Helper()
	var parts []string
	for _, row := range tableRows(t, section) {
		first, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " | ")
		for _, quoted := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(first, -1) {
			if strings.Contains(quoted[1], " ") {
				parts = append(parts, quoted[1])
			}
		}
	}
	for _, text := range texts {
		if !slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) }) {
			t.Errorf("%s, %q, does not say what to do about: %s", operate, section, text)
		}
	}
	for _, part := range parts {
		if !slices.ContainsFunc(said, func(text string) bool { return strings.Contains(text, part) }) {
			t.Errorf("%s, %q, tells of %q, and nothing says that", operate, section, part)
		}
	}
}

// tableRows are the lines of the tables in a section, without those of deeper headings.
func tableRows(t *testing.T, section string) []string {
	t.Helper()
	_, text, found := strings.Cut(contentOf(t, filepath.Join(root, operate)), "\n"+section+"\n")
	if !found {
		t.Fatalf("%s has no section %q", operate, section)
	}
	text, _, _ = strings.Cut(text, "\n#")
	var rows []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "| ") {
			rows = append(rows, line)
		}
	}
	return rows
}

// messages are the constant texts of warnings and of refusals in the packages that a running relay is made of, and all of
// their texts.
func messages(t *testing.T) (warnings, refusals, said []string) {
	t.Helper()
	for _, dir := range []string{"relay", "wal", "publish", "checkpoint", "park", "cli", "admin", "tracing", "reconcile"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					warnings = append(warnings, warning(n)...)
					refusals = append(refusals, refusal(n)...)
				case *ast.CompositeLit:
					refusals = append(refusals, permanentRefusal(n)...)
				case *ast.BasicLit:
					said = append(said, literals(n)...)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return warnings, refusals, said
}

// warning is the text of a warning or error that a call logs, or that it has logged as long as something fails.
func warning(call *ast.CallExpr) []string {
	switch name := called(call); {
	case name == "Msg" && logsAbove(call):
		return literals(call.Args...)
	case name == "newOutage" || name == "persist":
		return literals(call.Args...)
	default:
		return nil
	}
}

// logsAbove says whether a chain of calls begins with that of a level above info.
func logsAbove(call *ast.CallExpr) bool {
	above := false
	ast.Inspect(call.Fun, func(n ast.Node) bool {
		if inner, ok := n.(*ast.CallExpr); ok {
			above = above || len(inner.Args) == 0 && (called(inner) == "Warn" || called(inner) == "Error")
		}
		return true
	})
	return above
}

// refusal is the text of what a call refuses.
func refusal(call *ast.CallExpr) []string {
	if called(call) != "refuse" || len(call.Args) == 0 {
		return nil
	}
	if reason, ok := call.Args[0].(*ast.CallExpr); ok {
		return literals(reason.Args[:1]...)
	}
	return nil
}

// permanentRefusal is the text of an error that says of itself that it is one.
func permanentRefusal(lit *ast.CompositeLit) []string {
	refused := false
	var texts []string
	for _, element := range lit.Elts {
		field, ok := element.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		key, _ := field.Key.(*ast.Ident)
		value, _ := field.Value.(*ast.Ident)
		refused = refused || key != nil && value != nil && key.Name == "refused" && value.Name == "true"
		if call, ok := field.Value.(*ast.CallExpr); ok && len(call.Args) > 0 {
			texts = append(texts, literals(call.Args[0])...)
		}
	}
	if !refused {
		return nil
	}
	return texts
}

// called is the name of what a call calls, without what it belongs to.
func called(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	default:
		return ""
	}
}

// literals are the texts of two words or more that expressions are, or begin with.
func literals(expressions ...ast.Expr) []string {
	var texts []string
	for _, e := range expressions {
		for {
			sum, ok := e.(*ast.BinaryExpr)
			if !ok {
				break
			}
			e = sum.X
		}
		lit, ok := e.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			continue
		}
		if text, err := strconv.Unquote(lit.Value); err == nil && strings.Contains(text, " ") {
			texts = append(texts, text)
		}
	}
	return texts
}
