package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/tidemark/tidemark/test/trial"
)

// report is what the cases have shown, and on what.
type report struct {
	trial.Setting
	Cases []result `json:"cases"`
}

// result is what one case has shown. A megabyte is 1,000,000 bytes.
type result struct {
	Name       string    `json:"case"`
	What       string    `json:"what"`
	Rows       int       `json:"rows"` // committed
	Seconds    float64   `json:"seconds"`
	Peak       float64   `json:"peak_mb"` // VmHWM, the most that was ever resident
	Limit      float64   `json:"limit_mb"`
	Lost       int       `json:"lost"`
	Doubled    int       `json:"doubled"`
	Misordered int       `json:"misordered"`
	Resident   []float64 `json:"resident_mb"`      // the most of each second
	Broken     string    `json:"broken,omitempty"` // what promise, and how
}

// line is the result in one line.
func (r *result) line() string {
	line := fmt.Sprintf("%d rows, peak %.1f MB, limit %.0f MB, %d lost, %d doubled, %d misordered, %.0f s: ",
		r.Rows, r.Peak, r.Limit, r.Lost, r.Doubled, r.Misordered, r.Seconds)
	if r.Broken != "" {
		return line + "BROKEN: " + r.Broken
	}
	return line + "kept"
}

// Markdown writes the report for people.
func (r *report) Markdown(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, `# Memory

The built binary with its default configuration, a real Postgres and a real Kafka, and a ledger that knows what was
committed and reads back every record. *Peak*: the most memory that the process has ever held, as the kernel counts it
(VmHWM), the program itself included; 1 MB is 1,000,000 bytes.

| | |
|---|---|
| date | %s |
| command | `+"`%s`"+` |
| tidemark | %s |
| machine | %s, %d cores, %s |

| case | rows | took | peak | limit | lost | doubled | misordered | |
|---|--:|--:|--:|--:|--:|--:|--:|---|
`, r.Date.Format("2006-01-02 15:04 MST"), r.Command, r.Tidemark, r.System, r.Cores, r.Memory)
	for i := range r.Cases {
		c := &r.Cases[i]
		verdict := "kept"
		if c.Broken != "" {
			verdict = "**broken**"
		}
		fmt.Fprintf(&b, "| %s | %d | %.0f s | %.1f MB | %.0f MB | %d | %d | %d | %s |\n", c.Name, c.Rows, c.Seconds, c.Peak, c.Limit, c.Lost, c.Doubled, c.Misordered, verdict)
	}
	b.WriteString("\n## The cases\n\n")
	for i := range r.Cases {
		c := &r.Cases[i]
		fmt.Fprintf(&b, "- **%s**: %s.\n", c.Name, c.What)
		if c.Broken != "" {
			fmt.Fprintf(&b, "\n  Broken:\n\n  ```\n  %s\n  ```\n", strings.ReplaceAll(c.Broken, "\n", "\n  "))
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}
