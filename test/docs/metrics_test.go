package docs_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// metric is one as the code defines it.
type metric struct {
	name, typ, help string
	labels          []string
}

// metrics are all that the code of the program defines, by name.
func metrics(t *testing.T) []metric {
	t.Helper()
	var all []metric
	for _, dir := range []string{"admin", "cli", "publish", "relay", "tracing", "wal"} {
		files := token.NewFileSet()
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(files, path, nil, 0)
			if err == nil {
				all = append(all, metricsOf(file)...)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.SortFunc(all, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	return all
}

// typeByName is the type of a metric whose collector does not say it: by Prometheus's own conventions for names.
func typeByName(name string) string {
	switch {
	case strings.HasSuffix(name, "_total"):
		return "counter"
	case strings.HasSuffix(name, "_to_ack_seconds"): // which servesWhatIsListed holds against what is served
		return "histogram"
	default:
		return "gauge"
	}
}

// metricsOf finds prometheus.CounterOpts{Name: …} and the like, with the labels that stand beside it, prometheus.NewDesc, and calls of
// gauge(name, help, …).
func metricsOf(file *ast.File) (all []metric) {
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		if name, ok := call.Fun.(*ast.Ident); ok && name.Name == "gauge" && len(call.Args) > 2 && text(call.Args[0]) != "" {
			all = append(all, metric{name: text(call.Args[0]), typ: "gauge", help: text(call.Args[1])})
			return true
		}
		if name, ok := call.Fun.(*ast.SelectorExpr); ok && name.Sel.Name == "NewDesc" && len(call.Args) > 2 {
			name := text(call.Args[0])
			all = append(all, metric{name: name, typ: typeByName(name), help: text(call.Args[1]), labels: texts(call.Args[2])})
			return true
		}
		opts, ok := call.Args[0].(*ast.CompositeLit)
		if !ok {
			return true
		}
		kind, ok := opts.Type.(*ast.SelectorExpr)
		if !ok || !strings.HasSuffix(kind.Sel.Name, "Opts") {
			return true
		}
		m := metric{typ: strings.ToLower(strings.TrimSuffix(kind.Sel.Name, "Opts"))}
		for _, e := range opts.Elts {
			if field, ok := e.(*ast.KeyValueExpr); ok {
				switch name, _ := field.Key.(*ast.Ident); name.Name {
				case "Name":
					m.name = text(field.Value)
				case "Help":
					m.help = text(field.Value)
				case "ConstLabels":
					m.labels = append(m.labels, texts(field.Value)...)
				default:
				}
			}
		}
		if len(call.Args) > 1 {
			m.labels = append(m.labels, texts(call.Args[1])...)
		}
		if strings.HasPrefix(m.name, "tidemark_") {
			all = append(all, m)
		}
		return true
	})
	return all
}

// text is the value of a string literal, "" of anything else.
func text(e ast.Expr) string {
	if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		value, err := strconv.Unquote(lit.Value)
		if err == nil {
			return value
		}
	}
	return ""
}

// texts are the string literals of a list, or the keys of a map.
func texts(e ast.Expr) (all []string) {
	list, ok := e.(*ast.CompositeLit)
	if !ok {
		return nil
	}
	for _, e := range list.Elts {
		if pair, ok := e.(*ast.KeyValueExpr); ok {
			e = pair.Key
		}
		all = append(all, text(e))
	}
	return all
}

// metricTables is the part of docs/reference/metrics.md that is made from the code.
func metricTables(p *program) string {
	var b strings.Builder
	metricTable(&b, p.metrics, func(name string) bool { return !strings.HasPrefix(name, "tidemark_kafka_") })
	b.WriteString("\n## The Kafka client's\n\n")
	metricTable(&b, p.metrics, func(name string) bool { return strings.HasPrefix(name, "tidemark_kafka_") })
	return b.String()
}

func metricTable(b *strings.Builder, all []metric, isIn func(name string) bool) {
	b.WriteString("| metric | type | labels | |\n|---|---|---|---|\n")
	for _, m := range all {
		if !isIn(m.name) {
			continue
		}
		labels := ""
		if len(m.labels) > 0 {
			labels = "`" + strings.Join(m.labels, "`, `") + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", m.name, m.typ, labels, cell(m.help))
	}
}
