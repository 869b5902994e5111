package wal

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Row is one row of Snapshot.Scan. Everything in it is borrowed until the callback returns.
type Row struct {
	Place  Place
	Values [][]byte // one for each column of the table, as text; nil for a null, and for what was not asked for
	// Newest reports that no later row has the same values in Selection.NewestOf. Without that it is false.
	Newest bool
	Null   bool // Selection.NullOf is null
	// Time is when the row was written, by Selection.Time; zero without Selection.WithTime, and where nothing tells.
	Time time.Time
}

// Place is where a row lies for as long as the snapshot is open.
type Place struct {
	Table uint32 // OID, of the partition where the table has partitions
	TID   string
}

// Selection says what of a table is read.
type Selection struct {
	Table    string
	ID       string    // the column that identifies a row; decides the order, see Snapshot.Rows
	Columns  []string  // whose values are wanted; those of the others are nil
	NewestOf []string  // columns for Row.Newest; nil: it is not asked for
	NullOf   string    // a column for Row.Null; "": it is not asked for
	Since    time.Time // only rows from then on, and those of which nothing tells the time; zero: all
	Before   time.Time // only rows that are known to be older; zero: all
	Time     string    // the column that tells the time; "": the time of the commit, which the server must track
	WithTime bool      // Row.Time is asked for
	Equal    []Equal   // only rows for which all of these hold
}

// Equal holds for rows whose column has one of the values, each in any form that Postgres reads as one of the column's type.
type Equal struct {
	Column string
	Texts  []string
}

// OpenNow opens an ordinary connection that sees exactly what is committed now, and goes on seeing it until Close. Every
// commit that it sees lies before end in the log: a commit is there before it is visible, and end is looked up after the
// snapshot was taken. On a standby end is how far it has replayed, for the same reason.
//
// Alone makes sure that no other snapshot that was opened with the same text sees the same database at this time; alone ""
// asks for nothing. busy is true if there is one and it stays, and the snapshot is nil then.
func OpenNow(ctx context.Context, o Options, alone string) (s *Snapshot, end pglogrepl.LSN, busy bool, err error) {
	limited, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := connectSQL(limited, o.DSN)
	if err != nil {
		return nil, 0, false, err
	}
	defer func() {
		if s == nil {
			closeSQL(conn)
		}
	}()
	wrap := func(err error) error { return explain(fmt.Errorf("take a snapshot: %w", err)) }
	if alone != "" {
		got, err := lock(ctx, conn, alone)
		if err != nil {
			return nil, 0, false, wrap(err)
		}
		if !got {
			return nil, 0, true, nil
		}
	}
	var version int
	if err := conn.QueryRow(ctx, "select current_setting('server_version_num')::int").Scan(&version); err != nil {
		return nil, 0, false, wrap(err)
	}
	statements := []string{
		"set cursor_tuple_fraction = 1", // every row will be read
		"begin transaction isolation level repeatable read read only",
		"select pg_current_snapshot()", // the first statement takes the snapshot
	}
	if version >= transactionTimeoutSince {
		statements = append([]string{noTransactionTimeout}, statements...)
	}
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return nil, 0, false, wrap(err)
		}
	}
	var at string
	var flushed bool
	var block, segment uint64
	err = conn.QueryRow(ctx, `select at::text, pg_is_in_recovery() or pg_current_wal_flush_lsn() >= at,
		(select setting::bigint from pg_settings where name = 'wal_block_size'),
		pg_size_bytes(current_setting('wal_segment_size'))
		from (select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end) t(at)`).
		Scan(&at, &flushed, &block, &segment)
	if err != nil {
		return nil, 0, false, wrap(err)
	}
	lsn, err := pglogrepl.ParseLSN(at)
	if err != nil {
		return nil, 0, false, wrap(err)
	}
	if !flushed {
		writer, err := connectSQL(ctx, o.DSN)
		if err != nil {
			return nil, 0, false, wrap(err)
		}
		defer closeSQL(writer)
		if err := flush(ctx, writer); err != nil {
			return nil, 0, false, wrap(err)
		}
	}
	return &Snapshot{conn}, withoutPageHeader(lsn, block, segment), false, nil
}

