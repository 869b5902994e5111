// Command operate measures the commands of an operator on a table of a million rows, with the built binary on a real Postgres
// and a real Kafka: how long they take, the most memory that they hold, and what they cost a writer beside them. It asserts
// nothing; docs/operate.md has what it has printed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/test/trial"
)

func main() {
	rows := flag.Int("rows", 1_000_000, "how many rows the table has")
	verbose := flag.Bool("verbose", false, "show what tidemark logs and prints")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *rows, *verbose)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "operate:", err)
		os.Exit(1)
	}
}

// stage is a table with its servers.
type stage struct {
	binary, dir, dsn string
	environ          []string
	db               *pgx.Conn
	verbose          bool
}

func run(ctx context.Context, rows int, verbose bool) (err error) {
	binary, err := trial.Build(ctx)
	if err != nil {
		return err
	}
	// It commits as servers do.
	durable := map[string]string{
		"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "max_wal_size": "4GB",
		"log_lock_waits": "on", "deadlock_timeout": "50ms",
	} // which makes the server tell of waits that are longer
	waits := &lockWaits{}
	pg, err := devstack.StartPostgres(ctx, devstack.PostgresOptions{Settings: durable, Log: waits})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pg.Close()) }()
	kafka, err := devstack.StartKafka(ctx, devstack.KafkaOptions{Throughput: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kafka.Close()) }()
	dir, err := os.MkdirTemp("", "tidemark-operate-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := &stage{binary: binary, dir: dir, dsn: pg.DSN("postgres"), verbose: verbose}
	s.environ = []string{
		"PATH=" + os.Getenv("PATH"), "TIDEMARK_SOURCE_DSN=" + s.dsn, "TIDEMARK_KAFKA_BROKERS=" + strings.Join(kafka.Brokers(), ","),
		"TIDEMARK_CHECKPOINT_PATH=" + filepath.Join(dir, "checkpoint"), "TIDEMARK_HTTP_LISTEN=", "TIDEMARK_DELIVERY_ON_POISON=park",
		"TIDEMARK_KAFKA_CREATE_TOPICS_PARTITIONS=3", "TIDEMARK_OUTBOX_0_COLUMNS_TIMESTAMP=created_at",
	}
	if s.db, err = pgx.Connect(ctx, s.dsn); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.db.Close(context.WithoutCancel(ctx))) }()
	fmt.Printf("%d rows of about 300 B, %d cores, Postgres and Kafka on the same machine\n\n| command | took | peak memory | says |\n|---|--:|--:|---|\n", rows, runtime.NumCPU())
	for _, step := range []func(context.Context, int) error{s.fill, s.receipts, s.verify, s.prune} {
		if err := step(ctx, rows); err != nil {
			return err
		}
	}
	fmt.Printf("Waits for a lock of 50 ms and more that Postgres has logged, in all of this: %d.\n", waits.n.Load())
	return nil
}

// lockWaits counts what the server says of long waits for locks.
type lockWaits struct{ n atomic.Int64 }

// Write takes lines of the server's log.
func (w *lockWaits) Write(text []byte) (int, error) {
	w.n.Add(int64(strings.Count(string(text), "still waiting for")))
	return len(text), nil
}

// tidemark runs a command to its end and prints what it took. An exit status of 1 is an answer, too.
func (s *stage) tidemark(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, s.binary, args...) //nolint:gosec // ours
	cmd.Env, cmd.Dir = s.environ, s.dir
	var out, log strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &log
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 && !strings.HasPrefix(name, "run") {
		err = nil
	}
	if s.verbose || err != nil {
		fmt.Fprintf(os.Stderr, "%s%s", out.String(), log.String())
	}
	if err != nil {
		return fmt.Errorf("tidemark %s: %w", strings.Join(args, " "), err)
	}
	peak := "unknown"
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok && runtime.GOOS == "linux" {
		peak = fmt.Sprintf("%.1f MB", float64(usage.Maxrss)*1024/1e6)
	}
	says, _, _ := strings.Cut(strings.Join(strings.Fields(out.String()), " "), ". ")
	fmt.Printf("| %s | %.2f s | %s | %.120s |\n", name, took.Seconds(), peak, says)
	return nil
}

