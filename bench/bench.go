// Package bench measures the relay beside a raw reader of the same log, in one run on one machine: how fast a backlog
// drains, what that costs, and how long a row is on its way when there is none.
//
// The one rule: everything is a ratio within a run. The raw reader reads the same rows through a copy of the same slot,
// in turns with the relay, which runs as the process that a user would start. Rates alone say more about the machine.
package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/tidemark/tidemark/devstack"
)

// Options say what is measured, and on which servers.
type Options struct {
	Source  string   // DSN of a Postgres that may be used for a scratch database; "": an embedded one
	Brokers []string // of a Kafka that may be used for scratch topics; none: an embedded one
	Load    Load
	Cases   []Case // measured one after the other; none: Load alone

	Runs  int           // of the backlog; medians are reported
	Rates []int         // rows a second for the latencies; 0 stands for half of what writers, relay and a consumer get through together
	For   time.Duration // how long each rate is kept up; 0: no latencies
	Idle  time.Duration // how long the relay is watched doing nothing; 0: not

	Beside     string // a command that drains the same backlog, see drainBeside; "": none
	Executable string // the tidemark to measure
	Version    string // of it
	Progress   func(string)
}

// Load says what the backlog is made of.
type Load struct {
	Rows           int      `json:"rows"`
	Size           int      `json:"payload_bytes"`
	PerTransaction int      `json:"rows_per_transaction"`
	Tables         int      `json:"tables"` // each with a topic of its own
	Keys           int      `json:"keys"`
	Partitions     int      `json:"partitions"`
	TLS            bool     `json:"tls,omitempty"`      // to Postgres and to Kafka, for the raw reader as well
	Settings       []string `json:"settings,omitempty"` // of the relay: key=value
}

// DefaultLoad is the backlog that the targets are about: rows of some 300 bytes on the wire.
func DefaultLoad() Load {
	return Load{Rows: 1_000_000, Size: 200, PerTransaction: 100, Tables: 1, Keys: 1000, Partitions: 6}
}

// Check returns what is wrong with it.
func (l *Load) Check() error {
	for _, n := range []struct {
		name        string
		value, most int
	}{
		{"rows", l.Rows, 1 << 40},
		{"size", l.Size, 16 << 20},
		{"transaction", l.PerTransaction, 1 << 40},
		{"tables", l.Tables, 100},
		{"keys", l.Keys, 1 << 40},
		{"partitions", l.Partitions, 10_000},
	} {
		if n.value < 1 || n.value > n.most {
			return fmt.Errorf("--%s %d: a number from 1 to %d", n.name, n.value, n.most)
		}
	}
	_, err := environment(l.Settings)
	return err
}

// Case is one row of a table of cases.
type Case struct {
	Name string
	Load Load
}

// Suite returns the cases in which a cliff would show, around a load. Each is some tens of megabytes.
func Suite(l Load) []Case {
	cases := []Case{{"as it is", l}}
	with := func(name string, change func(*Load)) {
		changed := l
		change(&changed)
		cases = append(cases, Case{name, changed})
	}
	for _, n := range []int{1, 1000, l.Rows} {
		with(fmt.Sprintf("%s a transaction", rowsOf(n)), func(l *Load) { l.PerTransaction = n })
	}
	for _, size := range []int{100, 1 << 10, 10 << 10, 100 << 10} {
		with(fmt.Sprintf("payload of %s", bytesOf(size)), func(l *Load) {
			l.Rows = max(min(l.Rows, l.Rows*300/size), 500)
			l.Size = size
		})
	}
	for _, n := range []int{1, 4, 64} {
		with(plural(n, "partition"), func(l *Load) { l.Partitions = n })
	}
	with("8 tables", func(l *Load) { l.Tables = 8 })
	with("one key", func(l *Load) { l.Keys = 1 })
	for _, codec := range []string{"none", "snappy", "zstd", "gzip"} {
		with("compression "+codec, func(l *Load) {
			l.Settings = append(slices.Clip(l.Settings), "kafka.compression="+codec)
		})
	}
	with("exactly once", func(l *Load) {
		l.Settings = append(slices.Clip(l.Settings), "delivery.mode=exactly_once", "checkpoint.store=kafka")
	})
	with("TLS on both sides", func(l *Load) { l.TLS = true })
	return cases
}

// Run measures. It leaves nothing behind, also when ctx ends.
func Run(ctx context.Context, o Options) (r *Result, err error) {
	s, err := openServers(ctx, &o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r = &Result{
		Machine: machine(), System: devstack.System(), Tidemark: o.Version, Go: runtime.Version(),
		At: time.Now().UTC().Truncate(time.Second), Postgres: s.postgresName, Kafka: s.kafkaName,
	}
	cases := o.Cases
	if len(cases) == 0 {
		cases = []Case{{"", o.Load}}
	}
	for _, c := range cases {
		if c.Load.TLS && s.tls == nil {
			if len(cases) == 1 {
				return nil, errNoTLS
			}
			o.Progress(fmt.Sprintf("%s is left out: %v", c.Name, errNoTLS))
			continue
		}
		measured, err := measure(ctx, &o, s, c)
		if err != nil {
			if c.Name != "" {
				err = fmt.Errorf("%s: %w", c.Name, err)
			}
			return nil, err
		}
		r.Cases = append(r.Cases, *measured)
	}
	return r, nil
}

// measure fills the backlog of one case and has it drained.
func measure(ctx context.Context, o *Options, s *servers, c Case) (m *Measured, err error) {
	say := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		if c.Name != "" {
			text = c.Name + ": " + text
		}
		o.Progress(text)
	}
	st, err := openStage(ctx, s, c.Load)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.close(ctx)) }()
	m = &Measured{Name: c.Name, Load: c.Load}
	began := time.Now()
	if err := st.fill(ctx, say); err != nil {
		return nil, err
	}
	m.FillSeconds = time.Since(began).Seconds()
	if s.cold {
		s.cold = false
		warm := func(n int64) { say("warming Kafka up, which does not count, %s", rowsOf(int(n))) }
		if _, err := st.drainRelay(ctx, o.Executable, warm); err != nil {
			return nil, err
		}
	}
	for i := range o.Runs {
		if err := st.round(ctx, o, m, i, say); err != nil {
			return nil, err
		}
	}
	if o.For > 0 || o.Idle > 0 {
		if err := st.steady(ctx, o, m, say); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// round has everybody drain the backlog once. Who begins changes from round to round.
func (st *stage) round(ctx context.Context, o *Options, m *Measured, i int, say func(string, ...any)) error {
	run := fmt.Sprintf("run %d of %d: ", i+1, o.Runs)
	raw := func() error {
		say("%sthe raw reader", run)
		d, err := st.drainRaw(ctx)
		if err == nil {
			m.Raw = append(m.Raw, d)
		}
		return err
	}
	relay := func() error {
		d, err := st.drainRelay(ctx, o.Executable, func(n int64) { say("%stidemark, %s", run, rowsOf(int(n))) })
		if err == nil {
			m.Relay = append(m.Relay, d)
		}
		return err
	}
	beside := func() error {
		if o.Beside == "" {
			return nil
		}
		d, err := st.drainBeside(ctx, o.Beside, func(n int64) { say("%sthe relay beside it, %s", run, rowsOf(int(n))) })
		if err == nil {
			m.Beside = append(m.Beside, d)
		}
		return err
	}
	turns := []func() error{raw, relay, beside}
	if i%2 == 1 {
		turns = []func() error{relay, raw, beside}
	}
	for _, turn := range turns {
		if err := turn(); err != nil {
			return err
		}
	}
	return nil
}
