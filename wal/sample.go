package wal

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Sample says which rows of a table Look.Sample returns: from the end of the table, where what was written last mostly is.
type Sample struct {
	Table   string
	Columns []string // whose values are wanted; the others' are nil
	Size    string   // the column whose size in the table is wanted
	Rows    int      // how many, at most
}

// samplePages is how many pages from the end of a table, and of how many of its newest partitions, are looked at.
const (
	samplePages      = 256
	samplePartitions = 4
)

// Sample calls columns once, and then row for each row. Stored is what the value of the column Size takes in the table, as
// it is compressed there; to learn that costs no reading of large values. What is in values is borrowed. How much is read does not
// grow with the table.
func (l *Look) Sample(ctx context.Context, s Sample, columns func([]Column) error, row func(at Place, stored int64, values [][]byte)) error {
	wrap := func(err error) error { return explain(fmt.Errorf("read the end of %s: %w", s.Table, err)) }
	snapshot := Snapshot{l.conn}
	list, err := snapshot.columns(ctx, s.Table)
	if err != nil {
		return wrap(err)
	}
	if err := columns(list); err != nil {
		return err
	}
	ends, err := l.tableEnds(ctx, s.Table)
	if err != nil || len(ends) == 0 {
		return wrapUnlessNil(err, wrap)
	}
	out := s.selected(list) + ", tableoid, ctid, coalesce(pg_column_size(" + quoteIdentifier(s.Size) + "), 0)"
	parts := make([]string, len(ends))
	for i, end := range ends {
		parts[i] = fmt.Sprintf("(select %s from %s limit %d)", out, end, s.Rows/len(ends))
	}
	result := l.conn.PgConn().ExecParams(ctx, strings.Join(parts, " union all "), nil, nil, nil, nil)
	for result.NextRow() {
		values := result.Values()
		n := len(list)
		var place Place
		var stored int64
		if _, err := fmt.Sscan(string(values[n])+" "+string(values[n+2]), &place.Table, &stored); err != nil {
			return wrap(err)
		}
		place.TID = string(values[n+1])
		row(place, stored, values[:n])
	}
	_, err = result.Close()
	return wrapUnlessNil(err, wrap)
}

func wrapUnlessNil(err error, wrap func(error) error) error {
	if err == nil {
		return nil
	}
	return wrap(err)
}

// selected is the columns that are wanted, and nulls in the place of the others.
func (s *Sample) selected(list []Column) string {
	out := make([]string, len(list))
	for i, c := range list {
		if out[i] = "null"; slices.Contains(s.Columns, c.Name) {
			out[i] = quoteIdentifier(c.Name)
		}
	}
	return strings.Join(out, ", ")
}

// Fetch calls row for the whole rows at the places, in no particular order. What is in values is borrowed.
func (l *Look) Fetch(ctx context.Context, table string, places []Place, row func(values [][]byte)) error {
	snapshot := Snapshot{l.conn}
	return snapshot.Fetch(ctx, table, places, func(_ Place, values [][]byte) error { row(values); return nil })
}

// tableEnds returns the ends of the table, or of its newest partitions, as what may stand behind FROM.
func (l *Look) tableEnds(ctx context.Context, table string) ([]string, error) {
	rows, err := l.conn.Query(ctx, fmt.Sprintf(`select format('only %%I.%%I where ctid >= %%L::tid', n.nspname, c.relname,
			format('(%%s,0)', greatest(pg_relation_size(c.oid) / current_setting('block_size')::bigint - %d, 0)))
		from (select relid from pg_partition_tree($1::regclass) union select $1::regclass) p -- the tree of an ordinary table is empty
		join pg_class c on c.oid = p.relid join pg_namespace n on n.oid = c.relnamespace
		where c.relkind = 'r' order by c.oid desc limit %d`, samplePages, samplePartitions), quoteTable(table))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ends []string
	for rows.Next() {
		var end string
		if err := rows.Scan(&end); err != nil {
			return nil, err
		}
		ends = append(ends, end)
	}
	return ends, rows.Err()
}
