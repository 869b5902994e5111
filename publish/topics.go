package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/tidemark/tidemark/decode"
)

// TopicOptions say whether and how a topic that is not there is created.
type TopicOptions struct {
	Create            bool
	Partitions        int32 // -1: the broker's default
	ReplicationFactor int16 // -1: the broker's default
	Configs           map[string]string
	// MissingIsPoison makes a topic that is missing and may not be created a reason against its events. Otherwise it is
	// waited for.
	MissingIsPoison bool
}

// defaultMaxMessageBytes is the brokers' default for max.message.bytes, and the client's for a batch.
const defaultMaxMessageBytes = 1000012

// recheck is how long what stands against a topic or an event is believed without asking again.
const recheck = 10 * time.Second

// Known reports whether the topic has been prepared.
func (p *Publisher) Known(name string) bool {
	t := p.topic(name)
	return t != nil && (t.rejected == nil || time.Since(t.lookedAt) < recheck)
}

// Prepare makes sure that the topics exist, creating them where that is allowed, and learns their limits and where they
// end. It asks the broker and so may take long: not on the goroutine that keeps the replication connection alive. After
// an error the topics are not known. A topic that cannot be (its name, or no right to it) is no error here: it is known
// then as one whose events Check refuses.
func (p *Publisher) Prepare(ctx context.Context, names []string) error {
	found, missing, rejected, err := p.lookUp(ctx, names)
	if err == nil && len(missing) > 0 {
		if rejected, err = p.create(ctx, missing, rejected); err == nil {
			found, err = p.created(ctx, names, rejected)
		}
	}
	if err != nil {
		return err
	}
	writable := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return rejected[name] != nil })
	prepared, err := p.describe(ctx, writable, found)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range prepared {
		if known := p.topics[t.name]; known != nil && known.id == t.id {
			t.ends = known.ends
		}
		p.topics[t.name] = t
	}
	for name, reason := range rejected {
		p.topics[name] = &topic{name: name, rejected: reason, lookedAt: time.Now(), ends: map[int32]int64{}}
	}
	return nil
}

// created looks the topics up once more, from the broker: another process may have been quicker, and with other partitions. What
// the controller has made is not known to each broker at once, and is waited for: for seconds on a busy cluster.
func (p *Publisher) created(ctx context.Context, names []string, rejected map[string]error) (kadm.TopicDetails, error) {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return rejected[name] != nil })
	for pause := 20 * time.Millisecond; ; pause *= 2 {
		found, missing, again, err := p.lookUp(ctx, names)
		maps.Copy(rejected, again)
		if err != nil || len(missing) == 0 {
			return found, err
		}
		if pause > 3*time.Second { // after five in all
			return nil, fmt.Errorf("topic %s was created and is not there yet", missing[0])
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("topic %s was created and is not there yet: %w", missing[0], ctx.Err())
		case <-time.After(pause):
		}
	}
}

// describe returns what has to be known of topics that exist.
func (p *Publisher) describe(ctx context.Context, names []string, found kadm.TopicDetails) ([]*topic, error) {
	if len(names) == 0 {
		return nil, nil
	}
	ends, err := p.admin.ListEndOffsets(ctx, names...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("look up where the topics end: %w", err)
	}
	limits, err := p.limits(ctx, names)
	if err != nil {
		return nil, err
	}
	topics := make([]*topic, 0, len(names))
	for _, name := range names {
		t := &topic{
			name: name, id: found[name].ID.String(), partitions: int32(len(found[name].Partitions)), //nolint:gosec // Kafka counts them in 32 bits
			maxMessageBytes: limits[name], base: map[int32]int64{}, ends: map[int32]int64{}, lookedAt: time.Now(),
		}
		for _, end := range ends[name] {
			t.base[end.Partition] = end.Offset
		}
		topics = append(topics, t)
	}
	return topics, nil
}

// Base returns the id of a known topic, and where its partitions ended when it was prepared: before that, nothing of
// this publisher lies. ok is false for a topic that cannot be written to.
func (p *Publisher) Base(name string) (id string, ends map[int32]int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.topics[name]
	return t.id, t.base, t.rejected == nil
}

// MissingTopics returns which of the topics that were prepared are not there any more.
func (p *Publisher) MissingTopics(ctx context.Context) ([]string, error) {
	p.mu.Lock()
	var names []string
	for name, t := range p.topics {
		if t.rejected == nil {
			names = append(names, name)
		}
	}
	p.mu.Unlock()
	_, missing, _, err := p.lookUp(ctx, names)
	return missing, err
}

