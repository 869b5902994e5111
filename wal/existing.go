package wal

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Column is a column of a result: its name and the OID of its type.
type Column struct {
	Name string `json:"name"`
	Type uint32 `json:"type"`
}

// Snapshot reads rows as they were when a slot was created.
type Snapshot struct {
	conn *pgx.Conn
}

// OpenSnapshot opens an ordinary connection that sees exactly what was committed before the slot's start. The
// connection that created the slot must not be used until Close.
func (c *Conn) OpenSnapshot(ctx context.Context, snapshot string) (*Snapshot, error) {
	conn, err := connectSQL(ctx, c.options.DSN)
	if err != nil {
		return nil, err
	}
	var prepare []string
	if c.System.Version >= transactionTimeoutSince {
		prepare = []string{noTransactionTimeout} // however long Kafka takes
	}
	for _, sql := range append(prepare,
		"begin transaction isolation level repeatable read read only",
		"set transaction snapshot "+quoteLiteral(snapshot),
	) {
		if _, err := conn.Exec(ctx, sql); err != nil {
			closeSQL(conn)
			return nil, explain(fmt.Errorf("open the slot's snapshot: %w", err))
		}
	}
	return &Snapshot{conn}, nil
}

// Close ends the connection.
func (s *Snapshot) Close() { closeSQL(s.conn) }

// MayRead returns an error if the role may not read one of the outbox tables, so that Rows would fail: by then there would be
// a slot, which keeps log that nobody reads.
func (c *Conn) MayRead(ctx context.Context) error {
	for _, table := range c.options.Tables {
		schema, name := splitTable(table)
		var role string // who may not
		err := c.queryJSON(ctx, fmt.Sprintf(`select to_jsonb(session_user::text) from pg_class c join pg_namespace n on n.oid = c.relnamespace
			where n.nspname = %s and c.relname = %s and not (has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'))`,
			quoteLiteral(schema), quoteLiteral(name)), &role)
		if err != nil {
			return fmt.Errorf("look up the rights on %s: %w", table, err)
		}
		if role != "" {
			return unreadable(table, role, errors.New("permission denied"))
		}
	}
	return nil
}

func unreadable(table, role string, err error) error {
	return permanent(fmt.Errorf("read the existing rows of %s: %w", table, err),
		"let the role read it: "+strings.Join(GrantReadSQL(role, table), "; ")+"; or set source.existing_rows: skip, if none of them has to be published")
}

// Rows calls columns once, and then row for every row of table, values in the order of the columns, as text, nil for
// null, borrowed until row returns. After an error only Close is left to do. Rows come in the order in which they were
// most likely committed: by the id column if it is a whole number, else by the age of the inserting transaction, then by
// place. (The true order is only in the log that is gone.)
func (s *Snapshot) Rows(ctx context.Context, table, idColumn string, columns func([]Column) error, row func(values [][]byte) error) error {
	list, err := s.columns(ctx, table)
	if err != nil {
		return explain(fmt.Errorf("read the existing rows of %s: %w", table, err))
	}
	if err := columns(list); err != nil {
		return err
	}
	// Straight from the wire, as text: the same output functions as the log's, so that a row becomes the same record.
	result := s.conn.PgConn().ExecParams(ctx, fmt.Sprintf("select * from %s order by %s", quoteTable(table), rowOrder(list, idColumn)+", ctid"), nil, nil, nil, nil)
	for result.NextRow() {
		if err := row(result.Values()); err != nil {
			return err
		}
	}
	_, err = result.Close()
	if sqlState(err) == "40001" {
		return fmt.Errorf("read the existing rows of %s: the standby was in the way of its own recovery (set hot_standby_feedback = on there, or raise max_standby_streaming_delay): %w", table, err)
	}
	if sqlState(err) == "42501" {
		return unreadable(table, s.conn.Config().User, err)
	}
	if err != nil {
		return explain(fmt.Errorf("read the existing rows of %s: %w", table, err))
	}
	return nil
}

// columns returns the columns with their types as the log announces them. What a query says of its result is not the
// same: there a domain is the type beneath it.
func (s *Snapshot) columns(ctx context.Context, table string) ([]Column, error) {
	schema, name := splitTable(table)
	rows, err := s.conn.Query(ctx, `select a.attname::text, a.atttypid
		from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
		where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped order by a.attnum`, schema, name)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Column])
}
