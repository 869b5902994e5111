package consumer_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/inbox"
	"github.com/tidemark/tidemark/inbox/consumer"
)

// consume is the process that is killed: consume DSN BROKERS TOPIC. It ends with SIGTERM.
func consume(args []string) error {
	dsn, brokers, topic := args[0], strings.Split(args[1], ","), args[2]
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	pool, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return err
	}
	defer pool.Close()
	cfg := config(brokers, topic, pool)
	cfg.Hooks.Error = func(err error) { fmt.Fprintln(os.Stderr, err) }
	var mu sync.Mutex
	failed := make(map[string]int)
	cfg.Handle = func(ctx context.Context, tx pgx.Tx, e inbox.Event) error {
		if err := book(ctx, tx, e); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "select pg_sleep(0.003)"); err != nil { // between the effect and its commit
			return err
		}
		mu.Lock()
		failed[e.ID]++
		n := failed[e.ID]
		mu.Unlock()
		switch {
		case strings.HasSuffix(e.ID, "7") && n < 3: // fails twice
			return errRefused
		case e.ID == poisoned:
			var mended int
			if err := tx.QueryRow(ctx, "select count(*) from mended").Scan(&mended); err != nil || mended == 0 {
				return errRefused
			}
		}
		return nil
	}
	c, err := consumer.New(cfg)
	if err != nil {
		return err
	}
	return c.Run(ctx)
}

const poisoned = "3-20"

// member starts a consumer as a process of its own.
func member(t *testing.T, l ledger, brokers []string, topic string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "consume", l.dsn, strings.Join(brokers, ","), topic) //nolint:gosec // ourselves
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	return cmd
}

// TestEachEventOnceWhateverHappensToItsConsumers: members join, are killed and stopped while events come, some of which
// fail a few times, one until it is mended; records come twice, and some belong to a transaction that is aborted.
func TestEachEventOnceWhateverHappensToItsConsumers(t *testing.T) {
	t.Parallel()
	brokers, l := stacktest.Kafka(t), newLedger(t)
	topic, client := topic(t, brokers, 6)
	const keys, events = 30, 100
	var written sync.WaitGroup
	written.Go(func() { write(t, client, brokers, topic, keys, events) })
	defer written.Wait()

	kill := func(cmd *exec.Cmd) { must(t, cmd.Process.Kill()); _ = cmd.Wait() }
	first := member(t, l, brokers, topic)
	l.mustHave(t, 200, "effects")
	second := member(t, l, brokers, topic) // a rebalance under load
	l.mustHave(t, 700, "effects")
	kill(first)
	third := member(t, l, brokers, topic)
	l.mustHave(t, 1500, "effects")
	must(t, second.Process.Signal(syscall.SIGTERM))
	if err := second.Wait(); err != nil {
		t.Errorf("the member that was stopped: %v", err)
	}
	fourth := member(t, l, brokers, topic)
	l.mustHave(t, 2000, "effects")
	kill(third)
	kill(fourth)
	last := member(t, l, brokers, topic)
	defer kill(last)

	written.Wait()
	l.mustHave(t, keys*events-(events-19), "effects")
	l.mustHave(t, events-19, "inbox_parked")
	_, err := l.pool.Exec(t.Context(), "insert into mended default values")
	must(t, err)
	_, err = inbox.Release(t.Context(), l.pool, topic)
	must(t, err)
	l.mustHave(t, keys*events, "effects")
	eventually(t, func() bool { n, err := l.count(t.Context(), "inbox_parked"); return n == 0 && err == nil }, func() string { return "some are parked" })
	l.mustBalance(t, keys, events)
}

// write produces the events, the n-th of each key before the next, with now and then another copy of one, and records
// of a transaction that is aborted.
func write(t *testing.T, client *kgo.Client, brokers []string, topic string, keys, events int) {
	t.Helper()
	aborting, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.TransactionalID(topic))
	if err != nil {
		t.Error(err)
		return
	}
	defer aborting.Close()
	for n := 1; n <= events; n++ {
		var records []*kgo.Record
		for k := range keys {
			records = append(records, record(topic, fmt.Sprint(k), n))
			if n > 5 && (n+k)%9 == 0 {
				records = append(records, record(topic, fmt.Sprint(k), n-5))
			}
		}
		if err := client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Error(err)
			return
		}
		if n%20 == 0 {
			err := aborting.BeginTransaction()
			if err == nil {
				r := record(topic, "1", n)
				r.Headers[0].Value = fmt.Appendf(nil, "aborted-%d", n)
				if err = aborting.ProduceSync(t.Context(), r).FirstErr(); err == nil {
					err = aborting.EndTransaction(t.Context(), kgo.TryAbort)
				}
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}
}
