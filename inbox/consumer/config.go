package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/inbox"
)

// DB begins transactions: a *pgxpool.Pool. Each event under way uses one connection; a pool that has fewer than
// Config.Concurrency lets the others wait.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	inbox.Execer
}

// Config says what to read, and what to do with it. Zero values are the defaults.
type Config struct {
	// Kafka are options of the client: at least kgo.SeedBrokers, else what the connection needs. Group, topics, commits and
	// rebalances are set by the consumer.
	Kafka []kgo.Opt
	// Group is the consumer group. Required.
	Group string
	// Topics to read. Required. A topic need not exist yet.
	Topics []string
	// DB is the database with the inbox (see inbox.Create) and the consumer's own data. Required.
	DB DB
	// Handle does the work for one event, in tx, which it neither commits nor rolls back. It may be called more than once for
	// an event, but only one call's transaction is committed. It is called by several goroutines at once, and returns soon
	// after ctx ends. A panic counts as an error. Required.
	Handle func(ctx context.Context, tx pgx.Tx, e inbox.Event) error

	// Name is the consumer's name in the inbox. Default: Group.
	Name string
	// DropStale drops events that are not later than the last one of their key; see inbox.DropStale.
	DropStale bool
	// Event makes the event of a record. Default: [Event]. A record for which it returns an error is parked.
	Event func(r *kgo.Record) (inbox.Event, error)

	// Concurrency is how many events are handled at the same time. Default: 8.
	Concurrency int
	// Attempts is how often an event is tried before it is parked. Default: 10, which takes about a minute with the
	// default waits.
	Attempts int
	// Backoff is the wait after the first failure; it doubles with each one up to MaxBackoff, and half of it is random.
	// Default: 100ms, and 30s.
	Backoff, MaxBackoff time.Duration
	// HandleTimeout limits one attempt: waiting for a connection, the transaction, and the work in it. Work that takes longer
	// has failed. Default: 1m.
	HandleTimeout time.Duration
	// DrainTimeout is how long events under way may take when their partition is given away, or at the end. Default: 30s.
	DrainTimeout time.Duration
	// CommitInterval is how often offsets are committed. Default: 1s.
	CommitInterval time.Duration
	// ReleaseInterval is how often parked events are looked for that are due. Default: 2s.
	ReleaseInterval time.Duration
	// MaxRecords is how many records are held at most whose events are not handled yet. Default: 1000.
	MaxRecords int
	// MaxBytes of keys, values and headers of those records: no more are fetched beyond it. Default: 32 MiB.
	MaxBytes int

	// Hooks report what happens, for logs and metrics.
	Hooks Hooks
}

// Hooks are called as things happen, by several goroutines at once, and should return soon. Each may be nil.
type Hooks struct {
	// Done reports an event that has been dealt with, after its transaction was committed: what has become of it, and how long
	// its last attempt took.
	Done func(e inbox.Event, outcome inbox.Outcome, took time.Duration)
	// Retry reports a failed attempt, the attempt's number, and the wait before the next. A number of 0 is a failure of the
	// database, which is not the event's and counts for none.
	Retry func(e inbox.Event, attempt int, wait time.Duration, err error)
	// Park reports an event that is parked now until somebody decides, and why.
	Park func(e inbox.Event, err error)
	// Error reports what went wrong with no event in particular, and is tried again: fetches, commits, the look for
	// parked events.
	Error func(err error)
}

func (c *Config) setDefaults() error {
	var errs []error
	missing := func(is bool, what string) {
		if is {
			errs = append(errs, fmt.Errorf("consumer: %s is missing", what))
		}
	}
	missing(c.Group == "", "Group")
	missing(len(c.Topics) == 0, "Topics")
	missing(c.DB == nil, "DB")
	missing(c.Handle == nil, "Handle")
	def(&c.Name, c.Group)
	def(&c.Concurrency, 8)
	def(&c.Attempts, 10)
	def(&c.Backoff, 100*time.Millisecond)
	def(&c.MaxBackoff, 30*time.Second)
	def(&c.HandleTimeout, time.Minute)
	def(&c.DrainTimeout, 30*time.Second)
	def(&c.CommitInterval, time.Second)
	def(&c.ReleaseInterval, 2*time.Second)
	def(&c.MaxRecords, 1000)
	def(&c.MaxBytes, 32<<20)
	if c.Event == nil {
		c.Event = Event
	}
	if c.Hooks.Done == nil {
		c.Hooks.Done = func(inbox.Event, inbox.Outcome, time.Duration) {}
	}
	if c.Hooks.Retry == nil {
		c.Hooks.Retry = func(inbox.Event, int, time.Duration, error) {}
	}
	if c.Hooks.Park == nil {
		c.Hooks.Park = func(inbox.Event, error) {}
	}
	if c.Hooks.Error == nil {
		c.Hooks.Error = func(error) {}
	}
	if c.Concurrency < 0 || c.Attempts < 0 || c.MaxRecords < 0 || c.MaxBytes < 0 || c.Backoff < 0 || c.MaxBackoff < 0 ||
		c.HandleTimeout < 0 || c.DrainTimeout < 0 || c.CommitInterval < 0 || c.ReleaseInterval < 0 {
		errs = append(errs, errors.New("consumer: a number or duration is negative"))
	}
	return errors.Join(errs...)
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// kafkaOptions are the defaults, the caller's, and those on which the promises rest.
func (c *Config) kafkaOptions() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxBytes(8 << 20),
	}
	opts = append(opts, c.Kafka...)
	return append(opts,
		kgo.ConsumerGroup(c.Group),
		kgo.ConsumeTopics(c.Topics...),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.RebalanceTimeout(c.DrainTimeout+30*time.Second), // a member that drains is waited for
	)
}
