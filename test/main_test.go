// Package test_test drives the built binary from outside, against a real Postgres and, where Java is, a real Kafka. What
// was committed and what arrived is judged by the ledger.
package test_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/test/ledger"
	"github.com/tidemark/tidemark/test/trial"
)

func TestMain(m *testing.M) { stacktest.Main(m) }

// patience is how long nothing may arrive before what is missing counts as lost.
const patience = time.Minute

//nolint:gochecknoglobals // built once for all tests, when the first one asks
var built = sync.OnceValues(func() (string, error) { return trial.Build(context.Background()) })

func binary(t *testing.T) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// seed returns a seed for the test, and prints it. TIDEMARK_TEST_SEED chooses it.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := rand.Uint64()
	if text := os.Getenv("TIDEMARK_TEST_SEED"); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("TIDEMARK_TEST_SEED: %v", err)
		}
	}
	t.Logf("TIDEMARK_TEST_SEED=%d", s)
	return s
}

// postgresOptions are those of every test: CI runs them with other versions, too.
func postgresOptions() devstack.PostgresOptions {
	return devstack.PostgresOptions{
		Version:  os.Getenv("TIDEMARK_TEST_POSTGRES"),
		Settings: map[string]string{"max_prepared_transactions": "50"},
	}
}

// brokers returns a real Kafka's address where there can be one, else that of an imitation in this process.
func brokers(t *testing.T) []string {
	t.Helper()
	if err := devstack.HaveKafka(); err != nil && !strings.Contains(os.Getenv(stacktest.RequireEnv), "kafka") {
		t.Logf("on an imitation of Kafka: %v", err)
		return stacktest.FakeKafka(t)
	}
	return stacktest.Kafka(t)
}

// arena is a trial.Arena that fails the test.
type arena struct {
	*trial.Arena
	t      *testing.T
	seed   uint64
	relays []*trial.Relay
	own    *devstack.Postgres // nil on the shared server
	way    *devstack.Proxy    // to one side, if the test has cut it off
}

// newArena makes an arena on the shared servers.
func newArena(t *testing.T) *arena {
	t.Helper()
	return newArenaOn(t, stacktest.Database(t, postgresOptions()), brokers(t))
}

// newArenaOn makes an arena on an empty database and a Kafka.
func newArenaOn(t *testing.T, dsn string, brokers []string) *arena {
	t.Helper()
	return makeArena(t, trial.Options{DSN: dsn, Brokers: brokers})
}

// newExactlyOnceArena makes one with delivery.mode: exactly_once. It takes a real Kafka: the imitation lets a producer go on
// that was fenced, and does not give each transaction an epoch of its own, by which the ledger knows them.
func newExactlyOnceArena(t *testing.T) *arena {
	t.Helper()
	return makeArena(t, trial.Options{DSN: stacktest.Database(t, postgresOptions()), Brokers: stacktest.Kafka(t), ExactlyOnce: true})
}

func makeArena(t *testing.T, o trial.Options) *arena {
	t.Helper()
	o.Binary, o.Dir, o.Seed = binary(t), t.TempDir(), seed(t)
	made, err := trial.NewArena(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	a := &arena{Arena: made, t: t, seed: o.Seed}
	t.Cleanup(func() {
		for i, r := range a.relays {
			if err := r.Kill(); err != nil {
				t.Error(err)
			}
			if log := r.Log(); strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic:") || strings.Contains(log, "goroutine 1 [") {
				t.Errorf("tidemark %d has panicked or raced:\n%s", i, end(log, 8000))
			}
		}
		if t.Failed() && len(a.relays) > 0 {
			t.Logf("the end of the log of the last tidemark (of %d):\n%s", len(a.relays), end(a.relays[len(a.relays)-1].Log(), 6000))
		}
		a.Close()
	})
	return a
}

func end(s string, n int) string { return s[max(0, len(s)-n):] }

// start starts a tidemark, which is killed when the test ends.
func (a *arena) start() *trial.Relay {
	a.t.Helper()
	r, err := a.Start(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	a.relays = append(a.relays, r)
	return r
}

// startReady starts a tidemark and waits until it streams.
func (a *arena) startReady() *trial.Relay {
	a.t.Helper()
	r := a.start()
	a.awaitReady(r)
	return r
}

func (a *arena) awaitReady(r *trial.Relay) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), 2*time.Minute)
	defer cancel()
	if err := r.AwaitReady(ctx); err != nil {
		a.t.Fatal(err)
	}
}

// stop ends a tidemark with SIGTERM, after which its exit status has to be 0.
func (a *arena) stop(r *trial.Relay) {
	a.t.Helper()
	status, err := r.Stop(2 * time.Minute)
	if err != nil || status != 0 {
		a.t.Fatalf("SIGTERM: exit status %d, %v, want 0", status, err)
	}
}

// write starts writers that are ended with the test, if it has not done so.
func (a *arena) write(load trial.Load) *trial.Writers {
	a.t.Helper()
	if load.Seed == 0 {
		load.Seed = a.seed
	}
	w := a.Write(context.Background(), load)
	a.t.Cleanup(func() { _ = w.Stop() })
	return w
}

// mustStop ends the writers, none of which may have failed.
func (a *arena) mustStop(w *trial.Writers) {
	a.t.Helper()
	if err := w.Stop(); err != nil {
		a.t.Fatal(err)
	}
}

// judge waits for what is still to come, prints the verdict and fails the test if a promise is broken.
func (a *arena) judge() ledger.Verdict {
	a.t.Helper()
	return a.judgeBut()
}

// judgeBut is judge with findings that are no broken promise in this test.
func (a *arena) judgeBut(tolerated ...ledger.Finding) ledger.Verdict {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), 5*time.Minute)
	defer cancel()
	v, err := a.Judge(ctx, patience)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Log(v)
	if err := v.Err(tolerated...); err != nil {
		a.t.Error(err)
	}
	return v
}

// await waits for what has to come to pass.
func (a *arena) await(what string, limit time.Duration, ok func() bool) {
	a.t.Helper()
	if err := trial.Await(a.t.Context(), what, limit, func() (bool, error) { return ok(), nil }); err != nil {
		a.t.Fatal(err)
	}
}

func (a *arena) exec(sql string, args ...any) {
	a.t.Helper()
	if err := a.Exec(a.t.Context(), sql, args...); err != nil {
		a.t.Fatalf("%s: %v", sql, err)
	}
}

// connect opens a connection that is closed with the test.
func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// longer returns the duration that a variable of the environment names, else the short one of an ordinary test run.
func longer(t *testing.T, variable string, short time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return short
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w", variable, err))
	}
	return d
}
