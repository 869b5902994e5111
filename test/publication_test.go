package test_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tidemark/tidemark/test/trial"
)

// TestNoRowIsHiddenByAChangedPublication takes the table out of the publication under load, and puts it in again: once under
// a relay that streams, once while none runs. Postgres never sends the rows of that time. The relay has to notice and to end
// with status 3, and the way out that it names has to bring every row.
func TestNoRowIsHiddenByAChangedPublication(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"at_least_once", "exactly_once"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			a := newArena(t)
			if mode == "exactly_once" {
				a.Config = a.Config.With("TIDEMARK_DELIVERY_MODE", mode, "TIDEMARK_CHECKPOINT_STORE", "kafka")
			}
			// The order of a table is that of the transactions that inserted, which the repair keeps.
			w := a.write(trial.Load{Rate: 200, Kinds: []trial.Kind{trial.Single, trial.EachKey}, Shared: -1})
			for _, running := range []bool{true, false} {
				r := a.startReady()
				_, seen, _ := a.Ledger.Progress()
				a.await("rows arrive", time.Minute, func() bool { _, now, _ := a.Ledger.Progress(); return now > seen+100 })
				if !running {
					a.stop(r)
				}
				before := w.Rows()
				a.exec("alter publication tidemark drop table outbox")
				a.await("rows are written meanwhile", time.Minute, func() bool { return w.Rows() > before+100 })
				a.exec("alter publication tidemark add table outbox")
				if running {
					status, err := r.Wait(2 * time.Minute)
					if err != nil || status != 3 {
						t.Fatalf("exit status %d, %v, want 3: %s", status, err, end(r.Log(), 3000))
					}
					_, message, _ := strings.Cut(r.Log(), "tidemark: ")
					for _, word := range []string{"refused", "public.outbox", "publication tidemark", "checkpoint adopt --accept-gap", "verify --repair"} {
						if !strings.Contains(message, word) {
							t.Errorf("the message does not say %q: %s", word, message)
						}
					}
				}
				a.await("the slot is free", time.Minute, func() bool { _, pid, err := a.Confirmed(t.Context()); return err == nil && pid == 0 })
				a.toItsEnd(3, "run")
				a.toItsEnd(3, "run", "--once")
				a.toItsEnd(0, "checkpoint", "adopt", "--accept-gap")
				r = a.startReady()
				if v := a.verify(0, "--repair"); v.Counts["repaired"] == 0 {
					t.Error("no row was hidden: the test has shown nothing")
				}
				a.stop(r)
			}
			a.mustStop(w)
			r := a.startReady()
			if v := a.verify(0, "--repair"); v.Counts["published"] != v.Rows {
				t.Errorf("in the end: %v", v.Counts)
			}
			if ids := a.lostIDs(); len(ids) > 0 {
				t.Errorf("%d rows are lost", len(ids))
			}
			a.stop(r)
		})
	}
}