// EndOffsets returns where the partitions of the topics end now.
func (p *Publisher) EndOffsets(ctx context.Context, topics []string) (map[string]map[int32]int64, error) {
	listed, err := p.admin.ListEndOffsets(ctx, topics...)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("look up where the topics end: %w", err)
	}
	ends := make(map[string]map[int32]int64, len(listed))
	for name, partitions := range listed {
		ends[name] = make(map[int32]int64, len(partitions))
		for _, end := range partitions {
			ends[name][end.Partition] = end.Offset
		}
	}
	return ends, nil
}

// Check returns why the delivery's event cannot be published, nil if it can. Its topic must be Known, unless the event is
// poison already.
func (p *Publisher) Check(d *Delivery) error {
	ev := &d.Event
	if ev.Poison != nil {
		return ev.Poison
	}
	d.topic = p.topic(ev.Topic)
	return d.topic.check(ev)
}

func (t *topic) check(ev *decode.Event) error {
	switch {
	case t.rejected != nil:
		return t.rejected
	case !hasRecordTime(ev.Timestamp):
		return fmt.Errorf("the timestamp %s is none that a record can have, which are those of the years 1970 to 2261", ev.Timestamp.Format(time.RFC3339))
	case ev.Partition >= t.partitions:
		return fmt.Errorf("partition %d is asked for, and topic %s has %d", ev.Partition, t.name, t.partitions)
	case recordBytes(ev) > int(t.maxMessageBytes):
		return fmt.Errorf("the record takes %d bytes, and max.message.bytes of topic %s is %d: raise it there (and replica.fetch.max.bytes on the brokers), or make the event smaller",
			recordBytes(ev), t.name, t.maxMessageBytes)
	default:
		return nil
	}
}

// Distrust has what stands against the topics looked up again, however recently that was done.
func (p *Publisher) Distrust(names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		if t := p.topics[name]; t != nil {
			t.lookedAt = time.Time{}
		}
	}
}

// Outdated reports whether what Check has found against the delivery is no longer so: its topic has been changed since
// Prepare, by a higher limit or more partitions. Then it takes a new publisher, since the client learns a topic's limit
// once. The broker is asked, unless it was within the last seconds, and so this may take long.
func (p *Publisher) Outdated(ctx context.Context, d *Delivery) (bool, error) {
	p.mu.Lock()
	t := p.topics[d.Event.Topic]
	if d.Event.Poison != nil || t == nil || t.rejected != nil || time.Since(t.lookedAt) < recheck {
		p.mu.Unlock()
		return false, nil //nolint:nilerr // Poison is what stands against the event, and no topic's matter
	}
	t.lookedAt = time.Now()
	p.mu.Unlock()
	found, missing, rejected, err := p.lookUp(ctx, []string{t.name})
	if len(missing)+len(rejected) > 0 || err != nil {
		return false, err
	}
	limits, err := p.limits(ctx, []string{t.name})
	if err != nil {
		return false, err
	}
	now := topic{name: t.name, partitions: int32(len(found[t.name].Partitions)), maxMessageBytes: limits[t.name]} //nolint:gosec // Kafka counts partitions in 32 bits
	return now.check(&d.Event) == nil, nil
}

// hasRecordTime reports whether a record can have this timestamp. Kafka counts milliseconds since 1970, and a producer must
// not write negative ones; the client counts nanoseconds on the way, and what does not fit became another time without a
// word. The zero time leaves the choice to the client.
func hasRecordTime(t time.Time) bool {
	return t.IsZero() || (t.UnixMilli() >= 0 && t.UTC().Year() < 2262)
}

// recordBytes returns an upper bound of what a batch takes that holds this event alone, before compression. The client
// measures the same way, by the encoded size; varints are taken at their longest.
func recordBytes(ev *decode.Event) int {
	const batch, record, header = 61, 5 + 1 + 10 + 5 + 5 + 5 + 5, 10
	n := batch + record + len(ev.Key) + len(ev.Value)
	for _, h := range ev.Headers {
		n += header + len(h.Key) + len(h.Value)
	}
	return n
}

// RecordBytes is what Check holds against the topic's max.message.bytes.
func RecordBytes(ev *decode.Event) int { return recordBytes(ev) }

func (p *Publisher) lookUp(ctx context.Context, names []string) (found kadm.TopicDetails, missing []string, rejected map[string]error, err error) {
	rejected = map[string]error{}
	if len(names) == 0 {
		return nil, nil, rejected, nil
	}
	// Asking for rights as well goes past the client's cache, which does not know of topics that were just created.
	found, err = p.admin.ListTopics(kadm.WithAuthorizedOps(ctx), names...)
	if isForbidden(err) { // for one of them, and it does not say which
		return p.lookUpEach(ctx, names, err)
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("look up topics: %w", err)
	}
	for _, name := range names {
		d, ok := found[name]
		switch {
		case !ok || errors.Is(d.Err, kerr.UnknownTopicOrPartition):
			missing = append(missing, name)
		case IsPoison(d.Err):
			rejected[name] = fmt.Errorf("topic %s: %w", name, forbidden(d.Err, name))
		case d.Err != nil:
			return nil, nil, nil, fmt.Errorf("look up topic %s: %w", name, d.Err)
		}
	}
	return found, missing, rejected, nil
}

