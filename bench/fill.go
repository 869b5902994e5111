package bench

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
)

// createOutbox is the table of the README. Nothing but us is to work on it.
const createOutbox = `create table %s (
	id            uuid primary key default gen_random_uuid(),
	aggregatetype text not null,
	aggregateid   text not null,
	type          text not null,
	payload       jsonb
) with (autovacuum_enabled = off, toast.autovacuum_enabled = off)`

// createWords holds the text that payloads are cut from, which compresses as text does. It is kept as it is: cutting a
// piece from compressed text would mean reading all of it.
const createWords = `create table words (text bytea not null);
	alter table words alter text set storage external`

// createFill writes rows first to last into the given table, per of them a transaction.
const createFill = `create procedure fill(outbox regclass, kind text, first bigint, last bigint, per bigint, size int, keys bigint) language plpgsql as $$
declare
	words bytea; span bigint; at bigint := first;
begin
	select text into words from words;
	span := length(words) - size;
	while at <= last loop
		execute format('insert into %s (aggregatetype, aggregateid, type, payload)
			select $1, ''key-'' || n * 2654435761 %% $2, ''OrderPlaced'',
				(''{"n": '' || n || '', "text": "'' || convert_from(substring($3 from (n * 7919 %% $4)::int + 1 for $5), ''UTF8'') || ''"}'')::jsonb
			from generate_series($6, $7) n', outbox)
		using kind, keys, words, span, size, at, least(at + per - 1, last);
		at := at + per;
		commit;
	end loop;
end $$`

// envelope is what a payload has around its text: {"n": 500000, "text": ""}.
const envelope = 25

func aggregateType(table int) string { return fmt.Sprintf("order-%d", table+1) }

// words returns n bytes of text.
func words(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same for everybody
	vocabulary := make([]string, 2000)
	for i := range vocabulary {
		word := make([]byte, 3+rng.IntN(8))
		for j := range word {
			word[j] = byte('a' + rng.IntN(26))
		}
		vocabulary[i] = string(word) + " "
	}
	text := make([]byte, 0, n+16)
	for len(text) < n {
		text = append(text, vocabulary[rng.IntN(len(vocabulary))]...)
	}
	return text[:n]
}

// fill writes the backlog.
func (st *stage) fill(ctx context.Context, say func(string, ...any)) error {
	l := st.load
	size := max(l.Size-envelope, 0)
	return st.sql(ctx, st.dsn, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "insert into words values ($1)", words(1<<20+2*size)); err != nil {
			return fmt.Errorf("fill the backlog: %w", err)
		}
		if _, err := conn.Exec(ctx, "set synchronous_commit = off"); err != nil {
			return fmt.Errorf("fill the backlog: %w", err)
		}
		step := max(20_000/l.PerTransaction, 1) * l.PerTransaction // a call, between two looks at the progress
		for first, call := 0, 0; first < l.Rows; first, call = first+step, call+1 {
			say("filling the backlog, %s of %s", comma(first), rowsOf(l.Rows))
			table := call % l.Tables
			_, err := conn.Exec(ctx, "call fill($1::text::regclass, $2, $3, $4, $5, $6, $7)",
				st.table(table), aggregateType(table), first, min(first+step, l.Rows)-1, l.PerTransaction, size, l.Keys)
			if err != nil {
				return fmt.Errorf("fill the backlog: %w", err)
			}
		}
		_, _ = conn.Exec(ctx, "checkpoint") // so that nobody writes one meanwhile; only some may ask for it
		return conn.QueryRow(ctx, "select pg_current_wal_flush_lsn()::text").Scan(&st.end)
	})
}
