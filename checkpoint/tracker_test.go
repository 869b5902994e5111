package checkpoint_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pglogrepl"
	"pgregory.net/rapid"

	"github.com/tidemark/tidemark/checkpoint"
)

// model is the tracker written so that nobody can doubt it: everything that ever came, and the mark counted anew.
type model struct {
	start checkpoint.Mark
	txs   []*modelTx // the empty transactions of Advance included
}

type modelTx struct {
	commit, end pglogrepl.LSN
	open        bool
	acked       []bool // by event
}

func (m *model) safe() checkpoint.Mark {
	mark := m.start
	for _, tx := range m.txs {
		if !tx.done() {
			break
		}
		mark.End = max(mark.End, tx.end)
		if tx.commit != 0 { // a keepalive is none
			mark.Count++
		}
		if len(tx.acked) > 0 {
			mark.Commit, mark.Events = tx.commit, uint32(len(tx.acked)) //nolint:gosec // a few
		}
	}
	return mark
}

func (tx *modelTx) done() bool {
	for _, acked := range tx.acked {
		if !acked {
			return false
		}
	}
	return !tx.open
}

func (m *model) last() *modelTx {
	if len(m.txs) == 0 {
		return nil
	}
	return m.txs[len(m.txs)-1]
}

// TestTrackerAgreesWithNaiveModel runs a tracker beside the model, through random histories.
func TestTrackerAgreesWithNaiveModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		start := pglogrepl.LSN(rapid.Uint64Range(0, 1000).Draw(t, "start"))
		lsn := start // how far the log has been read
		m := &model{start: checkpoint.Mark{End: start}}
		tracker := checkpoint.NewTracker(m.start)
		legal := map[pglogrepl.LSN]bool{start: true} // what Safe may return: where commits end and what Advance was told
		var open *checkpoint.Transaction
		type flight struct {
			real  *checkpoint.Transaction
			tx    *modelTx
			event int
		}
		var out []flight // handed over, not acknowledged
		read := func(n uint64) pglogrepl.LSN {
			lsn += pglogrepl.LSN(rapid.Uint64Range(1, n).Draw(t, "bytes"))
			return lsn
		}
		var last checkpoint.Mark

		t.Repeat(map[string]func(*rapid.T){
			"Begin": func(t *rapid.T) {
				if open != nil {
					t.Skip("one is open")
				}
				tx := &modelTx{commit: read(50), open: true}
				m.txs = append(m.txs, tx)
				open = tracker.Begin(tx.commit)
				if open.Commit() != tx.commit {
					t.Fatalf("Commit() = %s, want %s", open.Commit(), tx.commit)
				}
			},
			"Add": func(t *rapid.T) {
				if open == nil {
					t.Skip("none is open")
				}
				for range rapid.IntRange(1, 4).Draw(t, "events") {
					open.Add()
					tx := m.last()
					out = append(out, flight{open, tx, len(tx.acked)})
					tx.acked = append(tx.acked, false)
				}
			},
			"Commit": func(t *rapid.T) {
				if open == nil {
					t.Skip("none is open")
				}
				tx := m.last()
				tx.end, tx.open = read(10), false
				legal[tx.end] = true
				tracker.Commit(open, tx.end)
				open = nil
			},
			"Advance": func(t *rapid.T) {
				// A keepalive may repeat what was said before, and after a new connection say less.
				end := pglogrepl.LSN(rapid.Uint64Range(1, uint64(lsn)+20).Draw(t, "end"))
				if open == nil {
					lsn = max(lsn, end)
					legal[end] = true
					m.txs = append(m.txs, &modelTx{end: end})
				}
				tracker.Advance(end)
			},
			"Again": func(t *rapid.T) {
				// A new connection brings again what was not stored, and nothing of it is handed over a second time.
				if open != nil || len(m.txs) == 0 {
					t.Skip("one is open, or none was there")
				}
				old := m.txs[rapid.IntRange(0, len(m.txs)-1).Draw(t, "which")]
				if old.commit == 0 {
					t.Skip("a keepalive")
				}
				m.txs = append(m.txs, &modelTx{commit: old.commit, end: old.end})
				tracker.Commit(tracker.Begin(old.commit), old.end)
			},
			"Acked": func(t *rapid.T) {
				if len(out) == 0 {
					t.Skip("nothing is out")
				}
				i := rapid.IntRange(0, len(out)-1).Draw(t, "which")
				f := out[i]
				out = append(out[:i], out[i+1:]...)
				f.tx.acked[f.event] = true
				f.real.Acked()
			},
			"Safe": func(t *rapid.T) {
				got := tracker.Safe()
				if want := m.safe(); got != want {
					t.Fatalf("Safe() = %+v, the model says %+v", got, want)
				}
				if got.End < last.End || got.Commit < last.Commit {
					t.Fatalf("Safe() went back from %+v to %+v", last, got)
				}
				last = got
				if !legal[got.End] {
					t.Fatalf("Safe() = %s, where nothing ends", got.End)
				}
				for _, tx := range m.txs {
					// Reading that starts again at the mark has to bring this transaction: its commit must be behind it.
					if tx.commit != 0 && !tx.done() && got.End >= tx.commit {
						t.Fatalf("Safe() = %s passes the transaction that commits at %s and is not done", got.End, tx.commit)
					}
				}
				if len(out) == 0 && open == nil && tracker.Waiting() != 0 {
					t.Fatalf("nothing is out, and %d transactions wait", tracker.Waiting())
				}
			},
		})
	})
}

