package check

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"
)

// grafanaBoard is what these tests know of a board: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
type grafanaBoard struct {
	UID, Title    string
	SchemaVersion int
	Templating    struct {
		List []struct {
			Name, Type string
			Query      json.RawMessage
			Datasource *source
			Definition string
		}
	}
	Panels []panel
}

type source struct{ Type, UID string }

type panel struct {
	ID          int
	Type, Title string
	Description string
	Datasource  *source
	GridPos     struct{ X, Y, W, H int }
	FieldConfig struct {
		Defaults struct {
			Unit string
		}
	}
	Targets []struct{ RefID, Expr, LegendFormat string }
}

func readBoard(t *testing.T) *grafanaBoard {
	t.Helper()
	b := &grafanaBoard{}
	if err := json.Unmarshal(read(t, board), b); err != nil {
		t.Fatal(err)
	}
	return b
}

// asGrafanaAsks puts in what Grafana puts in before it asks.
func asGrafanaAsks(expr string) string {
	return strings.NewReplacer("$__rate_interval", "1m", "$job", "tidemark|other").Replace(expr)
}

// prometheusWithRun returns an engine, and a storage with what a running relay has served, twice: the metrics of testdata
// (make scrapes), fifteen seconds apart, which end at the time that is returned.
func prometheusWithRun(t *testing.T) (*promql.Engine, *tsdb.DB, time.Time) {
	t.Helper()
	options := tsdb.DefaultOptions()
	db, err := tsdb.Open(t.TempDir(), nil, nil, options, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	const scrapes, apart = 2, 15 * time.Second
	begin := time.Now().Add(-scrapes * apart)
	at := begin
	for n := range scrapes {
		at = begin.Add(time.Duration(n) * apart)
		appender := db.Appender(t.Context())
		for _, sample := range samples(t, read(t, fmt.Sprintf("testdata/scrape-%d.txt", n+1)), at) {
			l := labels.NewBuilder(labels.EmptyLabels())
			for name, value := range sample.Metric {
				l.Set(string(name), string(value))
			}
			l.Set("job", "tidemark").Set("instance", "relay:8642") // as a scrape does
			if _, err := appender.Append(0, l.Labels(), at.UnixMilli(), float64(sample.Value)); err != nil {
				t.Fatal(err)
			}
		}
		if err := appender.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{})})
	return engine, db, at
}

func samples(t *testing.T, text []byte, at time.Time) model.Vector {
	t.Helper()
	families, err := parserOfText().TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var out model.Vector
	for _, family := range families {
		v, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{Timestamp: model.TimeFromUnixNano(at.UnixNano())}, family)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v...)
	}
	return out
}

// TestEveryPanelShowsSomething has Prometheus's engine answer every query of the board from what a relay has served. Only what
// counts mishaps may be empty.
func TestEveryPanelShowsSomething(t *testing.T) {
	engine, db, at := prometheusWithRun(t)
	for _, p := range readBoard(t).Panels {
		shown := 0
		for _, target := range p.Targets {
			query, err := engine.NewInstantQuery(t.Context(), db, nil, asGrafanaAsks(target.Expr), at)
			if err != nil {
				t.Errorf("%s: %v", p.Title, err)
				continue
			}
			result := query.Exec(context.Background())
			vector, err := result.Vector()
			if err != nil {
				t.Errorf("%s: %s: %v", p.Title, target.Expr, err)
				continue
			}
			if len(vector) == 0 && !strings.HasSuffix(target.Expr, "> 0") {
				t.Errorf("%s: %s: no data", p.Title, target.Expr)
			}
			for _, sample := range vector {
				if math.IsNaN(sample.F) { // a gap, as the time of requests of which there were none
					continue
				}
				shown++
				for _, name := range legend.FindAllStringSubmatch(target.LegendFormat, -1) {
					if sample.Metric.Get(name[1]) == "" {
						t.Errorf("%s: the legend names %s, which %s has not", p.Title, name[1], sample.Metric)
					}
				}
			}
			if len(vector) > 1 && !legend.MatchString(target.LegendFormat) && p.Type == "timeseries" {
				t.Errorf("%s: %d lines are called %q", p.Title, len(vector), target.LegendFormat)
			}
			query.Close()
		}
		if shown == 0 {
			t.Errorf("%s is empty", p.Title)
		}
	}
}

