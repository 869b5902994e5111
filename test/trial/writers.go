package trial

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark/tidemark/test/ledger"
)

// Load says what the writers write. The zero value of a field is the default that is named with it.
type Load struct {
	Writers  int      // connections; 4
	Rate     float64  // rows a second in all; 0 is as fast as it goes
	Rows     int      // end after about so many; 0 is not before Stop
	Keys     int      // of each writer; 20
	Shared   int      // keys that every writer writes to, one at a time; 5
	RollBack float64  // share of the transactions that are rolled back; 0.05, negative for none
	Size     Size     // of a payload; Small
	Kinds    []Kind   // of transactions, each as likely as often as it is in the list; Mixed
	More     []string // aggregate types, besides the arena's
	Oversize float64  // share of the rows that are Huge; none
	Huge     Size     // 25 to 60 KB
	Place    Place    // where an event has to be in the end; in its topic
	Messages float64  // share of the rows that are emitted as logical messages; none. It takes the table of EmittedSQL
	TwoPhase bool     // PREPARE TRANSACTION before each end; nobody ends what is prepared if the server is lost meanwhile
	Seed     uint64
}

// Place says where an event has to be in the end, by its topic and the size of its payload.
type Place func(topic string, size int) ledger.Place

// Size chooses the size of a payload.
type Size func(*rand.Rand) int

// Small is 100 B to 4 KB, mostly the former.
func Small(rng *rand.Rand) int {
	if rng.IntN(10) > 0 {
		return 100 + rng.IntN(400)
	}
	return 100 + rng.IntN(3900)
}

// Large is 4 to 50 KB. Payloads are text that compresses well, so that Postgres stores such a row compressed.
func Large(rng *rand.Rand) int { return 4<<10 + rng.IntN(46<<10) }

// Tiny is what a key and a number need.
func Tiny(*rand.Rand) int { return 40 }

// Writers write to the outbox table of a database, on connections of their own, until Stop. A server that goes away is
// waited for.
type Writers struct {
	ledger *ledger.Ledger
	load   Load
	pace   *pacer
	stop   chan struct{}
	ctx    context.Context //nolint:containedctx // ends with the last writer
	cancel context.CancelCauseFunc
	group  sync.WaitGroup
	held   map[string]*sync.RWMutex // by topic: writers hold it for the length of a transaction
	rows   atomic.Int64
	huge   atomic.Int64 // rows that are to be Huge, as soon as possible
	once   sync.Once
}

// Write starts writers on the database at dsn, which has the table of OutboxSQL. Their topics are those of the given
// aggregate types.
func Write(ctx context.Context, l *ledger.Ledger, dsn string, types []string, load Load) *Writers {
	load.fill()
	w := &Writers{ledger: l, load: load, pace: &pacer{rate: load.Rate}, stop: make(chan struct{}), held: make(map[string]*sync.RWMutex)}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	for _, t := range types {
		w.held[t] = &sync.RWMutex{}
	}
	for i := range load.Writers {
		one := &writer{Writers: w, number: i, dsn: dsn, rng: rand.New(rand.NewPCG(load.Seed, uint64(i)))} //nolint:gosec // reproducible, and small
		for k := range load.Keys {
			aggregate := types[k%len(types)]
			one.own = append(one.own, one.target(aggregate, fmt.Sprintf("%s-w%d-%d", aggregate, i, k)))
			one.alone = append(one.alone, one.target(aggregate, fmt.Sprintf("%s-w%d-%d-alone", aggregate, i, k)))
		}
		for k := range load.Shared {
			aggregate := types[k%len(types)]
			one.shared = append(one.shared, one.target(aggregate, fmt.Sprintf("%s-shared-%d", aggregate, k)))
		}
		w.group.Go(one.run)
	}
	return w
}

func (l *Load) fill() {
	if l.Writers == 0 {
		l.Writers = 4
	}
	if l.Keys == 0 {
		l.Keys = 20
	}
	if l.Shared == 0 {
		l.Shared = 5
	}
	if l.RollBack == 0 {
		l.RollBack = 0.05
	}
	if l.Size == nil {
		l.Size = Small
	}
	if l.Huge == nil {
		l.Huge = func(rng *rand.Rand) int { return 25_000 + rng.IntN(35_000) }
	}
	if l.Place == nil {
		l.Place = func(string, int) ledger.Place { return ledger.InTopic }
	}
	if len(l.Kinds) == 0 {
		l.Kinds = Mixed()
	}
}

