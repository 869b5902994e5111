package demo

import (
	"fmt"
	"testing"
	"time"
)

// A ledger that overlooks something would make every demo look well.
func TestLedgerFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	// Rows 1 to 3 of the key are committed, in two transactions, row 4 is rolled back, and this arrives:
	for _, c := range []struct {
		name    string
		arrives []record
		want    Counts
	}{
		{"all is well", []record{rec(1), rec(2), rec(3)}, Counts{}},
		{"one is missing at the end", []record{rec(1), rec(2)}, Counts{Lost: 1}},
		{"one is missing in the middle", []record{rec(1), rec(3)}, Counts{Lost: 1}},
		{"nothing arrives", nil, Counts{Lost: 3}},
		{"one comes twice", []record{rec(1), rec(2), rec(2), rec(3)}, Counts{Doubled: 1}},
		{"a replay", []record{rec(1), rec(2), rec(1), rec(2), rec(3)}, Counts{Doubled: 2}},
		{"two change places", []record{rec(2), rec(1), rec(3)}, Counts{Misordered: 1}},
		{"the last comes first", []record{rec(3), rec(1), rec(2)}, Counts{Misordered: 2}},
		{"a position goes back", []record{rec(1), at(rec(2), "000"), rec(3)}, Counts{Misordered: 1}},
		{"a position repeats", []record{rec(1), at(rec(2), rec(1).position), rec(3)}, Counts{Misordered: 1}},
		{"one was rolled back", []record{rec(1), rec(2), rec(3), rec(4)}, Counts{Phantom: 1}},
		{"one was never written", []record{rec(1), rec(2), rec(3), rec(5)}, Counts{Phantom: 1}},
		{"one has no id", []record{rec(1), rec(2), rec(3), {}}, Counts{Phantom: 1}},
		{"one is of another run", []record{rec(1), rec(2), rec(3), withID(rec(3), "ffffffff-0000-8000-8000-000000000003")}, Counts{Phantom: 1}},
		{"another row's id", []record{rec(1), rec(2), withID(rec(3), rec(2).id)}, Counts{Lost: 1, Phantom: 1}},
		{"another key", []record{rec(1), rec(2), withKey(rec(3), "order-101")}, Counts{Lost: 1, Phantom: 1}},
		{"another topic", []record{rec(1), rec(2), withTopic(rec(3), "outbox.event.payment")}, Counts{Lost: 1, Phantom: 1}},
	} {
		c.want.Committed, c.want.RolledBack, c.want.Published = 3, 1, len(c.arrives)
		// A record may arrive before its writer hears that the commit was done.
		for when, early := range map[string]bool{"after the answer": false, "before the answer": true} {
			t.Run(c.name+", "+when, func(t *testing.T) {
				t.Parallel()
				got := judged(c.arrives, early)
				if got != c.want {
					t.Errorf("found %+v, want %+v", got, c.want)
				}
				if wrong := c.want.Lost+c.want.Doubled+c.want.Misordered+c.want.Phantom > 0; got.Clean() == wrong {
					t.Errorf("clean: %v", got.Clean())
				}
			})
		}
	}
}

// judged returns the findings of a ledger about the rows of the test above.
func judged(arrives []record, early bool) Counts {
	k := &key{number: 0, kind: "order", name: "order-100"}
	l := newLedger("00000000", []*key{k, {number: 1, kind: "order", name: "order-101"}})
	var rows []row
	for range 4 {
		rows = append(rows, l.next(k, "OrderPlaced"))
	}
	now := time.Now()
	settle := func() {
		l.settle(rows[:2], committed)
		l.settle(rows[2:3], committed)
		l.settle(rows[3:], rolledBack)
	}
	l.ask(rows[:3], now)
	if !early {
		settle()
	}
	for _, r := range arrives {
		l.arrive(r, now.Add(time.Millisecond))
	}
	if early {
		settle()
	}
	counts, _ := l.findings(now)
	return counts
}

func rec(sequence int) record {
	return record{
		topic: "outbox.event.order", id: fmt.Sprintf("00000000-0000-8000-8000-%012x", sequence), key: "order-100",
		position: fmt.Sprintf("%016x-00000000", 1000+sequence), sequence: sequence,
	}
}

func at(r record, position string) record     { r.position = position; return r }
func withID(r record, id string) record       { r.id = id; return r }
func withKey(r record, key string) record     { r.key = key; return r }
func withTopic(r record, topic string) record { r.topic = topic; return r }

func TestLedgerForgetsWhatHasArrived(t *testing.T) {
	t.Parallel()
	keys := newKeys()
	l := newLedger("00000000", keys)
	now := time.Now()
	for range 1000 {
		r := l.next(keys[0], "OrderPlaced")
		l.ask([]row{r}, now)
		l.settle([]row{r}, committed)
		l.arrive(record{topic: topicOf(keys[0].kind), id: r.id, key: keys[0].name, sequence: r.sequence, position: fmt.Sprintf("%09d", r.sequence)}, now.Add(time.Millisecond))
	}
	counts, waiting := l.findings(now)
	if !counts.Clean() || counts.Published != 1000 || waiting != 0 || len(l.keys[0].asked) != 0 {
		t.Errorf("%+v, waiting %v, %d rows remembered", counts, waiting, len(l.keys[0].asked))
	}
	if all := l.total(); all.p50 < 900*time.Microsecond || all.p99 > 1100*time.Microsecond {
		t.Errorf("p50 %v, p99 %v, want about a millisecond", all.p50, all.p99)
	}
}

func TestHistogramIsExactToTwoPercent(t *testing.T) {
	t.Parallel()
	var h histogram
	for i := range 10_000 {
		h.add(time.Duration(i+1) * 10 * time.Microsecond)
	}
	for q, want := range map[float64]time.Duration{0.5: 50 * time.Millisecond, 0.99: 99 * time.Millisecond, 1: 100 * time.Millisecond} {
		if got := h.quantile(q); got < want*98/100 || got > want*102/100 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if h.most != 100*time.Millisecond {
		t.Errorf("at most %v", h.most)
	}
}
