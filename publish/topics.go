package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// TopicOptions say whether and how a topic that is not there is created.
type TopicOptions struct {
	Create            bool
	Partitions        int32 // -1: the broker's default
	ReplicationFactor int16 // -1: the broker's default
	Configs           map[string]string
}

// defaultMaxMessageBytes is the brokers' default for max.message.bytes, and the client's for a batch.
const defaultMaxMessageBytes = 1000012

// Known reports whether the topic has been prepared.
func (p *Publisher) Known(name string) bool { return p.topic(name) != nil }

// Prepare makes sure that the topics exist, creating them where that is allowed, and learns their limits and where they
// end. It asks the broker and so may take long: not on the goroutine that keeps the replication connection alive. After
// an error the topics are not known; IsPoison tells a topic that cannot be from a broker that cannot be reached.
func (p *Publisher) Prepare(ctx context.Context, names []string) error {
	details, missing, err := p.lookUp(ctx, names)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		if err := p.create(ctx, missing); err != nil {
			return err
		}
		// Once more, from the broker: another process may have been quicker, and with other partitions.
		if details, missing, err = p.lookUp(ctx, names); err != nil {
			return err
		}
		if len(missing) > 0 {
			return fmt.Errorf("topic %s was created and is not there yet", missing[0])
		}
	}
	ends, err := p.admin.ListEndOffsets(ctx, names...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("look up where the topics end: %w", err)
	}
	limits := p.limits(ctx, names)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		t := &topic{
			name: name, id: details[name].ID.String(), partitions: len(details[name].Partitions),
			maxMessageBytes: limits[name], base: map[int32]int64{}, ends: map[int32]int64{},
		}
		for _, end := range ends[name] {
			t.base[end.Partition] = end.Offset
		}
		p.topics[name] = t
	}
	return nil
}

func (p *Publisher) lookUp(ctx context.Context, names []string) (found kadm.TopicDetails, missing []string, err error) {
	// Asking for rights as well goes past the client's cache, which does not know of topics that were just created.
	found, err = p.admin.ListTopics(kadm.WithAuthorizedOps(ctx), names...)
	if err != nil {
		return nil, nil, fmt.Errorf("look up topics: %w", err)
	}
	for _, name := range names {
		d, ok := found[name]
		switch {
		case !ok || errors.Is(d.Err, kerr.UnknownTopicOrPartition):
			missing = append(missing, name)
		case d.Err != nil:
			return nil, nil, fmt.Errorf("look up topic %s: %w", name, d.Err)
		}
	}
	return found, missing, nil
}

// Base returns the id of a known topic, and where its partitions ended when it was prepared: before that, nothing of
// this publisher lies.
func (p *Publisher) Base(name string) (id string, ends map[int32]int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.topics[name]
	return t.id, t.base
}

func (p *Publisher) create(ctx context.Context, names []string) error {
	o := p.options.Topics
	if !o.Create {
		return fmt.Errorf("topic %s does not exist: create it, or set kafka.create_topics.enabled: true", names[0])
	}
	configs := make(map[string]*string, len(o.Configs))
	for k, v := range o.Configs {
		configs[k] = &v
	}
	created, err := p.admin.CreateTopics(ctx, o.Partitions, o.ReplicationFactor, configs, names...)
	if err != nil {
		return fmt.Errorf("create topic %s: %w", names[0], err)
	}
	for _, t := range created.Sorted() {
		if t.Err != nil && !errors.Is(t.Err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("create topic %s: %w (%s)", t.Topic, t.Err, t.ErrMessage)
		}
	}
	return nil
}

// limits returns max.message.bytes of each topic. Without the right to ask, the broker's default is assumed; a record
// that turns out too large is then refused by the broker instead of here.
func (p *Publisher) limits(ctx context.Context, names []string) map[string]int32 {
	limits := make(map[string]int32, len(names))
	for _, name := range names {
		limits[name] = defaultMaxMessageBytes
	}
	described, err := p.admin.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return limits
	}
	for _, d := range described {
		i := slices.IndexFunc(d.Configs, func(c kadm.Config) bool { return c.Key == "max.message.bytes" })
		if d.Err != nil || i < 0 || d.Configs[i].Value == nil {
			continue
		}
		if n, err := strconv.ParseInt(*d.Configs[i].Value, 10, 32); err == nil {
			limits[d.Name] = int32(n)
		}
	}
	return limits
}

// maxBatchBytes is what the client may put into one batch of a topic: what the broker accepts, and, where that is
// plenty, no more than the default unless a single record needs it.
func (p *Publisher) maxBatchBytes(name string) int32 {
	if t := p.topic(name); t != nil {
		return min(max(t.maxMessageBytes, 512), 1<<30)
	}
	return defaultMaxMessageBytes
}