// flush makes a primary write its log out up to now: what is committed with synchronous_commit off, and what open
// transactions have put there, which is sent to nobody until somebody commits, on a quiet server for a quarter of a minute.
// The message is one that nobody listens to.
func flush(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "begin; set local synchronous_commit = local; select pg_logical_emit_message(true, 'tidemark.flush', ''); commit")
	return err
}

// lock takes the advisory lock of that name for the session. The server may take a moment to notice that its last holder has
// gone, so it is tried for a while.
func lock(ctx context.Context, conn *pgx.Conn, name string) (got bool, err error) {
	const patience, again = 5 * time.Second, 100 * time.Millisecond
	ticker := time.NewTicker(again)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); ; {
		err := conn.QueryRow(ctx, "select pg_try_advisory_lock(hashtextextended($1, 0))", name).Scan(&got)
		if err != nil || got || time.Now().After(deadline) {
			return got, err
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-ticker.C:
		}
	}
}

// withoutPageHeader returns where the last record ended, if the insert position stands behind the header of a page that
// holds nothing yet. Nothing that is sent says that it has passed that header until something follows it.
func withoutPageHeader(lsn pglogrepl.LSN, block, segment uint64) pglogrepl.LSN {
	const short, long = 24, 40 // XLogPageHeaderData, and the one at the beginning of a segment
	switch {
	case uint64(lsn)%segment == long:
		return lsn - long
	case uint64(lsn)%segment > block && uint64(lsn)%block == short:
		return lsn - short
	default:
		return lsn
	}
}

// scanRows is how many rows one round trip of Scan brings.
const scanRows = 10000

// Scan calls columns once, and then row for every row that is selected, in the order of Rows, which is the same each time.
// Between two rows other methods may be called.
func (s *Snapshot) Scan(ctx context.Context, sel Selection, columns func([]Column) error, row func(Row) error) error {
	wrap := func(err error) error { return explain(fmt.Errorf("read %s: %w", sel.Table, err)) }
	list, err := s.columns(ctx, sel.Table)
	if err != nil {
		return wrap(err)
	}
	if err := columns(list); err != nil {
		return err
	}
	sql, err := sel.sql(list)
	if err != nil {
		return fmt.Errorf("read %s: %w", sel.Table, err)
	}
	pg := s.conn.PgConn()
	if _, err := s.conn.Exec(ctx, "declare tidemark no scroll cursor for "+sql); err != nil {
		return wrap(err)
	}
	for {
		result := pg.ExecParams(ctx, fmt.Sprintf("fetch %d from tidemark", scanRows), nil, nil, nil, nil).Read()
		if result.Err != nil {
			return wrap(result.Err)
		}
		for _, values := range result.Rows {
			own := values[len(list):]
			var oid uint32
			if _, err := fmt.Sscan(string(own[0]), &oid); err != nil {
				return wrap(err)
			}
			r := Row{Place: Place{oid, string(own[1])}, Values: values[:len(list)], Newest: string(own[2]) == "t", Null: string(own[3]) == "t"}
			if micros, err := strconv.ParseInt(string(own[4]), 10, 64); err == nil {
				r.Time = time.UnixMicro(micros).UTC()
			}
			if err := row(r); err != nil {
				return err
			}
		}
		if len(result.Rows) < scanRows {
			break
		}
	}
	if _, err := s.conn.Exec(ctx, "close tidemark"); err != nil {
		return wrap(err)
	}
	return nil
}

func (sel Selection) sql(list []Column) (string, error) {
	var out []string
	wanted := make(map[string]bool, len(sel.Columns))
	for _, name := range sel.Columns {
		wanted[name] = true
	}
	timeType, known := uint32(0), sel.Time == ""
	for _, c := range list {
		if wanted[c.Name] {
			out = append(out, quoteIdentifier(c.Name))
		} else {
			out = append(out, "null")
		}
		if c.Name == sel.Time {
			timeType, known = c.Type, true
		}
	}
	if !known {
		return "", fmt.Errorf("there is no column %q", sel.Time)
	}
	order := rowOrder(list, sel.ID) + ", tableoid, ctid"
	newest := "false"
	if sel.NewestOf != nil {
		var by []string
		for _, name := range sel.NewestOf {
			by = append(by, quoteIdentifier(name))
		}
		newest = "lead(false, 1, true) over (partition by " + strings.Join(by, ", ") + " order by " + order + ")"
	}
	null := "false"
	if sel.NullOf != "" {
		null = quoteIdentifier(sel.NullOf) + " is null"
	}
	at := "null"
	if sel.WithTime {
		at = sel.micros(timeType)
	}
	out = append(out, "tableoid", "ctid", newest, null, at)
	return "select " + strings.Join(out, ", ") + " from " + quoteTable(sel.Table) + sel.where(timeType) + " order by " + order, nil
}