func TestTrackerWaitsForTheCommit(t *testing.T) {
	t.Parallel()
	tracker := checkpoint.NewTracker(checkpoint.Mark{End: 10})
	tx := tracker.Begin(20)
	tx.Add()
	tx.Acked()
	tracker.Advance(30) // says nothing inside a transaction
	if got := tracker.Safe(); got.End != 10 {
		t.Errorf("safe at %s before the commit", got.End)
	}
	if n := tracker.Waiting(); n != 1 {
		t.Errorf("%d transactions wait, want the open one", n)
	}
	tracker.Commit(tx, 25)
	if got, want := tracker.Safe(), (checkpoint.Mark{End: 25, Commit: 20, Events: 1, Count: 1}); got != want {
		t.Errorf("Safe() = %+v after the commit, want %+v", got, want)
	}
}

// While Kafka is away, a busy server goes on sending keepalives. They must not pile up in memory.
func TestTrackerHoldsKeepalivesInConstantMemory(t *testing.T) {
	t.Parallel()
	tracker := checkpoint.NewTracker(checkpoint.Mark{End: 1})
	tx := tracker.Begin(2)
	tx.Add()
	tracker.Commit(tx, 3)
	const keepalives = 10_000
	for i := range pglogrepl.LSN(keepalives) {
		tracker.Advance(4 + i)
		if got := tracker.Safe().End; got != 1 {
			t.Fatalf("safe at %s, and nothing is acknowledged", got)
		}
	}
	if n := tracker.Waiting(); n > 2 {
		t.Errorf("%d transactions are held for one that waits and %d keepalives", n, keepalives)
	}
	tx.Acked()
	if got, want := tracker.Safe(), (checkpoint.Mark{End: 4 + keepalives - 1, Commit: 2, Events: 1, Count: 1}); got != want {
		t.Errorf("Safe() = %+v, want %+v", got, want)
	}
}