// fill makes the table and publishes it, and leaves a row of each kind that a receipt is asked for.
func (s *stage) fill(ctx context.Context, rows int) error {
	const each = 10_000
	if _, err := s.db.Exec(ctx, `create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text not null,
		aggregateid text not null, type text not null default 'placed', payload text, created_at timestamptz not null default clock_timestamp())`); err != nil {
		return err
	}
	if err := s.tidemark(ctx, "run --once (first start)", "run", "--once"); err != nil {
		return err
	}
	for done := 0; done < rows; done += each {
		_, err := s.db.Exec(ctx, `insert into outbox (aggregatetype, aggregateid, payload)
			select 'order', (i % 1000)::text, repeat(md5(i::text), 6) from generate_series($1::int, $2::int) i`, done+1, min(done+each, rows))
		if err != nil {
			return err
		}
	}
	if _, err := s.db.Exec(ctx, "insert into outbox (aggregatetype, aggregateid) values ('no topic', 'parked')"); err != nil {
		return err
	}
	return s.tidemark(ctx, "run --once (publishes them)", "run", "--once")
}

func (s *stage) receipts(ctx context.Context, _ int) error {
	id := func(sql string) (id string, err error) { return id, s.db.QueryRow(ctx, sql).Scan(&id) }
	for _, c := range []struct{ name, sql string }{
		{"receipt, fresh", "select id::text from outbox where aggregatetype = 'order' order by created_at desc limit 1"},
		{"receipt, old", "select id::text from outbox order by created_at limit 1"},
		{"receipt, parked", "select id::text from outbox where aggregatetype = 'no topic'"},
		{"receipt, unpublished", "insert into outbox (aggregatetype, aggregateid) values ('order', 'new') returning id::text"},
		{"receipt, unknown", "select gen_random_uuid()::text"},
	} {
		text, err := id(c.sql)
		if err != nil {
			return err
		}
		if err := s.tidemark(ctx, c.name, "receipt", text); err != nil {
			return err
		}
	}
	return s.tidemark(ctx, "run --once (the unpublished one)", "run", "--once")
}

func (s *stage) verify(ctx context.Context, _ int) error {
	return s.tidemark(ctx, "verify", "verify")
}

// prune deletes everything, beside a writer.
func (s *stage) prune(ctx context.Context, _ int) error {
	quiet, err := s.beside(ctx, func() error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Second):
			return nil
		}
	})
	if err != nil {
		return err
	}
	busy, err := s.beside(ctx, func() error { return s.tidemark(ctx, "prune --older-than 1s", "prune", "--older-than", "1s") })
	if err != nil {
		return err
	}
	fmt.Printf("\nA writer that commits a row every 2 ms, alone for 10 s: %s. During the prune: %s.\n", quiet, busy)
	return nil
}

// beside has a writer commit rows, one every 2 ms, until work is done, and says how long its commits took.
func (s *stage) beside(ctx context.Context, work func() error) (string, error) {
	conn, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // everything has been said by then
	done := make(chan error, 1)
	go func() { done <- work() }() // ends with ctx
	var longest time.Duration
	n, slow := 0, 0
	for {
		select {
		case err := <-done:
			return fmt.Sprintf("%d commits, the longest %.1f ms, %d over 100 ms", n, float64(longest.Microseconds())/1000, slow), err
		case <-time.After(2 * time.Millisecond):
		}
		began := time.Now()
		if _, err := conn.Exec(ctx, "insert into outbox (aggregatetype, aggregateid, payload) values ('order', 'beside', 'x')"); err != nil {
			return "", errors.Join(err, <-done)
		}
		took := time.Since(began)
		longest = max(longest, took)
		n++
		if took > 100*time.Millisecond {
			slow++
		}
	}
}
