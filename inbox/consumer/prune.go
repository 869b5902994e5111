package consumer

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/inbox"
)

// Retention says how long rows of the inbox are kept beyond what Kafka says. Zero values are the defaults.
type Retention struct {
	// Margin is the longest time between a record and another copy of the same event in the topic, for instance after an
	// outage of the relay. Default: 24h.
	Margin time.Duration
	// Forever is for topics that keep records for ever, or compact them: how long after an event was handled its row is kept,
	// if the group has passed it. A group that is reset to before that time handles events again. Default: rows of such
	// topics are kept for ever, too.
	Forever time.Duration
}

// PruneLimits asks Kafka which records cannot be delivered to the group any more, for inbox.Prune. A record cannot
// when the log of its partition starts behind it and the group has committed beyond it; another copy of its event cannot when
// retention.ms and segment.ms (a segment is deleted as a whole, after its last record is due), and the margin, have
// passed. It needs the right to describe the group, the topics and their configuration.
//
//	limits, err := consumer.PruneLimits(ctx, client, "billing", consumer.Retention{})
//	if err != nil {
//		return err
//	}
//	deleted, err := inbox.Prune(ctx, pool, "billing", limits...)
func PruneLimits(ctx context.Context, client *kgo.Client, group string, retention Retention) ([]inbox.Limit, error) {
	def(&retention.Margin, 24*time.Hour)
	admin := kadm.NewClient(client)
	committed, err := admin.FetchOffsets(ctx, group)
	if err == nil {
		err = committed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("offsets of group %s: %w", group, err)
	}
	topics := committed.Partitions().Topics()
	if len(topics) == 0 {
		return nil, nil
	}
	starts, err := admin.ListStartOffsets(ctx, topics...)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("starts of the topics of group %s: %w", group, err)
	}
	configs, err := admin.DescribeTopicConfigs(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("configuration of the topics of group %s: %w", group, err)
	}
	var limits []inbox.Limit
	for _, config := range configs {
		if config.Err != nil {
			return nil, fmt.Errorf("configuration of topic %s: %w", config.Name, config.Err)
		}
		age, ends := keeps(config, retention)
		if age == 0 {
			continue
		}
		for number, at := range committed[config.Name] {
			before := at.At
			if start, ok := starts.Lookup(config.Name, number); ok && ends {
				before = min(before, start.Offset)
			}
			limits = append(limits, inbox.Limit{Topic: config.Name, Partition: number, Before: before, Age: age})
		}
	}
	return limits, nil
}

// keeps returns for how long a row is kept, 0 for ever, and whether the topic's records have an end of their own.
func keeps(topic kadm.ResourceConfig, r Retention) (age time.Duration, ends bool) {
	values := make(map[string]string)
	for _, c := range topic.Configs {
		values[c.Key] = c.MaybeValue()
	}
	retention, err := strconv.ParseInt(values["retention.ms"], 10, 64)
	segment, err2 := strconv.ParseInt(values["segment.ms"], 10, 64)
	const longest = int64(1<<63-1) / int64(time.Millisecond) / 4 // of which several can be added up
	if err != nil || err2 != nil || retention < 0 || retention > longest || segment > longest || !strings.Contains(values["cleanup.policy"], "delete") {
		return r.Forever, false
	}
	return time.Duration(retention+segment)*time.Millisecond + r.Margin, true
}
