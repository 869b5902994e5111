package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/test/trial"
)

// postgresFaults are those of the server, of the way to it and of the slot.
func postgresFaults() []fault {
	return []fault{
		{
			Name: "pg_conn_reset", What: "every connection of tidemark to Postgres is reset", Quick: true,
			Inject: func(_ context.Context, s *stack) (func() error, error) {
				s.postgresProxy.ResetPeer()
				return nil, nil
			},
		},
		{
			Name: "pg_latency", What: "100 ms more to Postgres and back", Hold: 5 * time.Second,
			Inject: func(_ context.Context, s *stack) (func() error, error) {
				s.postgresProxy.Latency(100 * time.Millisecond)
				return s.postgresProxy.Restore, nil
			},
		},
		{
			Name: "pg_half_open", What: "Postgres' side of every connection vanishes without a word", Hold: 15 * time.Second,
			Inject: func(_ context.Context, s *stack) (func() error, error) {
				s.postgresProxy.Blackhole()
				return s.postgresProxy.Restore, nil
			},
		},
		{
			Name: "pg_cut", What: "Postgres refuses connections", Quick: true, Hold: 3 * time.Second,
			Inject: func(_ context.Context, s *stack) (func() error, error) {
				s.postgresProxy.Cut()
				return s.postgresProxy.Restore, nil
			},
		},
		{
			Name: "pg_restart_fast", What: "Postgres is restarted in order", Quick: true,
			Inject: func(ctx context.Context, s *stack) (func() error, error) {
				return nil, s.postgres.Restart(ctx, devstack.StopFast)
			},
		},
		{
			Name: "pg_restart_immediate", What: "Postgres crashes and recovers", Quick: true,
			Inject: func(ctx context.Context, s *stack) (func() error, error) {
				return nil, s.postgres.Restart(ctx, devstack.StopImmediate)
			},
		},
		{
			Name: "pg_freeze", What: "Postgres stands still (SIGSTOP)", Hold: 12 * time.Second,
			Inject: func(_ context.Context, s *stack) (func() error, error) {
				return func() error { return s.postgres.Resume() }, s.postgres.Pause()
			},
		},
		{
			Name: "walsender_kill", What: "pg_terminate_backend of the walsender", Quick: true,
			Inject: func(ctx context.Context, s *stack) (func() error, error) { return nil, s.endWalsender(ctx) },
		},
		{
			Name: "slot_taken", What: "another client streams from the slot for 3 s and confirms nothing", Hold: 3 * time.Second, Quick: true,
			Inject: takeSlot,
		},
	}
}

func (s *stack) endWalsender(ctx context.Context) error {
	if err := s.Exec(ctx, "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active_pid is not null", s.Config.Slot); err != nil {
		return fmt.Errorf("end the walsender: %w", err)
	}
	return nil
}

// takeSlot ends the walsender of tidemark and is quicker than it to stream from the slot.
func takeSlot(ctx context.Context, s *stack) (func() error, error) {
	var thief *pgconn.PgConn
	err := trial.Await(ctx, "the slot is taken", 30*time.Second, func() (bool, error) {
		if err := s.endWalsender(ctx); err != nil {
			return false, err
		}
		var err error
		thief, err = stream(ctx, s.DSN+"&replication=database", s.Config.Slot)
		return err == nil, nil // tidemark was quicker; once more
	})
	if err != nil {
		return nil, err
	}
	return func() error { return thief.Close(ctx) }, nil
}

// stream begins to stream from a slot, and confirms nothing.
func stream(ctx context.Context, dsn, slot string) (*pgconn.PgConn, error) {
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	conn.Frontend().Send(&pgproto3.Query{String: "START_REPLICATION SLOT " + slot + " LOGICAL 0/0 (proto_version '1', publication_names 'tidemark')"})
	if err := conn.Frontend().Flush(); err != nil {
		return nil, err
	}
	for {
		msg, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return nil, err
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyBothResponse:
			return conn, nil
		case *pgproto3.ErrorResponse:
			_ = conn.Close(ctx) // the slot is not ours
			return nil, pgconn.ErrorResponseToPgError(msg)
		}
	}
}
