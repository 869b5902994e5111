package bench

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPercentilesAreThoseOfTheRows(t *testing.T) {
	var took []time.Duration
	for i := range 1000 {
		took = append(took, time.Duration(i+1)*time.Millisecond)
	}
	l := newLatency(took)
	if l.P50 != 500 || l.P95 != 950 || l.P99 != 990 || l.P999 != 999 || l.Max != 1000 {
		t.Errorf("percentiles of 1 to 1000 ms: %+v", l)
	}
	rows, last := 0, 0.0
	for _, b := range l.Histogram {
		if b.UpTo <= last {
			t.Errorf("a bucket up to %v behind one up to %v", b.UpTo, last)
		}
		rows, last = rows+b.Rows, b.UpTo
	}
	if rows != 1000 || last < 1000 {
		t.Errorf("the histogram has %d rows, up to %v ms", rows, last)
	}
	if one := newLatency(took[:1]); one.P50 != 1 || one.P999 != 1 || len(one.Histogram) != 1 {
		t.Errorf("percentiles of one row: %+v", one)
	}
	if none := newLatency(nil); none.Rows != 0 || none.Histogram != nil {
		t.Errorf("percentiles of nothing: %+v", none)
	}
}

func TestRatiosAreOfTheSameRun(t *testing.T) {
	drains := func(seconds ...float64) (out []Drain) {
		for _, s := range seconds {
			out = append(out, Drain{Seconds: s})
		}
		return out
	}
	m := Measured{Raw: drains(1, 2, 4), Relay: drains(1, 1, 6)}
	if got, want := m.ratios(m.Relay), []float64{0.5, 1, 1.5}; !slices.Equal(got, want) {
		t.Errorf("ratios %v, want %v", got, want)
	}
	if m.Ratio() != 1 {
		t.Errorf("the ratio is %v, want 1", m.Ratio())
	}
	if d := m.median(m.Raw); d.Seconds != 2 {
		t.Errorf("the median of 1, 2 and 4 is %v", d.Seconds)
	}
}

func TestScratchDatabaseIsReachedAsTheGivenOne(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://me:p%40ss@a:1,b:2/shop?sslmode=require":  "postgres://me:p%40ss@a:1,b:2/scratch?sslmode=require",
		"postgresql:///shop?host=/run/pg&dbname=other":       "postgresql:///scratch?host=%2Frun%2Fpg",
		"host=a dbname=shop user=me":                         "host=a dbname=shop user=me dbname=scratch",
		"postgres://me@a?target_session_attrs=primary&port=": "postgres://me@a/scratch?target_session_attrs=primary&port=",
	} {
		got, err := inDatabase(dsn, "scratch")
		if err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", dsn, got, err, want)
		}
	}
}

func TestSuiteChangesOneThingAtATime(t *testing.T) {
	load := DefaultLoad()
	for _, c := range Suite(load)[1:] {
		if err := c.Load.Check(); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		if c.Load.Rows*c.Load.Size > 2*load.Rows*300 {
			t.Errorf("%s has %d rows of %d bytes", c.Name, c.Load.Rows, c.Load.Size)
		}
	}
	if len(load.Settings) > 0 {
		t.Errorf("the suite has changed the load that it was given: %v", load.Settings)
	}
}

func TestRateCountsFromTheStartAndFromTheFirstRecord(t *testing.T) {
	m := Measured{Load: Load{Rows: 1000}, Raw: []Drain{{Seconds: 1, Bytes: 5e6}}, Relay: []Drain{{Seconds: 2, FirstSeconds: 1.5, CPUSeconds: 0.004, PeakBytes: 3 << 20}}}
	want := line{
		Name: "tidemark", Time: "2.00 s", Rate: "500/s", Bytes: "2.5 MB/s", Ratio: "2.00", CPU: "4.0 µs", Peak: "3 MiB", First: "1.5 s", After: "2,000/s",
	}
	if got := m.lines()[1]; got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestJSONHasTheNamesThatScriptsRead(t *testing.T) {
	text, err := json.Marshal(Result{Cases: []Measured{{
		Raw: []Drain{{}}, Relay: []Drain{{}}, Latency: []Latency{{Histogram: []Bucket{{}}}}, IdleCPU: new(0.001),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		`"cases":[`, `"load":{"rows":`, `"raw_reader":[{"seconds":`, `"tidemark":[{"seconds":`, `"cpu_seconds":`, `"peak_bytes":`,
		`"latency":[{"rate":`, `"p50_ms":`, `"p99.9_ms":`, `"up_to_ms":`, `"idle_cpu":`,
	} {
		if !strings.Contains(string(text), name) {
			t.Errorf("no %s in %s", name, text)
		}
	}
}

// TestMarkdownHasATableOfWhatWasMeasured reads as docs/performance.md does.
func TestMarkdownHasATableOfWhatWasMeasured(t *testing.T) {
	t.Parallel()
	idle := 0.004
	one := Measured{
		Name: "as it is", Load: Load{Rows: 1000, Size: 200, PerTransaction: 100, Tables: 1, Keys: 10, Partitions: 6},
		Raw:     []Drain{{Seconds: 1, Bytes: 1 << 20, CPUSeconds: 0.1}, {Seconds: 2, Bytes: 1 << 20, CPUSeconds: 0.1}},
		Relay:   []Drain{{Seconds: 2, FirstSeconds: 0.5, CPUSeconds: 0.2, PeakBytes: 60 << 20}, {Seconds: 2, FirstSeconds: 0.5, CPUSeconds: 0.2, PeakBytes: 61 << 20}},
		Latency: []Latency{{Rate: 500, PerTransaction: 1, Rows: 10, P50: 0.62, P99: 2, CommitP99: 0.41}}, IdleCPU: &idle,
	}
	markdown := func(cases ...Measured) string {
		t.Helper()
		var b strings.Builder
		r := Result{Tidemark: "v1", Go: "go1", Postgres: "18.4", Kafka: "4.4", System: "linux/amd64", Cases: cases}
		if err := r.Markdown(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	alone := markdown(one)
	for _, want := range []string{
		"tidemark v1 · go1 · Postgres 18.4 · Kafka 4.4", "linux/amd64", "| tidemark | 2.00 s | 2.00 (1.00 to 2.00) | 500/s | 500 ms | 666/s | 200.0 µs | 61 MiB |",
		"| 500, 1 | 0.62 ms |", "0.40 % of a core",
	} {
		if !strings.Contains(alone, want) {
			t.Errorf("no %q in\n%s", want, alone)
		}
	}
	if cases := markdown(one, one); !strings.Contains(cases, "| as it is | 1,000 | 2.00 s | 2.00 s | 2.00 (1.00 to 2.00) | 500/s |") {
		t.Error(cases)
	}
}
