package wal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Deleter deletes rows of outbox tables, and drops partitions of them, on the connection for SQL that writes. It waits for
// locks for a short time only, and takes none that an insert waits for. Not for concurrent use.
type Deleter struct {
	conn        *pgx.Conn
	options     Options
	role        string
	detachLimit time.Duration
}

const (
	// detachLimit is how long a partition may take to be detached: that waits for every transaction that uses the table, and
	// nobody sees the partition's rows meanwhile.
	detachLimit = 30 * time.Second
	// inUseFor is how long transactions may go on using a table before its partitions are left for another time.
	inUseFor  = time.Second
	inUseLook = 50 * time.Millisecond
	// shortTimeouts are those of the session.
	shortTimeouts = "set lock_timeout = '50ms'; set statement_timeout = '20s'"
)

// OpenDeleter connects through source.admin_dsn, and checks what would go wrong with deleting from the tables.
func OpenDeleter(ctx context.Context, o Options, tables []string) (*Deleter, error) {
	limited, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := connectSQL(limited, o.adminDSN())
	if err != nil {
		return nil, err
	}
	d := &Deleter{conn: conn, options: o, detachLimit: detachLimit}
	if err := d.prepare(limited, tables); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Close ends the connection.
func (d *Deleter) Close() { closeSQL(d.conn) }

func (d *Deleter) prepare(ctx context.Context, tables []string) error {
	for _, set := range []string{
		shortTimeouts,
		"set synchronous_commit = off", // what a crash brings back is deleted the next time
	} {
		if _, err := d.conn.Exec(ctx, set); err != nil {
			return explain(fmt.Errorf("prepare the session: %w", err))
		}
	}
	var standby, deletes bool
	err := d.conn.QueryRow(ctx, `select current_user::text, pg_is_in_recovery(),
		coalesce((select pubdelete from pg_publication where pubname = $1), false)`, d.options.Publication).Scan(&d.role, &standby, &deletes)
	if err != nil {
		return explain(fmt.Errorf("prepare the session: %w", err))
	}
	if standby {
		return permanent(errors.New("the server is a standby, on which nothing can be deleted"), "set source.admin_dsn to the primary")
	}
	if deletes {
		return permanent(fmt.Errorf("publication %s publishes deletes, which would end the relay", d.options.Publication),
			fmt.Sprintf("alter publication %s set (publish = 'insert')", quoteIdentifier(d.options.Publication)))
	}
	for _, table := range tables {
		var may bool
		err := d.conn.QueryRow(ctx, "select has_table_privilege($1, 'delete') and has_table_privilege($1, 'select')", quoteTable(table)).Scan(&may)
		if err != nil {
			return explain(fmt.Errorf("look up the rights on %s: %w", table, err))
		}
		if !may {
			return permanent(fmt.Errorf("role %s may not delete from %s", d.role, table),
				fmt.Sprintf("grant select, delete on %s to %s", quoteTable(table), quoteIdentifier(d.role)))
		}
	}
	return nil
}

// Doomed is a row that is to be deleted.
type Doomed struct {
	Place Place
	ID    string // the text of the id column
}

// Delete deletes rows of one partition (or of a table that has none), in one transaction. A row that is not at its place any
// more, or has another id than all of them, stays. A lock that somebody holds is an error with IsLocked, and nothing is
// deleted.
func (d *Deleter) Delete(ctx context.Context, table, idColumn string, rows []Doomed) (n int64, err error) {
	tids, ids := make([]string, len(rows)), make([]string, len(rows))
	for i, r := range rows {
		tids[i], ids[i] = r.Place.TID, r.ID
	}
	done, err := d.conn.Exec(ctx, fmt.Sprintf("delete from %s where ctid = any($1::text[]::tid[]) and tableoid = $2 and %s::text = any($3::text[])",
		quoteTable(table), quoteIdentifier(idColumn)), tids, rows[0].Place.Table, ids)
	if err != nil {
		return 0, explain(fmt.Errorf("delete from %s: %w", table, err))
	}
	return done.RowsAffected(), nil
}

// IsLocked reports whether err says that somebody held a lock, or used a table, for too long.
func IsLocked(err error) bool { return sqlState(err) == "55P03" || errors.Is(err, errInUse) }

var errInUse = errors.New("a transaction that goes on is using the table")

// Partition is one that Deleter.Drop can drop, if nothing is in it that has to stay.
type Partition struct {
	OID     uint32
	Name    string // quoted, with its schema
	Parent  string // the same
	Bound   string // FOR VALUES …
	Default bool   // the table has a default partition, so that it cannot be detached beside writers
}

// Past returns the partitions of a table that is partitioned by ranges of time whose ranges ended before that moment, and
// why others stay, "" if there is nothing to say. Only partitions that belong to the role are returned, as only the owner can
// drop them, and none that the publication names, which would be changed by that.
func (d *Deleter) Past(ctx context.Context, table string, before time.Time) (past []Partition, why string, err error) {
	const sql = `with parent as (
			select c.oid, c.relowner, a.atttypid from pg_class c join pg_partitioned_table p on p.partrelid = c.oid
			join pg_attribute a on a.attrelid = c.oid and a.attnum = p.partattrs[0]
			where c.oid = $1::regclass and p.partstrat = 'r' and p.partnatts = 1
			and a.atttypid in ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype)),
		child as (
			select c.oid, c.oid::regclass::text as name, pg_get_expr(c.relpartbound, c.oid) as bound, p.oid::regclass::text as parent,
				pg_has_role(c.relowner, 'usage') and pg_has_role(p.relowner, 'usage') as owned,
				exists (select from pg_publication_rel r where r.prrelid = c.oid) as published, i.inhdetachpending as pending,
				c.relkind = 'r' as leaf
			from parent p join pg_inherits i on i.inhparent = p.oid join pg_class c on c.oid = i.inhrelid)
		select oid, name, parent, bound, owned, published, pending,
			exists (select from child where bound = 'DEFAULT'), substring(bound from 'TO \(''([^'']*)''\)$')
		from child where leaf and bound <> 'DEFAULT' order by 2`
	rows, _ := d.conn.Query(ctx, sql, quoteTable(table))
	var p Partition
	var owned, published, pending bool
	var upper *string
	type found struct {
		Partition
		upper string
	}
	var all []found
	_, err = pgx.ForEachRow(rows, []any{&p.OID, &p.Name, &p.Parent, &p.Bound, &owned, &published, &pending, &p.Default, &upper}, func() error {
		switch {
		case upper == nil:
		case pending:
			why = fmt.Sprintf("partition %s was left half detached: alter table %s detach partition %[1]s finalize, then see what is in it", p.Name, p.Parent)
		case published:
			why = "partitions that the publication names are not dropped: that would change it"
		case !owned:
			why = fmt.Sprintf("partitions are dropped by their owner alone, which role %s is not", d.role)
		default:
			all = append(all, found{p, *upper})
		}
		return nil
	})
	if err != nil {
		return nil, "", explain(fmt.Errorf("look up the partitions of %s: %w", table, err))
	}
	for _, f := range all {
		var is bool
		if err := d.conn.QueryRow(ctx, "select $1::timestamptz <= $2::timestamptz", f.upper, before).Scan(&is); err != nil {
			return nil, "", fmt.Errorf("look up where partition %s ends: %w", f.Name, err)
		}
		if is {
			past = append(past, f.Partition)
		}
	}
	return past, why, nil
}

// Content is what tells whether a partition has changed.
type Content struct {
	Rows int64
	hash string
}

func contentSQL(name, idColumn string) string {
	return fmt.Sprintf("select count(*), coalesce(sum(hashtextextended(%s::text || ctid::text, 0)), 0)::text from only %s", quoteIdentifier(idColumn), name)
}

// Content returns what a partition holds in the snapshot.
func (s *Snapshot) Content(ctx context.Context, p Partition, idColumn string) (c Content, err error) {
	if err := s.conn.QueryRow(ctx, contentSQL(p.Name, idColumn)).Scan(&c.Rows, &c.hash); err != nil {
		return c, explain(fmt.Errorf("read partition %s: %w", p.Name, err))
	}
	return c, nil
}

// Drop detaches the partition, looks whether it still holds exactly that, and drops it; else it attaches it again, and
// dropped is false. It detaches without a lock that an insert waits for, where Postgres can (no default partition); else with
// one that is asked for no longer than 50 ms. IsLocked is true of the error if that was too short, and nothing has changed.
// No snapshot that has seen the table may be open.
func (d *Deleter) Drop(ctx context.Context, p Partition, idColumn string, want Content) (dropped bool, err error) {
	if err := d.detach(ctx, p); err != nil {
		return false, err
	}
	err = pgx.BeginFunc(ctx, d.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "set local statement_timeout = '10min'; lock table only "+p.Name+" in access exclusive mode"); err != nil {
			return err
		}
		var got Content
		if err := tx.QueryRow(ctx, contentSQL(p.Name, idColumn)).Scan(&got.Rows, &got.hash); err != nil {
			return err
		}
		if dropped = got == want; !dropped {
			return nil
		}
		_, err := tx.Exec(ctx, "drop table "+p.Name)
		return err
	})
	if err == nil && dropped {
		return true, nil
	}
	_, back := d.conn.Exec(ctx, fmt.Sprintf("alter table %s attach partition %s %s", p.Parent, p.Name, p.Bound))
	if back != nil {
		err = errors.Join(err, fmt.Errorf("partition %s is detached and could not be attached again: %w: run alter table %s attach partition %[1]s %[4]s", p.Name, back, p.Parent, p.Bound))
	}
	if err != nil {
		return false, explain(fmt.Errorf("drop partition %s: %w", p.Name, err))
	}
	return false, nil
}

