package test_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tidemark/tidemark/test/trial"
)

// TestCrash kills tidemark again and again under load. Nothing may be lost, and nothing published twice. TIDEMARK_TEST_CRASH_FOR=60s is the long form.
func TestCrash(t *testing.T) {
	a := newArena(t)
	rng := rand.New(rand.NewPCG(a.seed, 1)) //nolint:gosec // reproducible
	r := a.startReady()
	w := a.write(trial.Load{Writers: 6, Rate: 1000})
	kills := 0
	for end := time.Now().Add(longer(t, "TIDEMARK_TEST_CRASH_FOR", 15*time.Second)); time.Now().Before(end); {
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
	if kills < 5 || v.Committed < 1000 {
		t.Errorf("%d kills and %d events: too few to show anything", kills, v.Committed)
	}
}

func rand64(rng *rand.Rand, n time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(n)))
}
