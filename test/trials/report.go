package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/test/trial"
)

// report is what a run of trials has shown, and on what.
type report struct {
	trial.Setting
	Mode     string   `json:"delivery_mode"`
	Store    string   `json:"checkpoint_store"`
	Postgres string   `json:"postgres"`
	Kafka    string   `json:"kafka"`
	Rate     float64  `json:"rows_per_second"`
	Trials   []result `json:"trials"`
}

func newReport(ctx context.Context, o *options, s *servers) *report {
	r := &report{
		Mode: o.mode, Store: o.store,
		Setting:  trial.NewSetting(ctx, "./test/trials", o.args, s.binary, o.seed),
		Postgres: "unknown", Kafka: "unknown", Rate: o.rate,
	}
	if conn, err := pgx.Connect(ctx, s.postgres.DSN("postgres")); err == nil {
		_ = conn.QueryRow(ctx, "select split_part(current_setting('server_version'), ' ', 1)").Scan(&r.Postgres) // stays unknown
		_ = conn.Close(ctx)                                                                                      // nothing depends on it
	}
	if versions, err := s.admin.ApiVersions(ctx); err == nil {
		for _, v := range versions {
			r.Kafka = strings.TrimPrefix(v.VersionGuess(), "v")
		}
	}
	return r
}

// Markdown writes the report for people.
func (r *report) Markdown(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, `# Trials

Real servers, the built binary, one fault after the other, and a ledger that knows what was committed and reads back every
record. *Lost*: committed and not in Kafka. *Doubled*: in Kafka more than once. *Misordered*: behind a later event of its
key. *Phantom*: in Kafka and rolled back. *Torn*: with exactly_once, outside the Kafka transaction of the others of its
database transaction. *Suppressed*: what tidemark read again after a restart and recognized as
published. *Recovery*: from the moment at which the fault is over until an event is in Kafka that was written after that,
median and maximum.

| | |
|---|---|
| date | %s |
| command | `+"`%s`"+` |
| delivery.mode | %s |
| checkpoint.store | %s |
| tidemark | %s |
| Postgres | %s |
| Kafka | %s |
| machine | %s, %d cores, %s |

`, r.Date.Format("2006-01-02 15:04 MST"), r.Command, r.Mode, r.Store, r.Tidemark, r.Postgres, r.Kafka, r.System, r.Cores, r.Memory)
	b.WriteString("| fault | times | committed | lost | doubled | misordered | phantom | torn | suppressed | recovery | |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n")
	var sum result
	for i := range r.Trials {
		t := &r.Trials[i]
		if t.Skipped != "" {
			fmt.Fprintf(&b, "| %s | | | | | | | | | | skipped |\n", t.Fault)
			continue
		}
		sum.add(t)
		remark := t.remark()
		if t.Broken != "" {
			remark = "**broken**"
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %d | %d | %d | %.1f s, %.1f s | %s |\n", t.Fault, t.Injections, t.Committed,
			t.Lost, t.Doubled, t.Misordered, t.Phantom, t.Torn, t.Suppressed, t.Recovery.Median, t.Recovery.Max, remark)
	}
	fmt.Fprintf(&b, "| **all** | %d | %d | %d | %d | %d | %d | %d | %d | | |\n\n## What each fault does\n\n", sum.Injections, sum.Committed,
		sum.Lost, sum.Doubled, sum.Misordered, sum.Phantom, sum.Torn, sum.Suppressed)
	for i := range r.Trials {
		t := &r.Trials[i]
		fmt.Fprintf(&b, "- **%s**: %s", t.Fault, t.What)
		if t.Note != "" {
			fmt.Fprintf(&b, "; %s", t.Note)
		}
		if t.Skipped != "" {
			fmt.Fprintf(&b, ". Skipped: %s", t.Skipped)
		}
		b.WriteString(".\n")
		if t.Broken != "" {
			fmt.Fprintf(&b, "\n  Broken:\n\n  ```\n  %s\n  ```\n", strings.ReplaceAll(t.Broken, "\n", "\n  "))
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (t *result) add(o *result) {
	t.Injections += o.Injections
	t.Committed += o.Committed
	t.Lost += o.Lost
	t.Doubled += o.Doubled
	t.Misordered += o.Misordered
	t.Phantom += o.Phantom
	t.Torn += o.Torn
	t.Suppressed += o.Suppressed
}

// prefixed shows what tidemark logs, with the fault's name before each line.
func prefixed(name string) io.Writer { return &prefixWriter{prefix: name + ": "} }

type prefixWriter struct {
	prefix string
	mu     sync.Mutex
}

func (p *prefixWriter) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Fprint(os.Stderr, p.prefix, strings.TrimSuffix(line, "\n"), "\n"); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}
