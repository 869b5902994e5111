package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// report is what the cases have shown, and on what.
type report struct {
	Date     time.Time `json:"date"`
	Seed     uint64    `json:"seed"`
	Command  string    `json:"command"`
	Tidemark string    `json:"tidemark"`
	System   string    `json:"system"`
	Cores    int       `json:"cores"`
	Memory   string    `json:"memory"`
	Cases    []result  `json:"cases"`
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

func newReport(ctx context.Context, o *options, binary string) *report {
	r := &report{
		Date: time.Now().UTC().Truncate(time.Second), Seed: o.seed, Command: command(o.seed), Tidemark: "unknown",
		System: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU(), Memory: memory(),
	}
	if out, err := exec.CommandContext(ctx, binary, "version").Output(); err == nil {
		r.Tidemark = strings.Join(strings.Fields(string(out)), " ")
	}
	return r
}

// command is what runs the cases again.
func command(seed uint64) string {
	args := strings.Join(os.Args[1:], " ")
	if !strings.Contains(args, "-seed") {
		args = strings.TrimSpace(fmt.Sprintf("--seed %d %s", seed, args))
	}
	return "go run ./test/memory " + args
}

// memory is the machine's, where /proc tells it.
func memory() string {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return "unknown"
	}
	var kilobytes int64
	if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kilobytes); err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%.0f GiB", float64(kilobytes)/(1<<20))
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

func (r *report) json(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

func (r *report) markdown(w io.Writer) error {
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