// Acknowledgements come from several goroutines and out of order, while another asks for what is safe. Whatever it is
// told must have been acknowledged by then.
func TestTrackerIsSafeWithAcksFromSeveralGoroutines(t *testing.T) {
	t.Parallel()
	const transactions, ackers, most = 1000, 4, 200
	type event struct {
		tx *checkpoint.Transaction
		n  int
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // no secret
	var (
		tracker = checkpoint.NewTracker(checkpoint.Mark{End: 1})
		acked   [transactions * most]atomic.Bool
		ends    [transactions]atomic.Uint64 // where each transaction ends, once it has
		events  [transactions]int           // how many events the transactions up to this one have; fixed before
		out     = make(chan event, 256)
		done    = make(chan struct{})
		work    sync.WaitGroup
	)
	total := 0
	for i := range events {
		total += random.IntN(4)
		if i%8 == 0 {
			total += random.IntN(most - 4)
		}
		events[i] = total
	}
	for range ackers {
		own := rand.New(rand.NewPCG(random.Uint64(), 1)) //nolint:gosec // no secret
		work.Go(func() {
			var held []event // so that acknowledgements overtake each other
			for open := true; open || len(held) > 0; {
				if open && len(held) < 16 {
					var e event
					if e, open = <-out; open {
						held = append(held, e)
					}
					continue
				}
				i := own.IntN(len(held))
				e := held[i]
				held[i] = held[len(held)-1]
				held = held[:len(held)-1]
				acked[e.n].Store(true)
				e.tx.Acked()
			}
		})
	}
	var poller sync.WaitGroup
	poller.Go(func() {
		var last checkpoint.Mark
		checked := 0 // transactions whose events were found acknowledged
		for running := true; running; {
			select {
			case <-done:
				running = false
			default:
			}
			mark := tracker.Safe()
			if mark.End < last.End {
				t.Errorf("Safe() went back from %s to %s", last.End, mark.End)
			}
			last = mark
			for ; checked < transactions; checked++ {
				end := ends[checked].Load()
				if end == 0 || end > uint64(mark.End) {
					break
				}
				from := 0
				if checked > 0 {
					from = events[checked-1]
				}
				for n := from; n < events[checked]; n++ {
					if !acked[n].Load() {
						t.Errorf("%s is safe, and event %d of transaction %d is not acknowledged", mark.End, n, checked)
						return
					}
				}
			}
		}
	})
	lsn, n := pglogrepl.LSN(1), 0
	for i := range transactions {
		lsn += 10
		tx := tracker.Begin(lsn)
		for ; n < events[i]; n++ {
			tx.Add()
			out <- event{tx, n}
		}
		lsn += 5
		ends[i].Store(uint64(lsn))
		tracker.Commit(tx, lsn)
		if random.IntN(3) == 0 {
			lsn += 7
			tracker.Advance(lsn)
		}
	}
	close(out)
	work.Wait()
	close(done)
	poller.Wait()
	if got := tracker.Safe().End; got != lsn || tracker.Waiting() != 0 {
		t.Errorf("safe at %s with %d waiting, want %s and none", got, tracker.Waiting(), lsn)
	}
}

// Not one acknowledgement of those that come at the same moment may be lost, or counted twice.
func TestTrackerCountsAcksThatComeAtOnce(t *testing.T) {
	t.Parallel()
	const goroutines, acks = 4, 200_000
	tracker := checkpoint.NewTracker(checkpoint.Mark{End: 1})
	tx := tracker.Begin(2)
	for range goroutines*acks + 1 {
		tx.Add()
	}
	tracker.Commit(tx, 3)
	var work sync.WaitGroup
	start := make(chan struct{})
	for range goroutines {
		work.Go(func() {
			<-start
			for range acks {
				tx.Acked()
			}
		})
	}
	close(start)
	work.Wait()
	if got := tracker.Safe().End; got != 1 {
		t.Errorf("safe at %s, and one event is not acknowledged", got)
	}
	tx.Acked()
	if got := tracker.Safe().End; got != 3 {
		t.Errorf("safe at %s, and everything is acknowledged", got)
	}
}

// BenchmarkTracker is a transaction from its Begin until it is safe, with a window of others in flight before it.
func BenchmarkTracker(b *testing.B) {
	for _, rows := range []int{1, 100} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			b.ReportAllocs()
			tracker := checkpoint.NewTracker(checkpoint.Mark{})
			const window = 64
			var flying [window]*checkpoint.Transaction
			lsn := pglogrepl.LSN(1)
			i := 0
			for b.Loop() {
				if old := flying[i%window]; old != nil {
					for range rows {
						old.Acked()
					}
				}
				tx := tracker.Begin(lsn)
				for range rows {
					tx.Add()
				}
				tracker.Commit(tx, lsn+1)
				flying[i%window] = tx
				lsn += 2
				if i%16 == 0 { // the store asks far more rarely than transactions come
					tracker.Safe()
				}
				i++
			}
			b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