var legend = regexp.MustCompile(`{{\s*(\w+)\s*}}`)

// TestTheBoardIsOne: what Grafana takes for granted and does not complain about.
func TestTheBoardIsOne(t *testing.T) {
	b := readBoard(t)
	if b.UID == "" || b.Title == "" || b.SchemaVersion < 36 { // from which a data source is an object
		t.Errorf("uid %q, title %q, schema %d", b.UID, b.Title, b.SchemaVersion)
	}
	variables := map[string]bool{}
	for _, v := range b.Templating.List {
		variables[v.Name] = true
		switch v.Type {
		case "datasource":
			if string(v.Query) != `"prometheus"` {
				t.Errorf("variable %s: of %s", v.Name, v.Query)
			}
		case "query":
			if v.Datasource == nil || *v.Datasource != (source{"prometheus", "${datasource}"}) || !strings.Contains(string(v.Query), v.Definition) {
				t.Errorf("variable %s: %+v, %s", v.Name, v.Datasource, v.Query)
			}
		default:
			t.Errorf("variable %s has the type %s", v.Name, v.Type)
		}
	}
	if !variables["datasource"] || !variables["job"] {
		t.Errorf("variables: %v", variables)
	}
	for _, p := range b.Panels {
		if p.Datasource == nil || *p.Datasource != (source{"prometheus", "${datasource}"}) {
			t.Errorf("%s: its data source is %+v", p.Title, p.Datasource)
		}
		if !slices.Contains([]string{"stat", "timeseries", "table"}, p.Type) || p.FieldConfig.Defaults.Unit == "" {
			t.Errorf("%s: type %q, unit %q", p.Title, p.Type, p.FieldConfig.Defaults.Unit)
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if target.RefID == "" || refs[target.RefID] {
				t.Errorf("%s: refId %q is taken or empty", p.Title, target.RefID)
			}
			refs[target.RefID] = true
			if !strings.Contains(target.Expr, `job=~"$job"`) {
				t.Errorf("%s: %s is of every job", p.Title, target.Expr)
			}
			if unit, ok := unitOf(target.Expr); ok && unit != p.FieldConfig.Defaults.Unit && p.Type != "table" && !mixed(p) {
				t.Errorf("%s: %s is in %s, and shown as %s", p.Title, target.Expr, unit, p.FieldConfig.Defaults.Unit)
			}
		}
	}
}

// unitOf tells Grafana's unit of an expression by the names of its metrics, which end in their base units.
func unitOf(expr string) (string, bool) {
	rate := strings.Contains(expr, "rate(")
	switch {
	case strings.Contains(expr, "/"):
		return "", false // a ratio, or a number of one in another
	case strings.Contains(expr, "_seconds"):
		return "s", !rate || strings.Contains(expr, "histogram_quantile")
	case strings.Contains(expr, "_bytes"), strings.Contains(expr, "_lsn"):
		if rate {
			return "Bps", true
		}
		return "bytes", true
	default:
		return "short", true
	}
}

// mixed reports whether a panel shows different things, with a unit of their own for some.
func mixed(p panel) bool { return strings.Contains(p.Title, " and ") }

// TestTheScrapesAreOfThisTidemark: what the board is tried with has every metric that is served.
func TestTheScrapesAreOfThisTidemark(t *testing.T) {
	text := "\n" + string(read(t, "testdata/scrape-2.txt"))
	for name := range strings.FieldsSeq(string(read(t, served))) {
		if !strings.Contains(text, "\n"+name+"{") && !strings.Contains(text, "\n"+name+" ") {
			t.Errorf("testdata has no %s: make scrapes", name)
		}
	}
}

func parserOfText() *expfmt.TextParser {
	p := expfmt.NewTextParser(model.UTF8Validation)
	return &p
}
