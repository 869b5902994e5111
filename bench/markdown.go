package bench

import "io"

// Markdown writes the result as tables, each number beside those that it has to be seen with.
func (r *Result) Markdown(w io.Writer) error {
	out := &errWriter{w: w}
	out.printf("tidemark %s · %s · Postgres %s · Kafka %s · %s · %s · %s\n\n", r.Tidemark, r.Go, r.Postgres, r.Kafka, r.Machine, r.System,
		r.At.Format("2006-01-02 15:04 MST"))
	if len(r.Cases) > 1 {
		r.markdownCases(out)
		return out.err
	}
	for i := range r.Cases {
		r.Cases[i].markdown(out)
	}
	return out.err
}

func (r *Result) markdownCases(out *errWriter) {
	out.printf("| case | rows | raw reader | tidemark | of the raw reader | rows/s | protocol | processor a row | peak memory |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for i := range r.Cases {
		c := &r.Cases[i]
		lines := c.lines()
		if len(lines) < 2 {
			continue
		}
		l := lines[1]
		out.printf("| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", c.Name, comma(c.Load.Rows), lines[0].Time, l.Time, l.ratio(), l.Rate, l.Bytes, l.CPU, l.Peak)
	}
	if len(r.Cases) > 0 {
		out.printf("\nAs it is: %s; medians of %s.\n", r.Cases[0].describe(), plural(len(r.Cases[0].Raw), "run"))
	}
}

func (m *Measured) markdown(out *errWriter) {
	out.printf("%s; %s of protocol; medians of %s, the largest memory.\n\n", m.describe(), bytesOf(int(m.median(m.Raw).Bytes)), plural(len(m.Raw), "run"))
	out.printf("| | time, from the start of the process | of the raw reader | rows/s | first record | rows/s, first to last | processor a row | peak memory |\n|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, l := range m.lines() {
		out.printf("| %s | %s | %s | %s | %s | %s | %s | %s |\n", l.Name, l.Time, l.ratio(), l.Rate, l.First, l.After, l.CPU, l.Peak)
	}
	if len(m.Latency) > 0 {
		out.printf("\n| rows/s, rows a transaction | p50 | p95 | p99 | p99.9 | at most | COMMIT alone, p50 and p99 | processor a row |\n|---|--:|--:|--:|--:|--:|--:|--:|\n")
	}
	for i := range m.Latency {
		l := &m.Latency[i]
		out.printf("| %s, %s | %s | %s | %s | %s | %s | %s, %s | %.1f µs |\n", comma(l.Rate), comma(l.PerTransaction), durationOf(l.P50), durationOf(l.P95),
			durationOf(l.P99), durationOf(l.P999), durationOf(l.Max), durationOf(l.CommitP50), durationOf(l.CommitP99), l.CPUSeconds*1e6/float64(max(l.Rows, 1)))
	}
	if m.Together > 0 {
		out.printf("\nWriters, relay and a consumer together: %s rows/s.\n", comma(int(m.Together)))
	}
	if m.IdleCPU != nil {
		out.printf("\nDoing nothing: %.2f %% of a core.\n", *m.IdleCPU*100)
	}
}

// ratio is the ratio to the raw reader, with its spread if there were several runs.
func (l *line) ratio() string {
	if l.Spread == "" {
		return l.Ratio
	}
	return l.Ratio + " (" + l.Spread + ")"
}
