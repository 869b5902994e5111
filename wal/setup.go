package wal

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Setup creates what a source needs, on the connection for SQL that writes.
type Setup struct {
	conn    *pgx.Conn
	options Options
}

// OpenSetup connects through source.admin_dsn.
func OpenSetup(ctx context.Context, o Options) (*Setup, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := connectSQL(ctx, o.adminDSN())
	if err != nil {
		return nil, err
	}
	return &Setup{conn, o}, nil
}

func (o Options) adminDSN() string {
	if o.AdminDSN == "" {
		return o.DSN
	}
	return o.AdminDSN
}

// Close ends the connection.
func (s *Setup) Close() { closeSQL(s.conn) }

// Missing returns the statements that create what is not there: outbox tables, then the publication. tableSQL returns
// the statement that creates an outbox table, whose name it also gets as SQL has it.
func (s *Setup) Missing(ctx context.Context, tableSQL func(table, quoted string) string) ([]string, error) {
	var statements []string
	for _, table := range s.options.Tables {
		var there bool
		if err := s.conn.QueryRow(ctx, "select to_regclass($1) is not null", quoteTable(table)).Scan(&there); err != nil {
			return nil, explain(fmt.Errorf("look up table %s: %w", table, err))
		}
		if !there {
			statements = append(statements, tableSQL(table, quoteTable(table)))
		}
	}
	var there bool
	err := s.conn.QueryRow(ctx, "select exists (select from pg_publication where pubname = $1)", s.options.Publication).Scan(&there)
	if err != nil {
		return nil, explain(fmt.Errorf("look up publication %s: %w", s.options.Publication, err))
	}
	if !there {
		statements = append(statements, CreatePublicationSQL(s.options))
	}
	return statements, nil
}

// Exec runs one statement, waiting for locks for a bounded time only.
func (s *Setup) Exec(ctx context.Context, statement string) error {
	for _, set := range []string{"set lock_timeout = '10s'", "set synchronous_commit = local"} { // see Flushed
		if _, err := s.conn.Exec(ctx, set); err != nil {
			return explain(err)
		}
	}
	_, err := s.conn.Exec(ctx, statement)
	switch sqlState(err) {
	case "42P01":
		return permanent(fmt.Errorf("%s: %w", statement, err), missingTable)
	case "55P03":
		return permanent(fmt.Errorf("%s: a table is locked: %w", statement, err),
			"end the transaction that holds it (select pid, pg_blocking_pids(pid), query from pg_stat_activity), or try in a quiet moment")
	case "42501":
		return permanent(fmt.Errorf("%s: %w", statement, err),
			"let the owner of the tables run it, or set source.admin_dsn to a role that may")
	}
	if err != nil {
		return explain(fmt.Errorf("%s: %w", statement, err))
	}
	return nil
}

// CreateSlotSQL returns a statement that creates the slot, for a person to read.
func CreateSlotSQL(o Options) string {
	return fmt.Sprintf("select pg_create_logical_replication_slot(%s, 'pgoutput')", quoteLiteral(o.Slot))
}

// HasRows reports whether any outbox table has a row in the snapshot.
func (s *Snapshot) HasRows(ctx context.Context, tables []string) (bool, error) {
	for _, table := range tables {
		var has bool
		if err := s.conn.QueryRow(ctx, "select exists (select from "+quoteTable(table)+")").Scan(&has); err != nil {
			return false, explain(fmt.Errorf("look for rows in %s: %w", table, err))
		}
		if has {
			return true, nil
		}
	}
	return false, nil
}
