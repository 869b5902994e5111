package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/inbox"
)

// Consumer reads topics as a member of a group. Make it with [New].
type Consumer struct {
	cfg    Config
	opts   []inbox.Option
	client *kgo.Client

	turns   chan struct{} // as many as there may be attempts at a time
	freed   chan struct{} // there may be room again
	running sync.WaitGroup

	mu          sync.Mutex
	base        context.Context // of the partitions: not the caller's, whose end lets them finish first
	partitions  map[place]*partition
	lanes       map[lane][]*item // with a goroutine each: what waits in it
	records     int              // taken and not handled
	bytes       int
	uncommitted int // handled or not, behind one that is not

	committing sync.Mutex // one commit at a time, and none beside a partition's being given away
}

// New checks the configuration. Nothing is connected before [Consumer.Run].
func New(cfg Config) (*Consumer, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	if err := kgo.ValidateOpts(cfg.kafkaOptions()...); err != nil {
		return nil, fmt.Errorf("consumer: options of the Kafka client: %w", err)
	}
	c := &Consumer{
		cfg: cfg, opts: []inbox.Option{inbox.BehindParked()},
		turns: make(chan struct{}, cfg.Concurrency), freed: make(chan struct{}, 1),
		partitions: make(map[place]*partition), lanes: make(map[lane][]*item),
	}
	if cfg.DropStale {
		c.opts = append(c.opts, inbox.DropStale())
	}
	return c, nil
}

// Run reads and handles until ctx ends. Then it takes no more, lets what is under way finish for up to Config.DrainTimeout,
// commits, leaves the group, and returns nil. It returns an error early if a topic cannot be read and trying again
// would not help. It is called once.
func (c *Consumer) Run(ctx context.Context) error {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	c.base = base
	client, err := kgo.NewClient(append(c.cfg.kafkaOptions(),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, revoked map[string][]int32) { c.giveAway(base, revoked) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) { c.lose(lost) }),
	)...)
	if err != nil {
		return fmt.Errorf("consumer: %w", err)
	}
	c.client = client

	beside, stop := context.WithCancel(ctx)
	var others sync.WaitGroup
	others.Go(func() { every(beside, c.cfg.CommitInterval, func() { c.commit(beside) }) })        // ends with beside
	others.Go(func() { every(beside, c.cfg.ReleaseInterval, func() { c.handleParked(beside) }) }) // ends with beside
	err = c.read(ctx)
	stop()
	others.Wait()

	c.giveAway(base, nil)
	client.CloseAllowingRebalance()
	cancel()
	c.running.Wait()
	return err
}

// read takes records until ctx ends.
func (c *Consumer) read(ctx context.Context) error {
	for {
		n := c.room(ctx)
		if n == 0 {
			return nil
		}
		fetches := c.client.PollRecords(ctx, n)
		if done(ctx) {
			return nil // what was fetched is not committed, and comes again
		}
		if err := c.judge(fetches); err != nil {
			c.client.AllowRebalance()
			return err
		}
		fetches.EachRecord(c.take)
		c.client.AllowRebalance() // not before the records are where giveAway sees them
	}
}

func done(ctx context.Context) bool { return ctx.Err() != nil }

// judge reports errors of a fetch, and returns those that do not pass.
func (c *Consumer) judge(fetches kgo.Fetches) error {
	var fatal error
	fetches.EachError(func(topic string, partition int32, err error) {
		if topic != "" {
			err = fmt.Errorf("read partition %d of topic %s: %w", partition, topic, err)
		}
		_, dataLoss := errors.AsType[*kgo.ErrDataLoss](err)
		_, session := errors.AsType[*kgo.ErrGroupSession](err)
		var answer *kerr.Error
		if errors.Is(err, kgo.ErrClientClosed) || errors.As(err, &answer) && !answer.Retriable && !dataLoss && !session {
			fatal = err
			return
		}
		c.cfg.Hooks.Error(err)
	})
	return fatal
}

// every calls f once an interval until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			f()
		case <-ctx.Done():
			return
		}
	}
}