func (d *Deleter) detach(ctx context.Context, p Partition) error {
	sql := fmt.Sprintf("alter table %s detach partition %s", p.Parent, p.Name)
	if p.Default {
		_, err := d.conn.Exec(ctx, sql)
		if err != nil {
			return explain(fmt.Errorf("detach partition %s: %w", p.Name, err))
		}
		return nil
	}
	if err := d.awaitUnused(ctx, p.Parent); err != nil {
		return fmt.Errorf("detach partition %s: %w", p.Name, err)
	}
	return d.detachBesideWriters(ctx, p)
}

func (d *Deleter) detachBesideWriters(ctx context.Context, p Partition) error {
	sql := fmt.Sprintf("alter table %s detach partition %s", p.Parent, p.Name)
	// Without a limit for locks: it would end the wait for the transactions, after the first half is done.
	if _, err := d.conn.Exec(ctx, fmt.Sprintf("set lock_timeout = 0; set statement_timeout = %d", d.detachLimit.Milliseconds())); err != nil {
		return explain(fmt.Errorf("detach partition %s: %w", p.Name, err))
	}
	_, err := d.conn.Exec(ctx, sql+" concurrently")
	if IsTimeout(err) { // somebody's transaction was in the way; the first half may be done
		if _, again := d.conn.Exec(ctx, sql+" finalize"); again == nil {
			err = nil
		}
	}
	if err != nil {
		err = explain(fmt.Errorf("detach partition %s: %w: if it is half detached, nobody sees its rows until alter table %s detach partition %[1]s finalize, and attach partition", p.Name, err, p.Parent))
	}
	_, reset := d.conn.Exec(ctx, shortTimeouts)
	return errors.Join(err, reset)
}

// awaitUnused waits until the transactions that use a table now have ended; IsLocked is true of the error if they take longer
// than a moment. Others may begin meanwhile, and are as short as these were, or so we hope.
func (d *Deleter) awaitUnused(ctx context.Context, table string) error {
	const sql = `select coalesce(array_agg(distinct virtualtransaction), '{}') from pg_locks
		where relation = $1::text::regclass and database = (select oid from pg_database where datname = current_database())
		and pid <> pg_backend_pid() and ($2::text[] is null or virtualtransaction = any($2))`
	deadline := time.Now().Add(inUseFor)
	var using []string // nil at first: whoever there is
	for {
		if err := d.conn.QueryRow(ctx, sql, table, using).Scan(&using); err != nil {
			return explain(fmt.Errorf("look who uses %s: %w", table, err))
		}
		switch {
		case len(using) == 0:
			return nil
		case time.Now().After(deadline):
			return errInUse
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(inUseLook):
		}
	}
}
