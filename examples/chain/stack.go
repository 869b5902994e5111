package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/outbox"
	"github.com/tidemark/tidemark/test/trial"
)

// stack is the servers, with a database for each service.
type stack struct {
	Options
	postgres *devstack.Postgres
	kafka    interface {
		Brokers() []string
		Close() error
	}
	tidemark string // the binaries
	services string // their directory
}

const (
	shop   = "shop"
	ledger = "billing"
)

func open(ctx context.Context, o Options) (s *stack, err error) {
	s = &stack{Options: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.postgres, err = devstack.StartPostgres(ctx, devstack.PostgresOptions{Settings: map[string]string{"max_wal_size": "256MB"}}); err != nil {
		return s, err
	}
	for _, name := range []string{shop, ledger} {
		if err = s.postgres.CreateDatabase(ctx, name); err != nil {
			return s, err
		}
	}
	if err = s.exec(ctx, shop, outbox.Schema("public.outbox")); err != nil { // as tidemark init would
		return s, err
	}
	if o.RealKafka {
		s.kafka, err = devstack.StartKafka(ctx, devstack.KafkaOptions{})
	} else {
		s.kafka, err = devstack.StartFakeKafka(devstack.FakeKafkaOptions{})
	}
	if err != nil {
		return s, err
	}
	if s.tidemark, err = trial.Build(ctx); err != nil {
		return s, err
	}
	s.services, err = trial.BuildPackages(ctx, "./examples/orders", "./examples/billing")
	return s, err
}

// Close stops the servers.
func (s *stack) Close() error {
	var errs []error
	if s.kafka != nil {
		errs = append(errs, s.kafka.Close())
	}
	if s.postgres != nil {
		errs = append(errs, s.postgres.Close())
	}
	return errors.Join(errs...)
}

func (s *stack) exec(ctx context.Context, database, sql string, args ...any) error {
	return s.with(ctx, database, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql, args...)
		return err
	})
}

func (s *stack) with(ctx context.Context, database string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, s.postgres.DSN(database))
	if err != nil {
		return fmt.Errorf("ask database %s: %w", database, err)
	}
	if err := errors.Join(do(conn), conn.Close(ctx)); err != nil {
		return fmt.Errorf("ask database %s: %w", database, err)
	}
	return nil
}

// config is what tidemark is started with.
func (s *stack) config(checkpoint string) trial.Config {
	c := trial.Config{Binary: s.tidemark, DSN: s.postgres.DSN(shop), Slot: shop, Brokers: s.kafka.Brokers(), Checkpoint: checkpoint, Output: s.Log}
	return c.With("TIDEMARK_KAFKA_CREATE_TOPICS_PARTITIONS", "4")
}

// service is how another process than tidemark is started.
func (s *stack) service(name, program string, environ []string, args ...string) trial.Program {
	return trial.Program{
		Name: name, Path: filepath.Join(s.services, program), Args: args, Environ: append(os.Environ(), environ...), Output: s.Log,
	}
}
