// Package doctor looks at everything that has to be right before a relay works and while it does, on both sides, and says
// of each what it found and what to do. The one rule: it changes nothing and holds up nobody. What it cannot find out it says
// so of, and it comes to an end whatever does not answer.
package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

// Options are what a relay would be started with, as far as it can be looked at.
type Options struct {
	Source          wal.Options
	Tables          []decode.Table
	Messages        []decode.LogicalMessage
	Kafka           publish.Options
	Store           Store
	CheckpointTopic string // where Store keeps checkpoints; "" if not in Kafka

	Create          bool   // publication and slot may be created on the first start
	Failover        string // auto, true, false
	WALBudget       int64  // bytes; 0: none
	ExactlyOnce     bool   // Kafka.TransactionalID is set then
	Prunes          bool   // rows are deleted while it runs, through Source.AdminDSN
	ResumeDedupe    bool   // topics are read at a start
	OnPoison        string // stop, dead_letter, park
	DeadLetterTopic string
	HTTPListen      string // "": none
	// HTTPTLS returns what it takes to ask a relay there, or what is wrong with the certificate; nil: it speaks HTTP.
	HTTPTLS func() (*tls.Config, error)

	// SourceName is the text of the tidemark-source header.
	SourceName func(wal.System) string
	// Judge says what a relay would do about slot and checkpoint; an error is why it would not start.
	Judge func(*wal.Slot, *checkpoint.Checkpoint, wal.System, wal.History) (what string, err error)
	// SamePublication refuses a publication that is not the one that was stored.
	SamePublication func(was *checkpoint.Publication, is wal.Fingerprint) error
	// Parked returns how many events are parked; there is false if the table is not.
	Parked func(context.Context, wal.System) (n int64, there bool, err error)
}

// Store is where the checkpoint is.
type Store interface {
	Load(context.Context) (*checkpoint.Checkpoint, error)
	String() string
}

// State is what a check came to.
type State string

// The states.
const (
	OK      State = "ok"
	Warn    State = "warn" // it works, or will, and should be seen to
	Fail    State = "fail" // it does not work
	Skipped State = "skipped"
)

// Finding is one line of the report.
type Finding struct {
	Check   string `json:"check"` // such as source.wal_level
	State   State  `json:"state"`
	Finding string `json:"finding"` // of a skipped check: why
	Fix     string `json:"fix"`     // "" if there is nothing to do
	// SQL are the statements of the fix that can be run as they are, in this order.
	SQL []string `json:"sql,omitempty"`
	// Config is what the fix sets in the configuration, by key.
	Config map[string]string `json:"config,omitempty"`
}

// Report is what was found, in an order that is the same each time.
type Report struct {
	Checks  []Finding     `json:"checks"`
	Counts  map[State]int `json:"counts"`
	Seconds float64       `json:"seconds"`
}

// limit is how long all of it may take.
const limit = 40 * time.Second

// Run looks at both sides at the same time.
func Run(ctx context.Context, o Options) *Report {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s := &source{Options: o}
	defer s.close()
	k := &kafka{Options: o}
	local := &notes{}
	routes := make(chan []*route, 1) // what Kafka is asked about is in the source; closed without if that does not tell
	var both sync.WaitGroup
	both.Go(func() {
		defer close(routes)
		if s.examine(ctx); s.sampled {
			routes <- s.routes
		}
	})
	both.Go(func() { k.examine(ctx, routes) })
	both.Go(func() { local.listen(ctx, o.HTTPListen, o.HTTPTLS) })
	both.Wait()
	s.examineStores(ctx, k.away())
	r := &Report{Counts: map[State]int{OK: 0, Warn: 0, Fail: 0, Skipped: 0}}
	r.Checks = append(r.Checks, s.list(sourceChecks)...)
	r.Checks = append(r.Checks, k.list(kafkaChecks)...)
	r.Checks = append(r.Checks, s.list(storeChecks)...)
	r.Checks = append(r.Checks, local.list([]string{checkListen})...)
	for i := range r.Checks {
		r.Counts[r.Checks[i].State]++
	}
	r.Seconds = time.Since(began).Seconds()
	return r
}

// notes collects the findings of one side. One goroutine writes at a time.
type notes struct {
	found []Finding
	why   string // why what was not looked at was not
}

func (n *notes) add(f Finding) { n.found = append(n.found, f) }

func (n *notes) ok(check, format string, args ...any) {
	n.add(Finding{Check: check, State: OK, Finding: fmt.Sprintf(format, args...)})
}

func (n *notes) warn(check, finding, fix string, sql ...string) {
	n.add(Finding{Check: check, State: Warn, Finding: finding, Fix: fix, SQL: sql})
}

func (n *notes) fail(check, finding, fix string, sql ...string) {
	n.add(Finding{Check: check, State: Fail, Finding: finding, Fix: fix, SQL: sql})
}

func (n *notes) skip(check, why string) { n.add(Finding{Check: check, State: Skipped, Finding: why}) }

// failed notes an error, whose end may say what to do.
func (n *notes) failed(check string, err error) {
	finding, fix := parts(err)
	n.fail(check, finding, fix)
}

// list returns the findings in the order of the checks. A check without any was not come to.
func (n *notes) list(order []string) []Finding {
	var out []Finding
	for _, check := range order {
		seen := false
		for _, f := range n.found {
			if f.Check == check {
				seen = true
				f.Finding, f.Fix = oneLine(f.Finding), oneLine(f.Fix)
				out = append(out, f)
			}
		}
		if !seen {
			out = append(out, Finding{Check: check, State: Skipped, Finding: n.why})
		}
	}
	return out
}

// parts takes an error apart into what has happened and what to do.
func parts(err error) (finding, fix string) {
	var hint interface{ Hint() string }
	if errors.As(err, &hint) {
		fix = hint.Hint()
	}
	return strings.TrimPrefix(strings.TrimRight(strings.TrimSuffix(err.Error(), fix), ":;. "), "refused: "), fix
}

// oneLine joins the lines of a text, and takes out what a terminal would obey.
func oneLine(s string) string {
	var out strings.Builder
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || out.Len() == 0:
		case strings.HasSuffix(out.String(), ":"):
			out.WriteString(" ")
		default:
			out.WriteString("; ")
		}
		out.WriteString(line)
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, out.String())
}
