package wal

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Search says which rows Snapshot.Find looks for.
type Search struct {
	Table    string
	Column   string        // the column that identifies a row
	Text     string        // its value, in any form that Postgres reads as one of the column's type
	Limit    int           // no more rows than that
	Patience time.Duration // for the server's answer: the column may have no index
}

// Find calls columns once, and then row for each row of the table whose column has the value, with all its values as text.
// Committed is when the row's transaction was committed; zero if the server does not know. What has no reading as the
// column's type is in no row. An answer that takes too long is an error with IsTimeout.
func (s *Snapshot) Find(ctx context.Context, f Search, columns func([]Column) error, row func(values [][]byte, committed time.Time) error) error {
	wrap := func(err error) error {
		return explain(fmt.Errorf("look for %s %q in %s: %w", f.Column, f.Text, f.Table, err))
	}
	list, err := s.columns(ctx, f.Table)
	if err != nil {
		return wrap(err)
	}
	if err := columns(list); err != nil {
		return err
	}
	tracks, err := s.TracksCommitTimes(ctx)
	if err != nil {
		return err
	}
	committed := "null"
	if tracks {
		committed = "(extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000000)::bigint"
	}
	for _, condition := range []string{quoteIdentifier(f.Column) + " = $1", quoteIdentifier(f.Column) + "::text = $1"} {
		var result *pgconn.Result
		result, err = s.attempt(ctx, f.Patience, fmt.Sprintf("select *, %s from %s where %s limit %d", committed, quoteTable(f.Table), condition, f.Limit), f.Text)
		if err != nil {
			return wrap(err)
		}
		switch state := sqlState(result.Err); {
		case result.Err == nil:
			return eachFound(result.Rows, len(list), row)
		case len(state) == 5 && state[:2] == "22": // a data exception: the text is no value of the type
			return nil
		case state != "42883": // the type has no equality
			return wrap(result.Err)
		}
		err = result.Err
	}
	return wrap(err)
}

func eachFound(rows [][][]byte, columns int, row func(values [][]byte, committed time.Time) error) error {
	for _, values := range rows {
		if len(values) != columns+1 {
			return fmt.Errorf("a row of %d columns, where there were %d", len(values)-1, columns)
		}
		var at time.Time
		if micros, err := strconv.ParseInt(string(values[columns]), 10, 64); err == nil {
			at = time.UnixMicro(micros).UTC()
		}
		if err := row(values[:columns], at); err != nil {
			return err
		}
	}
	return nil
}

// attempt runs one statement, after whose failure the snapshot can still be used.
func (s *Snapshot) attempt(ctx context.Context, patience time.Duration, sql, parameter string) (*pgconn.Result, error) {
	pg := s.conn.PgConn()
	before := fmt.Sprintf("set local statement_timeout = %d; savepoint attempt", max(patience.Milliseconds(), 1))
	if _, err := pg.Exec(ctx, before).ReadAll(); err != nil {
		return nil, err
	}
	result := pg.ExecParams(ctx, sql, [][]byte{[]byte(parameter)}, nil, nil, nil).Read()
	after := "release attempt"
	if result.Err != nil {
		if pg.TxStatus() != 'E' { // it is not the statement that has failed
			return nil, result.Err
		}
		after = "rollback to attempt; " + after
	}
	_, err := pg.Exec(ctx, after+"; set local statement_timeout = 0").ReadAll()
	return result, err
}

// IsTimeout reports whether err says that the server gave a statement up after its time.
func IsTimeout(err error) bool { return sqlState(err) == "57014" }
