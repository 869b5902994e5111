package publish

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
)

// LiveTopic is a topic as the brokers describe it.
type LiveTopic struct {
	Name       string
	Partitions int
	Replicas   int
	Configs    map[string]string // nil if we may not know them
}

// LiveTopics describes the topics whose names are wanted, sorted by name, internal ones left out.
func (o *Options) LiveTopics(ctx context.Context, wanted func(name string) bool) ([]LiveTopic, error) {
	client, err := o.Client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	details, err := admin.ListTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the topics: %w", err)
	}
	var topics []LiveTopic
	var names []string
	for _, t := range details.Sorted() {
		if t.Err != nil || !wanted(t.Topic) {
			continue
		}
		names = append(names, t.Topic)
		topics = append(topics, LiveTopic{Name: t.Topic, Partitions: len(t.Partitions), Replicas: t.Partitions.NumReplicas()})
	}
	if len(names) == 0 {
		return nil, nil
	}
	described, err := admin.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("look up the settings of the topics: %w", err)
	}
	for i := range topics {
		configs, err := described.On(topics[i].Name, nil)
		if err != nil || configs.Err != nil { // it takes a right of its own
			continue
		}
		topics[i].Configs = map[string]string{}
		for _, c := range configs.Configs {
			topics[i].Configs[c.Key] = c.MaybeValue()
		}
	}
	return topics, nil
}
