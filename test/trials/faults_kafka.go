package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tidemark/tidemark/test/trial"
)

// kafkaFaults are those of the broker, of the way to it and of the topics.
func kafkaFaults() []fault {
	return []fault{
		{
			Name: "broker_kill", What: "SIGKILL of the broker, started again after 1 to 4 s", Quick: true,
			Inject: func(ctx context.Context, s *stack) (func() error, error) {
				if err := s.kafka.Kill(0); err != nil {
					return nil, err
				}
				s.hold(ctx, s.between(time.Second, 4*time.Second))
				return func() error { return s.kafka.Start(ctx, 0) }, nil
			},
		},
		{
			Name: "broker_freeze", What: "the broker stands still (SIGSTOP) for longer than wal_sender_timeout", Hold: 12 * time.Second,
			Inject: func(_ context.Context, s *stack) (func() error, error) {
				return func() error { return s.kafka.Resume(0) }, s.kafka.Pause(0)
			},
		},
		{
			Name: "broker_freeze_and_kill", What: "SIGKILL of tidemark while the broker stands still: requests of the dead one are still before it", Hold: 6 * time.Second,
			Inject: func(ctx context.Context, s *stack) (func() error, error) {
				i, err := s.active(ctx)
				if err != nil {
					return nil, err
				}
				if err := s.kafka.Pause(0); err != nil {
					return nil, err
				}
				s.hold(ctx, s.between(0, time.Second))
				return func() error { return s.kafka.Resume(0) }, i.kill()
			},
		},
		{
			Name: "kafka_conn_reset", What: "every connection to the broker is reset", Quick: true,
			Inject: func(_ context.Context, s *stack) (func() error, error) {
				s.kafkaProxy.ResetPeer()
				return nil, nil
			},
		},
		{
			Name: "kafka_latency", What: "200 ms more to the broker and back", Hold: 5 * time.Second,
			Inject: func(_ context.Context, s *stack) (func() error, error) {
				s.kafkaProxy.Latency(200 * time.Millisecond)
				return s.kafkaProxy.Restore, nil
			},
		},
		{
			Name: "kafka_half_open", What: "the broker's side of every connection vanishes without a word", Hold: 25 * time.Second,
			Inject: func(_ context.Context, s *stack) (func() error, error) {
				s.kafkaProxy.Blackhole()
				return s.kafkaProxy.Restore, nil
			},
		},
		{
			Name: "kafka_cut", What: "the broker refuses connections", Quick: true, Hold: 3 * time.Second,
			Inject: func(_ context.Context, s *stack) (func() error, error) {
				s.kafkaProxy.Cut()
				return s.kafkaProxy.Restore, nil
			},
		},
		{
			Name: "topic_recreated", What: "a topic whose records have all been read is deleted and created again; the other topics go on; what was published beyond the checkpoint, a start over publishes in the new topic again", Alone: true,
			Inject: recreateTopic,
		},
		{
			Name: "max_message_lowered", What: "max.message.bytes of a topic falls below the size of some rows, with on_poison: stop", Alone: true, Hold: 5 * time.Second,
			Exits:  "it stops, as on_poison: stop says, until the limit is raised again",
			Inject: lowerLimit,
		},
		{
			Name: "partitions_added", What: "a topic gets one more partition while it is written to, and tidemark is killed", Alone: true,
			Inject: addPartition,
		},
	}
}

// recreateTopic holds the writers of a topic back until everything of it has arrived: what is in a topic when it is deleted
// is gone, and no fault of tidemark's.
func recreateTopic(ctx context.Context, s *stack) (func() error, error) {
	aggregate := s.Types[s.rng.IntN(len(s.Types))]
	topic := trial.TopicPrefix + aggregate
	release := s.writers.Hold(aggregate)
	defer release()
	err := trial.Await(ctx, "everything in "+topic+" has arrived", time.Minute, func() (bool, error) {
		return s.Ledger.Missing(topic) == 0, nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.Reader.AwaitEnd(ctx, topic); err != nil {
		return nil, err
	}
	if _, err := s.admin.DeleteTopic(ctx, topic); err != nil {
		return nil, fmt.Errorf("delete topic: %w", err)
	}
	gone := func() (bool, error) {
		topics, err := s.admin.ListTopics(ctx, topic)
		return err == nil && !topics.Has(topic), nil
	}
	if err := trial.Await(ctx, "the topic is gone", time.Minute, gone); err != nil {
		return nil, err
	}
	s.Reader.Renew(topic)
	if _, err := s.admin.CreateTopic(ctx, 3, 1, nil, topic); err != nil {
		return nil, fmt.Errorf("create topic: %w", err)
	}
	if s.rng.IntN(2) == 0 { // the process that has known the old one need not survive
		i, err := s.active(ctx)
		if err != nil {
			return nil, err
		}
		return nil, i.kill()
	}
	return nil, nil
}

func lowerLimit(ctx context.Context, s *stack) (func() error, error) {
	topic := trial.TopicPrefix + s.Types[s.rng.IntN(len(s.Types))]
	return func() error { return s.setLimit(ctx, "1000012", topic) }, s.setLimit(ctx, "1500", topic)
}

// setLimit sets max.message.bytes.
func (s *stack) setLimit(ctx context.Context, bytes string, topics ...string) error {
	answers, err := s.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &bytes}}, topics...)
	for _, answer := range answers {
		err = errors.Join(err, answer.Err)
	}
	if err != nil {
		return fmt.Errorf("set max.message.bytes: %w", err)
	}
	return nil
}

func addPartition(ctx context.Context, s *stack) (func() error, error) {
	topic := trial.TopicPrefix + s.Types[s.rng.IntN(len(s.Types))]
	if _, err := s.admin.CreatePartitions(ctx, 1, topic); err != nil {
		return nil, fmt.Errorf("add a partition: %w", err)
	}
	s.hold(ctx, s.between(0, 5*time.Second))
	i, err := s.active(ctx)
	if err != nil {
		return nil, err
	}
	return nil, i.kill()
}