func (p *Publisher) lookUpEach(ctx context.Context, names []string, reason error) (found kadm.TopicDetails, missing []string, rejected map[string]error, err error) {
	if len(names) == 1 {
		return nil, nil, map[string]error{names[0]: fmt.Errorf("topic %s: %w", names[0], forbidden(reason, names[0]))}, nil
	}
	found, rejected = kadm.TopicDetails{}, map[string]error{}
	for _, name := range names {
		foundOne, missingOne, rejectedOne, err := p.lookUp(ctx, []string{name})
		if err != nil {
			return nil, nil, nil, err
		}
		maps.Copy(found, foundOne)
		maps.Copy(rejected, rejectedOne)
		missing = append(missing, missingOne...)
	}
	return found, missing, rejected, nil
}

// isForbidden reports whether the broker has refused the whole question because of a right that is missing.
func isForbidden(err error) bool {
	_, ok := errors.AsType[*kadm.AuthError](err)
	return ok
}

// create creates the topics. It adds to rejected those that cannot be.
func (p *Publisher) create(ctx context.Context, names []string, rejected map[string]error) (map[string]error, error) {
	o := p.options.Topics
	if !o.Create {
		for _, name := range names {
			err := fmt.Errorf("topic %s does not exist: create it, or set kafka.create_topics.enabled: true", name)
			if !o.MissingIsPoison {
				return nil, err
			}
			rejected[name] = err
		}
		return rejected, nil
	}
	configs := make(map[string]*string, len(o.Configs))
	for k, v := range o.Configs {
		configs[k] = &v
	}
	created, err := p.admin.CreateTopics(ctx, o.Partitions, o.ReplicationFactor, configs, names...)
	if err != nil {
		return nil, fmt.Errorf("create topic %s: %w", names[0], err)
	}
	for _, t := range created.Sorted() {
		switch {
		case t.Err == nil, errors.Is(t.Err, kerr.TopicAlreadyExists):
		case IsPoison(t.Err), o.MissingIsPoison && errors.Is(t.Err, kerr.ClusterAuthorizationFailed):
			rejected[t.Topic] = mayNotCreate(fmt.Errorf("create topic %s: %w (%s)", t.Topic, t.Err, t.ErrMessage), t.Topic)
		default:
			return nil, mayNotCreate(fmt.Errorf("create topic %s: %w (%s)", t.Topic, t.Err, t.ErrMessage), t.Topic)
		}
	}
	return rejected, nil
}

// limits returns max.message.bytes of each topic. Where the broker does not tell, for want of a right or otherwise, its
// default is assumed; a record that turns out too large is then refused by the broker instead of here. What passes is an
// error: a limit that is assumed too low would make good events poison for as long as the publisher lives.
func (p *Publisher) limits(ctx context.Context, names []string) (map[string]int32, error) {
	described, err := p.admin.DescribeTopicConfigs(ctx, names...)
	if isForbidden(err) && len(names) > 1 { // for one of them, and it does not say which
		limits := make(map[string]int32, len(names))
		for _, name := range names {
			one, err := p.limits(ctx, []string{name})
			if err != nil {
				return nil, err
			}
			maps.Copy(limits, one)
		}
		return limits, nil
	}
	limits := make(map[string]int32, len(names))
	for _, name := range names {
		limits[name] = defaultMaxMessageBytes
	}
	if err != nil {
		return limits, passing("look up max.message.bytes", err)
	}
	for _, d := range described {
		if err := passing("look up max.message.bytes of topic "+d.Name, d.Err); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(d.Configs, func(c kadm.Config) bool { return c.Key == "max.message.bytes" })
		if d.Err != nil || i < 0 || d.Configs[i].Value == nil {
			continue
		}
		if n, err := strconv.ParseInt(*d.Configs[i].Value, 10, 32); err == nil {
			limits[d.Name] = int32(n)
		}
	}
	return limits, nil
}

// passing returns err, with what was being done, unless it is an answer of Kafka's that will be the same next time.
func passing(what string, err error) error {
	if kafka, ok := errors.AsType[*kerr.Error](err); err == nil || (ok && !kafka.Retriable) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// maxBatchBytes is what the client may put into one batch of a topic: what the broker accepts, and, where that is
// plenty, no more than the default unless a single record needs it.
func (p *Publisher) maxBatchBytes(name string) int32 {
	if t := p.topic(name); t != nil {
		return min(max(t.maxMessageBytes, 512), 1<<30)
	}
	return defaultMaxMessageBytes
}