// Stop has every writer end its transaction and ends them. The error is that of a writer that could not go on.
func (w *Writers) Stop() error {
	w.once.Do(func() { close(w.stop) })
	return w.Wait()
}

// Wait waits until the writers have written all their Rows.
func (w *Writers) Wait() error {
	w.group.Wait()
	err := context.Cause(w.ctx)
	w.cancel(nil)
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// Hold stops all writing to the topic of an aggregate type, until release.
func (w *Writers) Hold(aggregate string) (release func()) {
	w.held[aggregate].Lock()
	return w.held[aggregate].Unlock
}

// WriteHuge makes the next row Huge.
func (w *Writers) WriteHuge() { w.huge.Add(1) }

// SetRate changes Load.Rate.
func (w *Writers) SetRate(rate float64) { w.pace.set(rate) }

// Rows is how many rows have been written, rolled back ones included.
func (w *Writers) Rows() int { return int(w.rows.Load()) }

// TopicPrefix is what tidemark puts before an aggregate type to make a topic, by default.
const TopicPrefix = "outbox.event."

// OutboxSQL creates the outbox table, as Debezium's Event Router has it.
const OutboxSQL = `create table outbox (
	id uuid primary key, aggregatetype varchar(255) not null, aggregateid varchar(255) not null,
	type varchar(255) not null, payload jsonb)`

// EmittedSQL creates the table that says which messages were committed, for Settle. It is no outbox.
const EmittedSQL = `create table emitted (id uuid primary key)`

// MessagePrefix is that of the messages.
const MessagePrefix = "outbox"

// target is a key that can be written to.
type target struct {
	aggregate, key string
	number         ledger.Key
}

type writer struct {
	*Writers
	number int
	dsn    string
	rng    *rand.Rand
	own    []target // keys that nobody else writes to
	shared []target
	alone  []target // keys of messages that belong to no transaction
	conn   *pgx.Conn
	open   []ledger.Event // of the transaction
	locks  []*sync.RWMutex
}

func (w *writer) target(aggregate, key string) target {
	return target{aggregate, key, w.ledger.Key(TopicPrefix+aggregate, key)}
}

// run writes one transaction after the other.
func (w *writer) run() {
	defer w.disconnect()
	for {
		select {
		case <-w.stop:
			return
		case <-w.ctx.Done():
			return
		default:
		}
		if w.load.Rows > 0 && w.Rows() >= w.load.Rows {
			return
		}
		err := w.connect()
		if err == nil {
			err = w.transaction(w.load.Kinds[w.rng.IntN(len(w.load.Kinds))])
		}
		if err == nil {
			continue
		}
		if !passes(err) {
			w.cancel(err)
			return
		}
		w.disconnect()
		w.rest(time.Duration(50+w.rng.IntN(150)) * time.Millisecond)
	}
}

func (w *writer) connect() error {
	if w.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	config, err := pgx.ParseConfig(w.dsn)
	if err != nil {
		return &stuck{err}
	}
	config.RuntimeParams["application_name"] = WriterName
	w.conn, err = pgx.ConnectConfig(ctx, config)
	return err
}

// WriterName is the application_name of the writers' connections.
const WriterName = "trial-writer"

func (w *writer) disconnect() {
	if w.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = w.conn.Close(ctx) // it may be broken
		w.conn = nil
	}
}

// stuck is an error that no new connection mends: a fault of the trial.
type stuck struct{ error }

// passes reports whether an error is one of those that a server's restart or a broken connection brings.
func passes(err error) bool {
	if _, ok := errors.AsType[*stuck](err); ok {
		return false
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return true // the connection broke, or there was none
	}
	// Connection exceptions, operator interventions (the server stops), and too many clients while old ones linger.
	return strings.HasPrefix(pgErr.Code, "08") || strings.HasPrefix(pgErr.Code, "57P") || pgErr.Code == "53300"
}

