package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/test/trial"
)

// servers are what all trials share. Tidemark reaches both through a proxy; the writers and the ledger do not.
type servers struct {
	postgres      *devstack.Postgres
	kafka         *devstack.Kafka
	postgresProxy *devstack.Proxy
	kafkaProxy    *devstack.Proxy
	kafkaClient   []kgo.Opt // past the proxy
	client        *kgo.Client
	admin         *kadm.Client
	binary        string
	dir           string
	mode          string   // delivery.mode
	store         string   // checkpoint.store
	three         *servers // the same with a cluster of three brokers, once it was asked for
}

// clusterOf3 returns servers whose Kafka is a cluster of three brokers, without a proxy, where two have to have a record.
func (s *servers) clusterOf3(ctx context.Context) (*servers, error) {
	if s.three != nil {
		return s.three, nil
	}
	three := *s
	three.kafkaProxy, three.kafkaClient = nil, nil
	var err error
	three.kafka, err = devstack.StartKafka(ctx, devstack.KafkaOptions{Brokers: 3, Settings: map[string]string{
		"min.insync.replicas":                   "2",
		"replica.lag.time.max.ms":               "5000", // a follower that is away is left out soon
		"controller.quorum.election.timeout.ms": "1000",
	}})
	if err != nil {
		return nil, err
	}
	if three.client, err = kgo.NewClient(kgo.SeedBrokers(three.kafka.Brokers()...)); err != nil {
		return nil, errors.Join(err, three.kafka.Close())
	}
	three.admin = kadm.NewClient(three.client)
	s.three = &three
	return s.three, nil
}

// relayBrokers are the addresses that tidemark is given.
func (s *servers) relayBrokers() []string {
	if s.kafkaProxy == nil {
		return s.kafka.Brokers()
	}
	return []string{s.kafkaProxy.Addr()}
}

func startServers(ctx context.Context, o *options) (_ *servers, err error) {
	s := &servers{mode: o.mode, store: o.store}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := devstack.HaveKafka(); err != nil {
		return nil, fmt.Errorf("the trials need a real Kafka: %w", err)
	}
	if s.dir, err = os.MkdirTemp("", "tidemark-trials-"); err != nil {
		return nil, err
	}
	if s.binary, err = trial.Build(ctx); err != nil {
		return nil, err
	}
	progress := func(line string) { fmt.Println(line) }
	if s.postgres, err = devstack.StartPostgres(ctx, devstack.PostgresOptions{Version: o.postgres, Progress: progress}); err != nil {
		return nil, err
	}
	if s.postgresProxy, err = devstack.StartProxy(ctx, fmt.Sprintf("127.0.0.1:%d", s.postgres.Port())); err != nil {
		return nil, err
	}
	if s.kafkaProxy, err = devstack.StartProxy(ctx, ""); err != nil {
		return nil, err
	}
	if s.kafka, err = devstack.StartKafka(ctx, devstack.KafkaOptions{AdvertisedPort: s.kafkaProxy.Port(), Progress: progress}); err != nil {
		return nil, err
	}
	broker, proxy := s.kafka.Brokers()[0], s.kafkaProxy.Addr()
	s.kafkaProxy.Redirect(broker)
	// The broker sends every client to the proxy; ours goes where the proxy would lead it.
	var dialer net.Dialer
	s.kafkaClient = []kgo.Opt{kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
		if host == proxy {
			host = broker
		}
		return dialer.DialContext(ctx, network, host)
	})}
	if s.client, err = kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(broker)}, s.kafkaClient...)...); err != nil {
		return nil, err
	}
	s.admin = kadm.NewClient(s.client)
	return s, nil
}

func (s *servers) close() error {
	var errs []error
	if s.three != nil {
		s.three.client.Close()
		errs = append(errs, s.three.kafka.Close())
	}
	if s.client != nil {
		s.client.Close()
	}
	if s.postgresProxy != nil {
		errs = append(errs, s.postgresProxy.Close())
	}
	if s.kafkaProxy != nil {
		errs = append(errs, s.kafkaProxy.Close())
	}
	if s.kafka != nil {
		errs = append(errs, s.kafka.Close())
	}
	if s.postgres != nil {
		errs = append(errs, s.postgres.Close())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// restore undoes what a fault may have left behind, so that the next trial begins on whole servers.
func (s *servers) restore(ctx context.Context) error {
	errs := []error{s.postgresProxy.Restore(), s.postgres.Resume()}
	if s.kafkaProxy != nil {
		errs = append(errs, s.kafkaProxy.Restore())
	}
	for i := range s.kafka.Brokers() {
		errs = append(errs, s.kafka.Resume(i), s.kafka.Start(ctx, i))
	}
	return errors.Join(errs...)
}

// throughProxy leads a connection string through the proxy, with the session settings of the trials.
func (s *servers) throughProxy(dsn string) string {
	direct := fmt.Sprintf("127.0.0.1:%d", s.postgres.Port())
	// So that a vanished client frees the slot, and a vanished server is noticed, within seconds.
	return strings.Replace(dsn, direct, s.postgresProxy.Addr(), 1) + "&options=-c%20wal_sender_timeout%3D5s"
}
