package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Text writes the result for a person to read.
func (r *Result) Text(w io.Writer) error {
	out := &errWriter{w: w}
	out.printf("tidemark %s\n%s · Postgres %s · Kafka %s · %s\n", r.Tidemark, r.Machine, r.Postgres, r.Kafka, r.At.Format("2006-01-02 15:04 MST"))
	if len(r.Cases) > 1 {
		r.table(out)
		return out.err
	}
	for i := range r.Cases {
		r.Cases[i].text(out)
	}
	return out.err
}

// describe says what the backlog is made of.
func (m *Measured) describe() string {
	l := &m.Load
	s := fmt.Sprintf("%s with a payload of %s, %s a transaction, %s, %s, %s",
		rowsOf(l.Rows), bytesOf(l.Size), comma(min(l.PerTransaction, l.Rows)), plural(l.Tables, "table"), plural(l.Keys, "key"), plural(l.Partitions, "partition"))
	if l.TLS {
		s += ", TLS to both servers"
	}
	if len(l.Settings) > 0 {
		s += ", " + strings.Join(l.Settings, " ")
	}
	return s
}

// line is one reader in a table.
type line struct {
	Name, Time, Rate, Bytes, Ratio, Spread, CPU, Peak, First, After string
}

// lines are the readers of a backlog, by their medians.
func (m *Measured) lines() []line {
	var out []line
	bytes := m.median(m.Raw).Bytes
	add := func(name string, drains []Drain) {
		if len(drains) == 0 {
			return
		}
		d := m.median(drains)
		ratios := m.ratios(drains)
		l := line{
			Name: name, Time: fmt.Sprintf("%.2f s", d.Seconds), Rate: comma(int(d.rate(m.Load.Rows))) + "/s",
			Bytes: fmt.Sprintf("%.1f MB/s", float64(bytes)/1e6/d.Seconds), Ratio: fmt.Sprintf("%.2f", middle(ratios)),
			CPU: fmt.Sprintf("%.1f µs", d.CPUSeconds*1e6/float64(m.Load.Rows)), Peak: "-", First: "-", After: "-",
		}
		if len(ratios) > 1 {
			l.Spread = fmt.Sprintf("%.2f to %.2f", ratios[0], ratios[len(ratios)-1])
		}
		if p := peak(drains); p > 0 {
			l.Peak = fmt.Sprintf("%.0f MiB", float64(p)/(1<<20))
		}
		if d.FirstSeconds > 0 {
			l.First = durationOf(d.FirstSeconds * 1000)
		}
		if after := d.Seconds - d.FirstSeconds; d.FirstSeconds > 0 && after > 0 {
			l.After = comma(int(float64(m.Load.Rows)/after)) + "/s"
		}
		out = append(out, l)
	}
	add("raw reader", m.Raw)
	add("tidemark", m.Relay)
	add("beside", m.Beside)
	return out
}

func (m *Measured) text(out *errWriter) {
	out.printf("\nbacklog: %s; %s of protocol\n\n", m.describe(), bytesOf(int(m.median(m.Raw).Bytes)))
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "\ttime\trows\tprotocol\tof raw\tspread\tCPU a row\tpeak memory\tfirst record\tfrom there") //nolint:errcheck // out keeps it
	for _, l := range m.lines() {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Name, l.Time, l.Rate, l.Bytes, l.Ratio, l.Spread, l.CPU, l.Peak, l.First, l.After) //nolint:errcheck // out keeps it
	}
	_ = table.Flush() // out keeps the error
	if n := len(m.Raw); n > 1 {
		out.printf("medians of %d runs; each ratio is to the raw reader of the same run, peak memory is the largest\n", n)
	}
	if m.Together > 0 {
		out.printf("\nwriters, relay and a consumer together get through %s/s on this machine\n", comma(int(m.Together)))
	}
	for i := range m.Latency {
		m.Latency[i].text(out)
	}
	if m.IdleCPU != nil {
		out.printf("\nidle: %.2f %% of a core\n", *m.IdleCPU*100)
	}
}

func (l *Latency) text(out *errWriter) {
	out.printf("\nCOMMIT to consumer at %s/s, %s a transaction, for %.0f s: p50 %s, p95 %s, p99 %s, p99.9 %s, at most %s (the COMMIT alone: p50 %s, p99 %s); CPU %.1f µs a row\n",
		comma(l.Rate), rowsOf(l.PerTransaction), l.Seconds, durationOf(l.P50), durationOf(l.P95), durationOf(l.P99), durationOf(l.P999), durationOf(l.Max),
		durationOf(l.CommitP50), durationOf(l.CommitP99), l.CPUSeconds*1e6/float64(max(l.Rows, 1)))
	most := 0
	for _, b := range l.Histogram {
		most = max(most, b.Rows)
	}
	for _, b := range l.Histogram {
		const width = 50
		if bar := (b.Rows*width + most/2) / max(most, 1); b.Rows > 0 {
			out.printf("  < %9s  %-*s %s\n", durationOf(b.UpTo), width, strings.Repeat("█", max(bar, 1)), comma(b.Rows))
		}
	}
}

// table is a line a case.
func (r *Result) table(out *errWriter) {
	out.printf("\n")
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "case\traw reader\ttidemark\tof raw\trows\tprotocol\tCPU a row\tpeak memory") //nolint:errcheck // out keeps it
	for i := range r.Cases {
		lines := r.Cases[i].lines()
		if len(lines) < 2 {
			continue
		}
		l := lines[1]
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Cases[i].Name, lines[0].Time, l.Time, l.Ratio, l.Rate, l.Bytes, l.CPU, l.Peak) //nolint:errcheck // out keeps it
	}
	_ = table.Flush() // out keeps the error
	if len(r.Cases) > 0 {
		out.printf("as it is: %s\n", r.Cases[0].describe())
	}
}

// errWriter keeps the first error.
type errWriter struct {
	w   io.Writer
	err error
}

func (e *errWriter) Write(p []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	n, err := e.w.Write(p)
	e.err = err
	return n, err
}

func (e *errWriter) printf(format string, args ...any) { _, _ = fmt.Fprintf(e, format, args...) }