// rest waits, but not longer than the writer is to go on.
func (w *writer) rest(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.stop:
	case <-w.ctx.Done():
	}
}

// transaction runs one transaction and enters what became of it.
func (w *writer) transaction(kind Kind) (err error) {
	w.open = w.open[:0]
	committing := false
	defer func() {
		for _, lock := range w.locks {
			lock.RUnlock()
		}
		w.locks = w.locks[:0]
		switch {
		case err == nil:
		case committing:
			w.ledger.Tell(ledger.Unknown, w.open...)
		default: // COMMIT was never sent
			w.ledger.Tell(ledger.RolledBack, w.open...)
		}
	}()
	keys := w.hold()
	if len(keys.own) == 0 {
		w.rest(20 * time.Millisecond)
		return nil
	}
	// Postgres gives advisory locks up after the commit is visible. So a key's transactions commit in the order in which
	// they get its lock: also behind one whose client is gone, but whose server process still commits.
	shared := w.pickShared(keys.shared)
	if err := w.exec("begin"); err != nil {
		return err
	}
	for _, id := range append([]int64{int64(1000 + w.number)}, shared...) {
		if err := w.exec("select pg_advisory_xact_lock($1)", id); err != nil {
			return err
		}
	}
	t := &Transaction{w: w, own: keys.own}
	for _, i := range shared {
		t.shared = append(t.shared, w.shared[i])
	}
	if err := kind(t); err != nil {
		return err
	}
	commit, rollBack := "commit", "rollback"
	if w.load.TwoPhase {
		name := fmt.Sprintf("'trial-%x'", w.rng.Uint64())
		if err := w.exec("prepare transaction " + name); err != nil {
			return &stuck{err} // nobody else would end it
		}
		w.rest(time.Duration(w.rng.IntN(20)) * time.Millisecond)
		commit, rollBack = "commit prepared "+name, "rollback prepared "+name
	}
	if w.rng.Float64() < w.load.RollBack {
		if err := w.exec(rollBack); err != nil {
			return err
		}
		w.ledger.Tell(ledger.RolledBack, w.open...)
		return nil
	}
	committing = true
	if err := w.exec(commit); err != nil {
		return err
	}
	w.ledger.Tell(ledger.Committed, w.open...)
	return nil
}

// writable are the keys that a transaction may write to: those whose topics nobody holds.
type writable struct {
	own    []target
	shared []int64 // indexes
}

// hold keeps Hold out until the transaction has ended, for every topic that is not held already.
func (w *writer) hold() writable {
	var free []string
	for aggregate, lock := range w.held {
		if lock.TryRLock() {
			w.locks = append(w.locks, lock)
			free = append(free, aggregate)
		}
	}
	var keys writable
	for _, t := range w.own {
		if slices.Contains(free, t.aggregate) {
			keys.own = append(keys.own, t)
		}
	}
	for i, t := range w.shared {
		if slices.Contains(free, t.aggregate) {
			keys.shared = append(keys.shared, int64(i))
		}
	}
	return keys
}

// pickShared chooses the shared keys of a transaction, mostly none. They are sorted, since they are locked in this order.
func (w *writer) pickShared(from []int64) []int64 {
	if len(from) == 0 || w.rng.IntN(4) > 0 {
		return nil
	}
	picked := []int64{from[w.rng.IntN(len(from))]}
	if other := from[w.rng.IntN(len(from))]; other != picked[0] {
		picked = append(picked, other)
	}
	slices.Sort(picked)
	return picked
}

func (w *writer) exec(sql string, args ...any) error {
	if _, err := w.conn.Exec(w.ctx, sql, args...); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// pacer spreads rows evenly over time.
type pacer struct {
	mu   sync.Mutex
	rate float64
	next time.Time
}

func (p *pacer) set(rate float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = rate
}

// delay books n rows and returns how long to wait before they are written.
func (p *pacer) delay(n int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate <= 0 {
		return 0
	}
	now := time.Now()
	if p.next.Before(now.Add(-time.Second)) { // what an outage held up is not made good all at once
		p.next = now.Add(-time.Second)
	}
	wait := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
	return wait
}
