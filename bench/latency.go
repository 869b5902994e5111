package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// steady starts the relay on an empty backlog and measures how long rows are on their way, and what it costs to have none.
func (st *stage) steady(ctx context.Context, o *Options, m *Measured, say func(string, ...any)) (err error) {
	slot := st.name + "_steady"
	if err := st.exec(ctx, st.dsn, fmt.Sprintf("select pg_create_logical_replication_slot('%s', 'pgoutput')", slot)); err != nil {
		return err
	}
	topics, err := st.createTopics(ctx, slot+"-")
	if err != nil {
		return err
	}
	p, err := st.startRelay(ctx, o.Executable, slot, slot+"-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	c, err := consume(st.brokers, topics[0])
	if err != nil {
		return err
	}
	defer c.close()
	text := string(words(max(st.load.Size-envelope, 0)))
	if err := st.write(ctx, p, c, text, 1, 1, 1); err != nil { // until it arrives nothing is steady
		return err
	}
	if o.For > 0 {
		if err := st.latencies(ctx, p, c, text, o, m, say); err != nil {
			return err
		}
	}
	if o.Idle > 0 {
		say("doing nothing for %v", o.Idle)
		cpu, began := p.cpu(), time.Now()
		if !wait(ctx, o.Idle) {
			return ctx.Err()
		}
		m.IdleCPU = new((p.cpu() - cpu).Seconds() / time.Since(began).Seconds())
	}
	return nil
}

// latencies measures one rate after the other.
func (st *stage) latencies(ctx context.Context, p *process, c *consumer, text string, o *Options, m *Measured, say func(string, ...any)) error {
	// Java optimises what it has met often, and until now the broker has met no lone row.
	say("warming up, which does not count")
	if _, err := st.latency(ctx, p, c, text, warmRate, min(o.For, warmFor)); err != nil {
		return err
	}
	for _, rate := range o.Rates {
		if rate == 0 {
			most := int(m.median(m.Relay).rate(m.Load.Rows))
			say("writing for %v as quickly as the backlog drained", o.For)
			l, err := st.latency(ctx, p, c, text, max(most, 1), o.For)
			if err != nil {
				return err
			}
			m.Together = float64(l.Rows) / l.Seconds
			rate = max(int(m.Together/2), 1)
		}
		say("latency at %s/s for %v", comma(rate), o.For)
		l, err := st.latency(ctx, p, c, text, rate, o.For)
		if err != nil {
			return err
		}
		m.Latency = append(m.Latency, l)
	}
	return nil
}

const (
	warmRate = 500 // rows a second
	warmFor  = 10 * time.Second
)

// latency writes at a rate, in transactions of one row, or of so many that there are a thousand transactions a second.
func (st *stage) latency(ctx context.Context, p *process, c *consumer, text string, rate int, length time.Duration) (Latency, error) {
	per := (rate + 999) / 1000
	transactions := int(length.Seconds() * float64(rate) / float64(per))
	c.reset(transactions)
	cpu, began := p.cpu(), time.Now()
	if err := st.write(ctx, p, c, text, transactions, per, float64(rate)/float64(per)); err != nil {
		return Latency{}, err
	}
	spent := p.cpu() - cpu
	l := newLatency(c.latencies())
	l.Rate, l.PerTransaction, l.Seconds = rate, per, time.Since(began).Seconds()
	l.CPUSeconds = spent.Seconds()
	commits := newLatency(c.commits())
	l.CommitP50, l.CommitP99 = commits.P50, commits.P99
	return l, nil
}

// write commits transactions of per rows each at a rate, and waits until all have arrived. The time of a transaction counts
// from the moment at which its COMMIT is sent.
func (st *stage) write(ctx context.Context, p *process, c *consumer, text string, transactions, per int, rate float64) error {
	writers := min(max(int(rate/400), 1), 4)
	var next atomic.Int64
	began := time.Now()
	group, writing := errgroup.WithContext(ctx)
	for range writers {
		group.Go(func() error {
			return st.sql(writing, st.dsn, func(conn *pgx.Conn) error {
				for {
					n := int(next.Add(1)) - 1
					if n >= transactions {
						return nil
					}
					due := began.Add(time.Duration(float64(n) / rate * float64(time.Second)))
					if !wait(writing, time.Until(due)) {
						return writing.Err()
					}
					if err := commit(writing, conn, c, n, per, text); err != nil {
						return fmt.Errorf("write: %w", err)
					}
				}
			})
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return c.await(ctx, p, transactions*per)
}

func commit(ctx context.Context, conn *pgx.Conn, c *consumer, n, per int, text string) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `insert into public.outbox_1 (aggregatetype, aggregateid, type, payload)
		select $1, $2, 'OrderPlaced', jsonb_build_object('n', n, 'text', $3::text) from generate_series(1, $4) n`,
		aggregateType(0), strconv.Itoa(n), text, per)
	if err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	sent := time.Since(c.epoch)
	c.sent[n].Store(int64(sent))
	err = tx.Commit(ctx)
	c.committed[n] = time.Since(c.epoch) - sent
	return err
}

// consumer reads the records of one topic, as any consumer would. A record's key is the number of its transaction.
type consumer struct {
	client *kgo.Client
	epoch  time.Time
	stop   context.CancelFunc
	ended  chan struct{}

	sent      []atomic.Int64  // by transaction: when its COMMIT was sent, since epoch
	committed []time.Duration // by transaction: how long its COMMIT took; whoever commits it writes it

	mu    sync.Mutex
	took  []time.Duration
	err   error
	woken chan struct{} // capacity 1: something arrived
}

func consume(brokers []string, topic string) (*consumer, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...), kgo.ClientID("tidemark-bench"), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	if err != nil {
		return nil, fmt.Errorf("configure the consumer: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background()) //nolint:forbidigo // ends with close
	c := &consumer{client: client, epoch: time.Now(), stop: stop, ended: make(chan struct{}), woken: make(chan struct{}, 1)}
	c.reset(1)
	go c.run(ctx) // ends with close
	return c, nil
}

func (c *consumer) close() {
	c.stop()
	<-c.ended
	c.client.Close()
}

// reset prepares for transactions numbered from 0. Nothing may be under way.
func (c *consumer) reset(transactions int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent, c.committed = make([]atomic.Int64, transactions), make([]time.Duration, transactions)
	c.took = nil
}

func (c *consumer) run(ctx context.Context) {
	defer close(c.ended)
	for ctx.Err() == nil {
		fetches := c.client.PollFetches(ctx)
		now := time.Since(c.epoch)
		c.mu.Lock()
		if err := fetches.Err(); err != nil && ctx.Err() == nil {
			c.err = fmt.Errorf("read from Kafka: %w", err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if n, err := strconv.Atoi(string(r.Key)); err == nil && n < len(c.sent) {
				c.took = append(c.took, now-time.Duration(c.sent[n].Load()))
			}
		})
		c.mu.Unlock()
		select {
		case c.woken <- struct{}{}:
		default:
		}
	}
}

// await waits until n records have arrived.
func (c *consumer) await(ctx context.Context, p *process, n int) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		c.mu.Lock()
		there, err := len(c.took), c.err
		c.mu.Unlock()
		if there >= n || err != nil {
			return err
		}
		select {
		case <-c.woken:
		case <-p.done:
			return p.ended()
		case <-timer.C:
			return fmt.Errorf("%d of %d rows have arrived after %v: %s", there, n, patience, strings.TrimSpace(p.log.String()))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// latencies returns them in order of size.
func (c *consumer) latencies() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(slices.Values(c.took))
}

// wait returns false if ctx is done before d has passed.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// commits returns how long the COMMITs have taken, in order of size. Nothing may be under way.
func (c *consumer) commits() []time.Duration { return slices.Sorted(slices.Values(c.committed)) }
