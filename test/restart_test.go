package test_test

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidemark/tidemark/test/trial"
)

// TestRunOnce ends by itself when everything that was committed before its start is in Kafka, also while others go on
// writing.
func TestRunOnce(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	a.Config.Args = []string{"run", "--once"}
	once := func() {
		t.Helper()
		r := a.start()
		if status, err := r.Wait(2 * time.Minute); err != nil || status != 0 {
			t.Fatalf("exit status %d, %v, want 0", status, err)
		}
	}
	w := a.write(trial.Load{Rows: 1000, Kinds: existing()})
	if err := w.Wait(); err != nil {
		t.Fatal(err)
	}
	once() // the first start, with rows that are there already
	v := a.judge()
	if v.Arrived == 0 {
		t.Error("nothing has arrived")
	}
	w = a.write(trial.Load{Rows: 30_000, Keys: 500, Kinds: []trial.Kind{trial.EachKey}}) // more than a moment takes
	if err := w.Wait(); err != nil {
		t.Fatal(err)
	}
	once()
	a.judge()

	w = a.write(trial.Load{Rate: 300})
	once() // does not run after a target that moves
	once()
	a.mustStop(w)
	once()
	a.judge()
}

// existing are the kinds of transactions whose rows a first start can put in order: a table does not tell in which order
// one transaction has written several rows of a key.
func existing() []trial.Kind { return []trial.Kind{trial.Single} }

// TestFirstStartCrash kills tidemark while it publishes the rows that were there before the slot. The first start begins
// anew, and nothing is lost: neither of those rows nor of those that are inserted meanwhile.
func TestFirstStartCrash(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	fill := a.write(trial.Load{Writers: 2, Rows: 50_000, Keys: 500, Kinds: []trial.Kind{trial.EachKey}})
	if err := fill.Wait(); err != nil {
		t.Fatal(err)
	}
	w := a.write(trial.Load{Writers: 2, Rate: 200, Kinds: existing()})
	rng := rand.New(rand.NewPCG(a.seed, 1)) //nolint:gosec // reproducible
	for range 3 {
		_, before, _ := a.Ledger.Progress()
		r := a.start()
		after := before + 1000 + rng.IntN(5000)
		a.await("some of the existing rows have arrived", time.Minute, func() bool {
			_, arrived, _ := a.Ledger.Progress()
			return arrived > after || !r.Running()
		})
		if err := r.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	r := a.startReady()
	a.mustStop(w)
	a.judge()
	a.stop(r)
	a.judge()
}

// TestSecondInstanceWaits has two instances with one slot and one checkpoint file: the second is the hot standby.
func TestSecondInstanceWaits(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	active := a.startReady()
	w := a.write(trial.Load{Rate: 500})
	standby := a.start()
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL} {
		a.await("the second instance waits for the slot", time.Minute, func() bool {
			status, body, err := standby.Get(t.Context(), "/readyz")
			return err == nil && status == http.StatusServiceUnavailable && strings.Contains(body, "standby")
		})
		if status, _, err := standby.Get(t.Context(), "/livez"); err != nil || status != http.StatusOK {
			t.Errorf("/livez of the standby: %d, %v", status, err)
		}
		// It waits for long enough to know less of the log than the checkpoint that it finds.
		_, seen, _ := a.Ledger.Progress()
		a.await("rows arrive while it waits", time.Minute, func() bool { _, now, _ := a.Ledger.Progress(); return now > seen+300 })
		if signal == syscall.SIGTERM {
			a.stop(active)
		} else if err := active.Kill(); err != nil {
			t.Fatal(err)
		}
		ended := time.Now()
		a.awaitReady(standby)
		t.Logf("%v: taken over after %v", signal, time.Since(ended).Round(time.Millisecond))
		if took := time.Since(ended); took > 45*time.Second {
			t.Errorf("the takeover took %v", took)
		}
		active, standby = standby, a.start()
	}
	a.mustStop(w)
	a.judge()
	a.stop(standby)
	a.stop(active)
}
