package wal

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Fingerprint tells whether the publication is still the one that it was. While a table is out of it, or a filter in it,
// or it publishes no inserts, rows are committed that Postgres never sends, and when it is put right again nothing in the
// stream and nothing in the catalogue's values shows that it was not. But the catalogue's rows are others then: a row that is
// put in anew has a new oid, one that is changed a new xmin. Neither changes by itself: not by VACUUM FREEZE or VACUUM FULL,
// not on a standby or in a failover to it, and not when other tables come and go.
type Fingerprint struct {
	// Publication is the oid:xmin of its row in pg_publication; "" if there is none.
	Publication string `json:"publication"`
	// Tables holds, by the name of each outbox table with its schema, the oid:xmin of the rows that put it into the
	// publication: in pg_publication_rel its own and those of the tables that it is a partition of, in
	// pg_publication_namespace those of their schemas. "" if there is none, or no such table, or it is unlogged.
	Tables map[string]string `json:"tables"`
}

// Fingerprint asks the server.
func (c *Conn) Fingerprint(ctx context.Context) (Fingerprint, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return fingerprint(ctx, c.pg, c.options, c.System)
}

// Fingerprint asks over an ordinary connection. An error says nothing about the publication, nor about the stream.
func (l *Lookout) Fingerprint(ctx context.Context) (Fingerprint, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	config, err := pgconn.ParseConfig(l.options.DSN)
	if err != nil {
		return Fingerprint{}, unreadableDSN(err)
	}
	config.ValidateConnect = nil // it may be no standby any more
	setSession(config.RuntimeParams)
	config.DialFunc = dialAt(l.at)
	pg, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return Fingerprint{}, explainConnect(err)
	}
	defer closePG(pg)
	return fingerprint(ctx, pg, l.options, l.system)
}

// fingerprint asks the server that was called sys when it was met.
func fingerprint(ctx context.Context, pg *pgconn.PgConn, o Options, sys System) (Fingerprint, error) {
	tables := make([]string, len(o.Tables))
	for i, t := range o.Tables {
		schema, name := splitTable(t)
		tables[i] = fmt.Sprintf("(%s, %s, %s)", quoteLiteral(qualified(t)), quoteLiteral(schema), quoteLiteral(name))
	}
	values := "(values " + strings.Join(tables, ", ") + ")"
	if len(tables) == 0 {
		values = "(select '', '', '' where false)"
	}
	schemas := `union
				select format('%s:%s', m.oid, m.xmin) from pg_publication_namespace m join pg_class f on f.relnamespace = m.pnnspid
				where m.pnpubid = p.oid and f.oid in (select relid from family)`
	if sys.Version < 150000 {
		schemas = "" // they came with 15
	}
	var answer struct {
		Started     string
		Fingerprint *Fingerprint
	}
	err := queryJSON(ctx, pg, fmt.Sprintf(`select json_build_object('started', pg_postmaster_start_time()::text, 'fingerprint', (
		select json_build_object('publication', format('%%s:%%s', p.oid, p.xmin), 'tables', (
			select json_object_agg(t.qualified, (
				with itself as (select c.oid as relid from pg_class c join pg_namespace n on n.oid = c.relnamespace
					where n.nspname = t.schema and c.relname = t.name and c.relpersistence = 'p'),
				family as (select relid from itself union select a.relid from itself, pg_partition_ancestors(itself.relid) a)
				select coalesce(string_agg(entry, ' ' order by entry), '') from (
				select format('%%s:%%s', m.oid, m.xmin) as entry from pg_publication_rel m
				where m.prpubid = p.oid and m.prrelid in (select relid from family)
				%s) e))
			from %s t (qualified, schema, name)))
		from pg_publication p where pubname = %s))`, schemas, values, quoteLiteral(o.Publication)), &answer)
	if err != nil {
		return Fingerprint{}, fmt.Errorf("look up publication %s: %w", o.Publication, err)
	}
	if answer.Started != sys.Started {
		return Fingerprint{}, fmt.Errorf("look up publication %s: %w", o.Publication, errOtherServer)
	}
	if answer.Fingerprint == nil {
		return Fingerprint{}, nil
	}
	return *answer.Fingerprint, nil
}