// at is the expression that tells when a row was written.
func (sel Selection) at() string {
	if sel.Time == "" {
		return "pg_xact_commit_timestamp(xmin)"
	}
	return quoteIdentifier(sel.Time)
}

// micros is the same in microseconds since 1970.
func (sel Selection) micros(timeType uint32) string {
	if timeType == pgtype.Int8OID {
		return "case when abs(" + sel.at() + "::numeric) < 1e15 then " + sel.at() + " * 1000 end" // else it is no time
	}
	return "case when isfinite(" + sel.at() + ") then (extract(epoch from " + sel.at() + ") * 1000000)::bigint end"
}

func (sel Selection) where(timeType uint32) string {
	instant := func(t time.Time) string {
		if timeType == pgtype.Int8OID {
			return strconv.FormatInt(t.UnixMilli(), 10)
		}
		return quoteLiteral(t.UTC().Format(time.RFC3339Nano))
	}
	var all []string
	if !sel.Since.IsZero() {
		all = append(all, fmt.Sprintf("coalesce(%s >= %s, %t)", sel.at(), instant(sel.Since), sel.Time != ""))
	}
	if !sel.Before.IsZero() {
		all = append(all, sel.at()+" < "+instant(sel.Before))
	}
	for _, e := range sel.Equal {
		if len(e.Texts) == 0 {
			all = append(all, "false")
			continue
		}
		texts := make([]string, len(e.Texts))
		for i, text := range e.Texts {
			texts[i] = quoteLiteral(text)
		}
		all = append(all, quoteIdentifier(e.Column)+" in ("+strings.Join(texts, ", ")+")")
	}
	if len(all) == 0 {
		return ""
	}
	return " where " + strings.Join(all, " and ")
}

// Fetch calls row for the whole rows at the places, in no particular order.
func (s *Snapshot) Fetch(ctx context.Context, table string, places []Place, row func(Place, [][]byte) error) error {
	tids := make([]string, len(places))
	wanted := make(map[Place]bool, len(places))
	for i, p := range places {
		tids[i] = `"` + p.TID + `"`
		wanted[p] = true
	}
	result := s.conn.PgConn().ExecParams(ctx, "select *, tableoid, ctid from "+quoteTable(table)+" where ctid = any($1::tid[])",
		[][]byte{[]byte("{" + strings.Join(tids, ",") + "}")}, nil, nil, nil)
	for result.NextRow() {
		values := result.Values()
		n := len(values) - 2
		var oid uint32
		if _, err := fmt.Sscan(string(values[n]), &oid); err != nil {
			return err
		}
		place := Place{oid, string(values[n+1])}
		if !wanted[place] {
			continue // of another partition
		}
		if err := row(place, values[:n]); err != nil {
			return err
		}
	}
	if _, err := result.Close(); err != nil {
		return explain(fmt.Errorf("read %s: %w", table, err))
	}
	return nil
}

// TracksCommitTimes reports whether the server knows when a transaction was committed.
func (s *Snapshot) TracksCommitTimes(ctx context.Context) (bool, error) {
	var on bool
	err := s.conn.QueryRow(ctx, "select current_setting('track_commit_timestamp')::bool").Scan(&on)
	if err != nil {
		return false, explain(fmt.Errorf("look up track_commit_timestamp: %w", err))
	}
	return on, nil
}

// rowOrder is the order in which rows were most likely committed.
func rowOrder(list []Column, idColumn string) string {
	for _, c := range list {
		if c.Name == idColumn && (c.Type == pgtype.Int2OID || c.Type == pgtype.Int4OID || c.Type == pgtype.Int8OID) {
			return quoteIdentifier(idColumn)
		}
	}
	return "age(xmin) desc"
}
