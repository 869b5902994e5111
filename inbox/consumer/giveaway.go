package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// giveAway ends the work on partitions (nil: on all), waits for what is under way, and commits what was handled. After
// that nothing is committed for them: whatever ends later is the next owner's, to whom the inbox shows what
// was handled.
func (c *Consumer) giveAway(ctx context.Context, revoked map[string][]int32) {
	given := c.halt(revoked)
	ended := make(chan struct{})
	go func() { // ends with the attempts, which end soon after they are cancelled
		defer close(ended)
		for _, p := range given {
			p.attempts.Wait()
		}
	}()
	timer := time.NewTimer(c.cfg.DrainTimeout)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
	c.committing.Lock()
	defer c.committing.Unlock()
	c.commitNow(ctx, given)
	c.forget(given)
}

// lose ends the work on partitions that another member may have already: nothing is committed.
func (c *Consumer) lose(lost map[string][]int32) {
	c.committing.Lock()
	defer c.committing.Unlock()
	c.forget(c.halt(lost))
}

// owned are the partitions of now.
func (c *Consumer) owned() []*partition {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*partition
	for _, p := range c.partitions {
		all = append(all, p)
	}
	return all
}

// halt lets no attempt begin on those partitions (nil: on any).
func (c *Consumer) halt(which map[string][]int32) []*partition {
	c.mu.Lock()
	defer c.mu.Unlock()
	var halted []*partition
	if which == nil {
		for _, p := range c.partitions {
			halted = append(halted, p)
		}
	}
	for topic, numbers := range which {
		for _, n := range numbers {
			if p := c.partitions[place{topic, n}]; p != nil {
				halted = append(halted, p)
			}
		}
	}
	for _, p := range halted {
		p.halt()
	}
	return halted
}

// forget cancels what is still under way on those partitions, and lets them go.
func (c *Consumer) forget(given []*partition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range given {
		p.cancel()
		if c.partitions[p.place] == p {
			delete(c.partitions, p.place)
			c.uncommitted -= len(p.items)
		}
	}
	c.wake()
}

// commitTimeout is how long a commit may take.
const commitTimeout = 15 * time.Second

// commit stores how far the partitions are handled.
func (c *Consumer) commit(ctx context.Context) {
	c.committing.Lock()
	defer c.committing.Unlock()
	c.commitNow(ctx, c.owned())
}

// commitNow is for who holds committing.
func (c *Consumer) commitNow(ctx context.Context, partitions []*partition) {
	offsets := c.toCommit(partitions)
	if len(offsets) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	var errs []error
	c.client.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, answer *kmsg.OffsetCommitResponse, err error) {
		if errs = append(errs, err); answer == nil {
			return
		}
		for _, t := range answer.Topics {
			for _, p := range t.Partitions {
				errs = append(errs, kerr.ErrorForCode(p.ErrorCode))
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		if ctx.Err() == nil || !errors.Is(err, context.Canceled) {
			c.cfg.Hooks.Error(fmt.Errorf("commit offsets: %w", err))
		}
		return
	}
	c.committed(partitions, offsets)
}

func (c *Consumer) toCommit(partitions []*partition) map[string]map[int32]kgo.EpochOffset {
	c.mu.Lock()
	defer c.mu.Unlock()
	offsets := make(map[string]map[int32]kgo.EpochOffset)
	for _, p := range partitions {
		if p.safe == p.committed || c.partitions[p.place] != p {
			continue
		}
		if offsets[p.topic] == nil {
			offsets[p.topic] = make(map[int32]kgo.EpochOffset)
		}
		offsets[p.topic][p.partition] = p.safe
	}
	return offsets
}

func (c *Consumer) committed(partitions []*partition, offsets map[string]map[int32]kgo.EpochOffset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range partitions {
		if at, ok := offsets[p.topic][p.partition]; ok {
			p.committed = at
		}
	}
}
