package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/test/trial"
)

// Account holds the database of orders against that of billing.
type Account struct {
	Orders  int
	Bills   int
	Lost    int // orders without a bill
	Doubled int // orders with more than one
	Wrong   int // bills over another amount, or without an order
	Behind  int // orders whose status is an older one in billing
	// Dropped is what was delivered and had no effect, by the reason that inbox gives.
	Dropped map[string]int
	Kills   map[string]int
}

// String is the account in lines.
func (a Account) String() string {
	return fmt.Sprintf("  %d orders, %d bills: %d lost, %d billed twice, %d wrong, %d with an old status\n  delivered, and dropped by inbox: %s\n  killed: %s",
		a.Orders, a.Bills, a.Lost, a.Doubled, a.Wrong, a.Behind, list(a.Dropped), list(a.Kills))
}

func list(counts map[string]int) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		all = append(all, fmt.Sprintf("%s %d", name, counts[name]))
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

// Err says what is wrong.
func (a Account) Err() error {
	if a.Lost+a.Doubled+a.Wrong+a.Behind > 0 || a.Orders == 0 || a.Bills != a.Orders {
		return errors.New("the account does not balance")
	}
	return nil
}

// progress is how far everyone is.
type progress struct{ placed, billed, bills, shipped, dropped int }

func (p progress) String() string {
	return fmt.Sprintf("%d orders, %d billed, %d known to be shipped, %d dropped by inbox", p.placed, p.billed, p.shipped, p.dropped)
}

func (s *stack) progress(ctx context.Context) (p progress, err error) {
	err = s.with(ctx, shop, func(conn *pgx.Conn) error {
		return ignoreMissing(conn.QueryRow(ctx, "select count(*) from orders").Scan(&p.placed))
	})
	if err != nil {
		return p, err
	}
	return p, s.with(ctx, ledger, func(conn *pgx.Conn) error {
		return ignoreMissing(conn.QueryRow(ctx, `select (select count(distinct order_id) from bills), (select count(*) from bills),
			(select count(*) from order_status where status = 'shipped'), (select count(*) from dropped)`).Scan(&p.billed, &p.bills, &p.shipped, &p.dropped))
	})
}

// ignoreMissing takes a table that a service has not created yet for an empty one.
func ignoreMissing(err error) error {
	const undefinedTable = "42P01"
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == undefinedTable {
		return nil
	}
	return err
}

// account reads both databases.
func (s *stack) account(ctx context.Context) (Account, error) {
	a := Account{Dropped: map[string]int{}}
	amounts, statuses := map[int]int{}, map[int]string{}
	var id, amount int
	var status string
	err := s.each(ctx, shop, "select id, amount, status from orders", []any{&id, &amount, &status}, func() {
		a.Orders++
		amounts[id], statuses[id] = amount, status
	})
	if err != nil {
		return a, err
	}
	billed := map[int]int{}
	err = s.each(ctx, ledger, "select order_id, amount from bills", []any{&id, &amount}, func() {
		a.Bills++
		billed[id]++
		if amounts[id] != amount {
			a.Wrong++
		}
	})
	if err != nil {
		return a, err
	}
	for id := range amounts {
		switch {
		case billed[id] == 0:
			a.Lost++
		case billed[id] > 1:
			a.Doubled++
		}
	}
	known := map[int]string{}
	if err := s.each(ctx, ledger, "select order_id, status from order_status", []any{&id, &status}, func() { known[id] = status }); err != nil {
		return a, err
	}
	for id, status := range statuses {
		if known[id] != status {
			a.Behind++
		}
	}
	var n int
	return a, s.each(ctx, ledger, "select outcome, count(*) from dropped group by outcome", []any{&status, &n}, func() { a.Dropped[status] = n })
}

func (s *stack) each(ctx context.Context, database, sql string, into []any, row func()) error {
	return s.with(ctx, database, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, sql)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, into, func() error {
			row()
			return nil
		})
		return err
	})
}

// awaitRead returns when billing has committed the ends that the topics have now.
func (s *stack) awaitRead(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.kafka.Brokers()...))
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	const order, status = "outbox.event.order", "outbox.event.order-status"
	ends, err := admin.ListEndOffsets(ctx, order, status)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("look up where the topics end: %w", err)
	}
	return trial.Await(ctx, "billing has read everything", 10*time.Minute, func() (bool, error) {
		committed, err := admin.FetchOffsets(ctx, "billing")
		if err != nil {
			return false, nil //nolint:nilerr // it is asked again
		}
		read := true
		ends.Each(func(end kadm.ListedOffset) {
			var from int64
			if at, ok := committed.Lookup(end.Topic, end.Partition); ok {
				from = at.At
			}
			read = read && s.nothingBetween(ctx, end.Topic, end.Partition, from, end.Offset)
		})
		return read, nil
	})
}

// nothingBetween reports whether there is no record in a piece of a partition. Markers, with which a relay that starts fences
// its predecessor, take offsets, too; a consumer is not shown them, and so commits none behind them.
func (s *stack) nothingBetween(ctx context.Context, topic string, partition int32, from, to int64) bool {
	if to <= from || to-from > 1000 {
		return to <= from
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(s.kafka.Brokers()...), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(from)}}))
	if err != nil {
		return false
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for from < to && ctx.Err() == nil {
		for _, r := range client.PollFetches(ctx).Records() {
			if from = r.Offset + 1; !r.Attrs.IsControl() {
				return false
			}
		}
	}
	return from >= to
}
