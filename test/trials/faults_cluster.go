package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tidemark/tidemark/test/trial"
)

// clusterFaults are those of a cluster of three brokers, with three replicas of each topic and min.insync.replicas=2.
func clusterFaults() []fault {
	return []fault{
		{
			Name: "brokers_3_kill_each", Three: true,
			What:   "three brokers, min.insync.replicas=2: SIGKILL of each in turn, started again after 2 to 6 s, tidemark killed meanwhile every other time; events have to arrive all the time",
			Inject: killEachBroker,
		},
		{
			Name: "brokers_3_rolling", Three: true,
			What:   "three brokers: each is stopped in order and started again, one after the other; events have to arrive all the time",
			Inject: restartEachBroker,
		},
		{
			Name: "brokers_3_no_leader", Three: true,
			What:   "three brokers: SIGKILL of two, so that partitions have no leader and the cluster no quorum, for 5 to 15 s, tidemark killed meanwhile every other time",
			Inject: killTwoBrokers,
		},
		{
			Name: "brokers_3_too_few_replicas", Three: true,
			What:   "three brokers: one is killed while all three have to have a record, for 5 to 10 s, tidemark killed meanwhile every other time",
			Inject: tooFewReplicas,
		},
		{
			Name: "brokers_3_leaders_move", Three: true,
			What:   "three brokers: the leaders of all partitions move to other brokers, again and again, tidemark killed every other time",
			Inject: moveLeaders,
		},
	}
}

// killSometimes kills tidemark every other time, whether it is ready or not.
func (s *stack) killSometimes() error {
	if s.rng.IntN(2) == 0 {
		return nil
	}
	s.done["kills"]++
	return s.instances[0].kill()
}

// flows waits until an event has arrived that is written from now on.
func (s *stack) flows(ctx context.Context) error {
	_, err := s.awaitArrival(ctx, time.Now())
	return err
}

// whole waits until every replica of the topics is in sync.
func (s *stack) whole(ctx context.Context) error {
	missing := ""
	err := trial.Await(ctx, "every replica is in sync", 2*time.Minute, func() (bool, error) {
		topics, err := s.admin.ListTopics(kadm.WithAuthorizedOps(ctx), s.Topics()...)
		if err != nil {
			missing = err.Error()
			return false, nil //nolint:nilerr // the brokers are coming back
		}
		whole := true
		topics.EachPartition(func(p kadm.PartitionDetail) {
			if p.Err != nil || len(p.ISR) < 3 {
				whole = false
				missing = fmt.Sprintf("%s/%d has %v in sync (%v)", p.Topic, p.Partition, p.ISR, p.Err)
			}
		})
		return whole, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, missing)
	}
	return nil
}

func killEachBroker(ctx context.Context, s *stack) (func() error, error) {
	for i := range s.kafka.Brokers() {
		if err := s.kafka.Kill(i); err != nil {
			return nil, err
		}
		s.hold(ctx, s.between(0, 2*time.Second))
		if err := s.killSometimes(); err != nil {
			return nil, err
		}
		if err := s.flows(ctx); err != nil { // two are enough
			return nil, err
		}
		s.hold(ctx, s.between(time.Second, 4*time.Second))
		if err := s.kafka.Start(ctx, i); err != nil {
			return nil, err
		}
		if err := s.whole(ctx); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func restartEachBroker(ctx context.Context, s *stack) (func() error, error) {
	for i := range s.kafka.Brokers() {
		if err := s.kafka.Stop(i); err != nil {
			return nil, err
		}
		if err := s.flows(ctx); err != nil {
			return nil, err
		}
		if err := s.kafka.Start(ctx, i); err != nil {
			return nil, err
		}
		if err := s.whole(ctx); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func killTwoBrokers(ctx context.Context, s *stack) (func() error, error) {
	stays := s.rng.IntN(3)
	for i := range s.kafka.Brokers() {
		if i != stays {
			if err := s.kafka.Kill(i); err != nil {
				return nil, err
			}
		}
	}
	s.hold(ctx, s.between(0, 5*time.Second))
	if err := s.killSometimes(); err != nil {
		return nil, err
	}
	s.hold(ctx, s.between(5*time.Second, 10*time.Second))
	return func() error {
		for i := range s.kafka.Brokers() {
			if err := s.kafka.Start(ctx, i); err != nil { // the one that stays runs
				return err
			}
		}
		return s.whole(ctx)
	}, nil
}

func tooFewReplicas(ctx context.Context, s *stack) (func() error, error) {
	need := func(replicas string) error {
		_, err := s.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "min.insync.replicas", Value: &replicas}}, s.Topics()...)
		if err != nil {
			return fmt.Errorf("set min.insync.replicas: %w", err)
		}
		return nil
	}
	if err := need("3"); err != nil {
		return nil, err
	}
	i := s.rng.IntN(3)
	if err := s.kafka.Kill(i); err != nil {
		return nil, err
	}
	s.hold(ctx, s.between(0, 5*time.Second))
	if err := s.killSometimes(); err != nil {
		return nil, err
	}
	s.hold(ctx, s.between(3*time.Second, 6*time.Second))
	return func() error {
		if s.rng.IntN(2) == 0 { // two are enough again, before the third is back
			if err := need("2"); err != nil {
				return err
			}
			if err := s.flows(ctx); err != nil {
				return err
			}
		}
		if err := s.kafka.Start(ctx, i); err != nil {
			return err
		}
		if err := s.whole(ctx); err != nil {
			return err
		}
		return need("2")
	}, nil
}

// moveLeaders makes another broker the preferred leader of each partition, and then the leader.
func moveLeaders(ctx context.Context, s *stack) (func() error, error) {
	topics, err := s.admin.ListTopics(kadm.WithAuthorizedOps(ctx), s.Topics()...)
	if err != nil {
		return nil, fmt.Errorf("look up the leaders: %w", err)
	}
	var move kadm.AlterPartitionAssignmentsReq
	var all kadm.TopicsSet
	topics.EachPartition(func(p kadm.PartitionDetail) {
		if p.Err == nil && len(p.Replicas) == 3 {
			move.Assign(p.Topic, p.Partition, []int32{p.Replicas[1], p.Replicas[2], p.Replicas[0]})
			all.Add(p.Topic, p.Partition)
		}
	})
	if len(all) == 0 {
		return nil, nil // nothing was published yet
	}
	if _, err := s.admin.AlterPartitionAssignments(ctx, move); err != nil {
		return nil, fmt.Errorf("move the replicas: %w", err)
	}
	if _, err := s.admin.ElectLeaders(ctx, kadm.ElectPreferredReplica, all); err != nil {
		return nil, fmt.Errorf("elect the leaders: %w", err)
	}
	s.done["times leaders moved"]++
	return nil, s.killSometimes()
}
