package test_test

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/tidemark/tidemark/test/trial"
)

// TestCrash kills tidemark again and again under load. Nothing may be lost, and nothing published twice. TIDEMARK_TEST_CRASH_FOR=60s is the long form.
func TestCrash(t *testing.T) {
	t.Parallel()
	crash(t, newArena(t))
}

// TestCrashWithTheCheckpointElsewhere is TestCrash with the checkpoint on the servers: what a relay was doing there when
// it was killed is not in its successor's way, and the successor finds all that its predecessor had stored.
func TestCrashWithTheCheckpointElsewhere(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"postgres", "kafka"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			a := newArena(t)
			a.Config = a.Config.With("TIDEMARK_CHECKPOINT_STORE", store)
			crash(t, a)
			if _, err := os.Stat(a.Config.Checkpoint); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("there is a file all the same: %v", err)
			}
		})
	}
}

// TestCrashExactlyOnce is TestCrash with delivery.mode: exactly_once, as a consumer of committed records sees it: nothing is
// there twice, and of each database transaction all is there or nothing.
func TestCrashExactlyOnce(t *testing.T) {
	t.Parallel() // it mostly waits
	crash(t, newExactlyOnceArena(t))
}

// TestCrashWithTheLeastRights is TestCrash with a role that `init --role` has made, and the checkpoint in a table.
func TestCrashWithTheLeastRights(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	a.Config = a.Config.With("TIDEMARK_CHECKPOINT_STORE", "postgres")
	role := "least_" + a.Config.Slot[:min(len(a.Config.Slot), 50)]
	if _, err := trial.Command(t.Context(), a.Config, "init", "--role", role); err != nil {
		t.Fatal(err)
	}
	a.Config.DSN = withPassword(t, a.DSN, role)
	lines, _ := a.doctor()
	for _, f := range lines {
		if f.State == "fail" || (f.Check == "source.role" && f.State != "ok") {
			t.Errorf("doctor: %+v", f)
		}
	}
	crash(t, a)
}

func crash(t *testing.T, a *arena) {
	t.Helper()
	rng := rand.New(rand.NewPCG(a.seed, 1)) //nolint:gosec // reproducible
	r := a.startReady()
	w := a.write(trial.Load{Writers: 6, Rate: 1000})
	kills := 0
	const enough = 2000 // rows, of which some are rolled back
	for end := time.Now().Add(longer(t, "TIDEMARK_TEST_CRASH_FOR", 10*time.Second)); time.Now().Before(end) || kills < 5 || w.Rows() < enough; {
		next := time.NewTimer(500*time.Millisecond + rand64(rng, time.Second))
		select {
		case <-next.C:
		case <-r.Done():
			t.Fatalf("tidemark ended by itself, with status %d", r.Status())
		}
		if err := r.Kill(); err != nil {
			t.Fatal(err)
		}
		kills++
		r = a.start()
	}
	a.mustStop(w)
	v := a.judge()
	a.stop(r)
	t.Logf("%d kills", kills)
	if v.Committed < enough/2 {
		t.Errorf("%d events: too few to show anything", v.Committed)
	}
}

func rand64(rng *rand.Rand, n time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(n)))
}
