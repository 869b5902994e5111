package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// settingVariable returns the environment variable of a configuration key.
func settingVariable(key string) string {
	return "TIDEMARK_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// environment turns key=value into variables.
func environment(settings []string) ([]string, error) {
	var variables []string
	for _, s := range settings {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--set %s: write key=value, such as kafka.compression=zstd", s)
		}
		variables = append(variables, settingVariable(key)+"="+value)
	}
	return variables, nil
}

// startRelay starts the relay as a user would, with its configuration in the environment and without any other.
func (st *stage) startRelay(ctx context.Context, executable, slot, topicPrefix string) (*process, error) {
	settings := []string{
		"source.dsn=" + st.source,
		"source.slot=" + slot,
		"source.publication=" + publication,
		"source.create=false",
		"kafka.brokers=" + strings.Join(st.target, ","),
		"checkpoint.path=" + filepath.Join(st.dir, slot),
		"checkpoint.topic=" + checkpointTopic(slot),
		"http.listen=",
		"log.format=console",
	}
	for i := range st.load.Tables {
		settings = append(settings,
			fmt.Sprintf("outbox.%d.table=%s", i, st.table(i)),
			fmt.Sprintf("outbox.%d.topic=%s{aggregatetype}", i, topicPrefix))
	}
	if st.load.TLS {
		settings = append(settings, st.tls.settings()...)
	}
	if slices.Contains(st.load.Settings, "checkpoint.store=kafka") {
		if err := st.createCheckpointTopic(ctx, slot); err != nil {
			return nil, err
		}
	}
	variables, err := environment(append(settings, st.load.Settings...))
	if err != nil {
		return nil, err
	}
	return start(ctx, variables, executable, "run", "--config", os.DevNull)
}

// drainRelay has tidemark drain the backlog, from the start of its process to the last record.
func (st *stage) drainRelay(ctx context.Context, executable string, progress func(int64)) (Drain, error) {
	return st.drain(ctx, progress, func(slot, prefix string) (*process, error) {
		return st.startRelay(ctx, executable, slot, prefix)
	})
}

// drainBeside has another relay drain the backlog: a shell command that is started with the variables below, writes to the
// topics BENCH_TOPIC_PREFIX followed by aggregatetype, and goes on until SIGTERM.
func (st *stage) drainBeside(ctx context.Context, command string, progress func(int64)) (Drain, error) {
	return st.drain(ctx, progress, func(slot, prefix string) (*process, error) {
		dir := filepath.Join(st.dir, slot)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make a directory for %s: %w", command, err)
		}
		host, port, user, password, err := address(st.dsn)
		if err != nil {
			return nil, err
		}
		var tables []string
		for i := range st.load.Tables {
			tables = append(tables, st.table(i))
		}
		return start(ctx, []string{
			"BENCH_DIR=" + dir, "BENCH_HOST=" + host, "BENCH_PORT=" + port, "BENCH_USER=" + user, "BENCH_PASSWORD=" + password,
			"BENCH_DATABASE=" + st.name, "BENCH_TABLES=" + strings.Join(tables, ","), "BENCH_SLOT=" + slot, "BENCH_PUBLICATION=" + publication,
			"BENCH_BROKERS=" + strings.Join(st.brokers, ","), "BENCH_TOPIC_PREFIX=" + prefix,
		}, "/bin/sh", "-c", "exec "+command)
	})
}

const (
	pollInterval = 10 * time.Millisecond  // between two looks at the ends of the topics
	settleTime   = 500 * time.Millisecond // without anything new it is over
	patience     = 90 * time.Second       // without anything new it has failed
)

// drain starts a reader on a copy of the slot and watches, through the ends of its topics, what arrives.
func (st *stage) drain(ctx context.Context, progress func(int64), start func(slot, prefix string) (*process, error)) (d Drain, err error) {
	slot, err := st.slot(ctx)
	if err != nil {
		return Drain{}, err
	}
	topics, err := st.createTopics(ctx, slot+"-")
	if err != nil {
		return Drain{}, err
	}
	p, err := start(slot, slot+"-")
	if err != nil {
		return Drain{}, err
	}
	d, err = st.watch(ctx, p, topics, progress)
	if errStop := p.stop(); err == nil {
		err = errStop
	}
	if err != nil {
		return Drain{}, err
	}
	if state, ok := p.cmd.ProcessState.SysUsage().(*syscall.Rusage); ok && d.CPUSeconds == 0 { // the system does not tell of one that runs
		d.CPUSeconds = float64(state.Utime.Sec+state.Stime.Sec) + float64(state.Utime.Usec+state.Stime.Usec)/1e6
	}
	if err := st.deleteTopics(ctx); err != nil {
		return Drain{}, err
	}
	return d, st.dropSlot(ctx, slot)
}

// watch returns when everything has arrived.
func (st *stage) watch(ctx context.Context, p *process, topics []string, progress func(int64)) (d Drain, err error) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var there int64
	last := p.began // when something arrived
	var said time.Time
	for {
		select {
		case <-p.done:
			return Drain{}, p.ended()
		case <-ctx.Done():
			return Drain{}, ctx.Err()
		case <-ticker.C:
		}
		n, err := st.records(ctx, topics)
		if err != nil {
			return Drain{}, err
		}
		now := time.Now()
		if now.Sub(said) > time.Second {
			said = now
			progress(n)
		}
		if n > there {
			since := now.Sub(p.began).Seconds()
			if there == 0 {
				d.FirstSeconds = since
			}
			if k := len(d.Curve); k == 0 || since-d.Curve[k-1].Seconds > 0.1 || n >= int64(st.load.Rows) {
				d.Curve = append(d.Curve, Point{since, n})
			}
			there, last = n, now
			d.Seconds, d.CPUSeconds, d.PeakBytes = since, p.cpu().Seconds(), p.peak()
			continue
		}
		switch {
		case there >= int64(st.load.Rows) && now.Sub(last) > settleTime:
			d.Records = there
			return d, nil
		case now.Sub(last) > patience:
			return Drain{}, fmt.Errorf("%s has published %d of %d rows, and nothing for %v: %s", p.cmd.Path, there, st.load.Rows, patience, p.log.String())
		}
	}
}

// records is how many records consumers can read in the topics. With transactions their markers count, too.
func (st *stage) records(ctx context.Context, topics []string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, serverLimit)
	defer cancel()
	ends, err := st.admin.ListCommittedOffsets(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	if kerr.IsRetriable(err) {
		return 0, nil // a broker that has not heard of the new topics yet
	}
	if err != nil {
		return 0, fmt.Errorf("ask for the ends of the topics: %w", err)
	}
	var n int64
	ends.Each(func(end kadm.ListedOffset) { n += max(end.Offset, 0) })
	return n, nil
}
