// Package check holds the Grafana board and the Prometheus alerts against Prometheus's own parser, and every metric that
// they name against what a running relay serves.
package check

import (
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

const (
	rules = "../prometheus/tidemark.rules.yml"
	board = "../grafana/tidemark.json"
	// served is what /metrics of a running relay has; TestEveryMetricOfTheContractIsServed keeps it.
	served = "../metrics.txt"
)

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// mustExist checks that an expression parses, and that each metric in it is one that is served.
func mustExist(t *testing.T, where, expr string) {
	t.Helper()
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %s: %v", where, expr, err)
		return
	}
	known := strings.Fields(string(read(t, served)))
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		name := selector.Name
		for _, m := range selector.LabelMatchers {
			if m.Name == labels.MetricName {
				name = m.Value
			}
		}
		if !slices.Contains(known, name) {
			t.Errorf("%s: there is no metric %s, in %s", where, name, expr)
		}
		return nil
	})
}

func TestTheAlertsAreWellFormedAndSayWhatToDo(t *testing.T) {
	groups, errs := rulefmt.Parse(read(t, rules), false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if len(errs) > 0 {
		return
	}
	n := 0
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			n++
			mustExist(t, rule.Alert, rule.Expr)
			for _, annotation := range []string{"summary", "description", "runbook"} {
				if len(rule.Annotations[annotation]) < 20 {
					t.Errorf("%s has no %s", rule.Alert, annotation)
				}
			}
			if severity := rule.Labels["severity"]; severity != "warning" && severity != "critical" {
				t.Errorf("%s: severity %q", rule.Alert, severity)
			}
		}
	}
	if n < 10 {
		t.Errorf("%d alerts", n)
	}
}

func TestTheBoardAsksForWhatIsThere(t *testing.T) {
	b := readBoard(t)
	left := regexp.MustCompile(`\$\w+`)
	queries := 0
	ids := map[int]bool{}
	for i, panel := range b.Panels {
		if ids[panel.ID] {
			t.Errorf("%s: its id %d is taken", panel.Title, panel.ID)
		}
		ids[panel.ID] = true
		for _, target := range panel.Targets {
			queries++
			expr := asGrafanaAsks(target.Expr)
			if name := left.FindString(expr); name != "" {
				t.Errorf("%s: the board has no variable %s", panel.Title, name)
			}
			mustExist(t, panel.Title, expr)
		}
		a := panel.GridPos
		if a.X < 0 || a.X+a.W > 24 || len(panel.Targets) == 0 {
			t.Errorf("%s: beyond the grid, or without a query", panel.Title)
		}
		for _, other := range b.Panels[:i] {
			if o := other.GridPos; a.X < o.X+o.W && o.X < a.X+a.W && a.Y < o.Y+o.H && o.Y < a.Y+a.H {
				t.Errorf("%s lies over %s", panel.Title, other.Title)
			}
		}
	}
	if queries < 20 {
		t.Errorf("%d queries", queries)
	}
}
