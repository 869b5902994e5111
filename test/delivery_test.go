package test_test

import (
	"testing"
	"time"

	"github.com/tidemark/tidemark/test/trial"
)

// TestDelivery is the main promise without any fault: every committed row once, in order, and none that was rolled back.
func TestDelivery(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	r := a.startReady()
	w := a.write(trial.Load{Writers: 8, Rows: 10_000})
	if err := w.Wait(); err != nil {
		t.Fatal(err)
	}
	v := a.judge()
	if v.Committed < 9_000 || v.RolledBack < 200 {
		t.Errorf("too little was written: %s", v)
	}
	if v.Moved > 0 {
		t.Errorf("%d keys are in more than one partition", v.Moved)
	}
	a.stop(r)
	if v := a.judge(); v.Records != v.Arrived {
		t.Errorf("%d records of %d events", v.Records, v.Arrived)
	}
}

// TestHardTransactions repeats what has cost other relays their rows, one kind of transaction at a time.
func TestHardTransactions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		load trial.Load
	}{
		{"long ones interleaved with short ones, half of them rolled back", trial.Load{Writers: 8, Rows: 1_500, RollBack: 0.5, Kinds: []trial.Kind{trial.Long, trial.Single, trial.Single, trial.Single}}},
		{"COPY and multi-row inserts", trial.Load{Writers: 4, Rows: 10_000, Kinds: []trial.Kind{trial.Copy, trial.MultiRow}}},
		{"savepoints rolled back", trial.Load{Writers: 4, Rows: 3_000, Kinds: []trial.Kind{trial.Savepoints, trial.Few}}},
		// Their commit records lie side by side: the end of one is the beginning of the next.
		{"adjacent commits of two writers", trial.Load{Writers: 2, Rows: 5_000, Shared: 1, RollBack: -1, Size: trial.Tiny, Kinds: []trial.Kind{trial.Single}}},
		// What is decoded is in the log long before its commit.
		{"transactions that are prepared first", trial.Load{Writers: 6, Rows: 800, RollBack: 0.3, TwoPhase: true, Kinds: []trial.Kind{trial.Single, trial.Few, trial.Copy}}},
		{"compressible rows of 4 to 50 KB", trial.Load{Writers: 4, Rows: 2_000, Size: trial.Large}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := newArena(t)
			r := a.startReady()
			w := a.write(test.load)
			// A restart in the middle: where other relays go on is where they lose.
			half := test.load.Rows / 2
			a.await("half of the rows are written", 2*time.Minute, func() bool { return w.Rows() >= half })
			a.stop(r)
			r = a.start()
			if err := w.Wait(); err != nil {
				t.Fatal(err)
			}
			a.judge()
			a.stop(r)
			a.judge()
		})
	}
}
