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

// Prepare makes sure that the topics exist, creating them where that is allowed, and learns their limits. It asks the
// broker and so may take long: not on the goroutine that keeps the replication connection alive. An error leaves
// those topics unknown; IsPoison tells a topic that cannot be from a broker that cannot be reached.
func (p *Publisher) Prepare(ctx context.Context, names []string) error {
	details, err := p.admin.ListTopics(ctx, names...)
	if err != nil {
		return fmt.Errorf("look up topics: %w", err)
	}
	var missing, found []string
	for _, name := range names {
		d, ok := details[name]
		switch {
		case !ok || errors.Is(d.Err, kerr.UnknownTopicOrPartition):
			missing = append(missing, name)
		case d.Err != nil:
			return fmt.Errorf("look up topic %s: %w", name, d.Err)
		default:
			found = append(found, name)
		}
	}
	if len(missing) > 0 {
		if err := p.create(ctx, missing); err != nil {
			return err
		}
		found = append(found, missing...)
	}
	limits := p.limits(ctx, found)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range found {
		p.topics[name] = &topic{name: name, maxMessageBytes: limits[name], ends: map[int32]int64{}}
	}
	return nil
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
