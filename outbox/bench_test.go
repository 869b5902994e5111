package outbox

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// BenchmarkWrite puts a batch of 100 events beside what a careful engineer would write by hand: one INSERT of the same
// rows, with a parameter for each value, prepared once by pgx. Both take their transaction from begin to commit, one after
// the other in every round, so that what disturbs the machine disturbs both.
func BenchmarkWrite(b *testing.B) {
	pool := newPool(b)
	conn, err := pool.Acquire(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Release()
	const batch = 100
	text := strings.Repeat("x", 200)
	type order struct {
		ID   int    `json:"id"`
		Text string `json:"text"`
	}
	var values strings.Builder
	for i := range batch {
		fmt.Fprintf(&values, ", ($%d, $%d, $%d, $%d, $%d)", 5*i+1, 5*i+2, 5*i+3, 5*i+4, 5*i+5)
	}
	insert := "insert into outbox (id, aggregatetype, aggregateid, type, payload) values " + values.String()[2:]
	byHand := func(tx pgx.Tx, n int) error {
		args := make([]any, 0, 5*batch)
		for i := range batch {
			args = append(args, NewID(), "order", fmt.Sprint(n+i), "OrderPlaced", order{n + i, text})
		}
		_, err := tx.Exec(b.Context(), insert, args...)
		return err
	}
	byWrite := func(tx pgx.Tx, n int) error {
		events := make([]Event, batch)
		for i := range events {
			events[i] = Event{Topic: "order", Key: fmt.Sprint(n + i), Type: "OrderPlaced", Payload: JSON(order{n + i, text})}
		}
		return Write(b.Context(), tx, events...)
	}
	measure := func(write func(pgx.Tx, int) error, n int) time.Duration {
		begin := time.Now()
		if err := pgx.BeginFunc(b.Context(), conn, func(tx pgx.Tx) error { return write(tx, n) }); err != nil {
			b.Fatal(err)
		}
		return time.Since(begin)
	}
	for n := range 20 { // statements are prepared, the table is warm
		measure(byHand, n)
		measure(byWrite, n)
	}
	var bare, ours time.Duration
	rounds := 0
	for b.Loop() {
		bare += measure(byHand, batch*rounds)
		ours += measure(byWrite, batch*rounds)
		rounds++
	}
	perEvent := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(rounds*batch) }
	b.ReportMetric(perEvent(bare), "µs/event-bare")
	b.ReportMetric(perEvent(ours), "µs/event-Write")
	b.ReportMetric(perEvent(ours-bare), "µs/event-above")
	b.ReportMetric(float64(ours)/float64(bare), "ratio")
}

// BenchmarkCheck is what is done without Postgres: a batch of 100 events, checked and made into arguments.
func BenchmarkCheck(b *testing.B) {
	events := make([]Event, 100)
	for i := range events {
		events[i] = Event{Topic: "order", Key: fmt.Sprint(i), Type: "OrderPlaced", Payload: JSON(strings.Repeat("x", 200))}
	}
	var w Writer
	columns := w.columns()
	for b.Loop() {
		if err := w.check(columns, events, trace{}); err != nil {
			b.Fatal(err)
		}
		if _, err := w.arguments(columns, events, trace{}); err != nil {
			b.Fatal(err)
		}
	}
}
