package decode

import (
	"fmt"
	"slices"
	"time"
)

// Existing maps rows that were read by SQL as if they had been inserted: the same columns make the same event.
type Existing struct {
	builder *builder
	mapping *mapping
	row     []value
}

// Existing prepares the mapping of rows that a query returns, with all their columns in text format and in this
// order. It fails if the table is not configured or lacks a column that its configuration maps. The result belongs to
// the goroutine of d.
func (d *Decoder) Existing(table string, columns []Column) (*Existing, error) {
	t := d.tables[table]
	if t == nil {
		return nil, fmt.Errorf("map rows of table %s: it is not under outbox in the configuration", table)
	}
	m, err := resolve(t, d.withoutDomains(slices.Clone(columns)), false)
	if err != nil {
		return nil, fmt.Errorf("map rows of table %s: %w", table, err)
	}
	return &Existing{builder: &d.builder, mapping: m, row: make([]value, len(columns))}, nil
}

// Event overwrites *ev with the event of one row. values has one text for each column, nil for a null, and is only
// borrowed; at is what a transaction's commit time would be.
func (x *Existing) Event(values [][]byte, pos Position, at time.Time, ev *Event) {
	if len(values) != len(x.row) {
		*ev = Event{Position: pos, CommitTime: at, Table: x.mapping.table.name, Partition: AnyPartition, Timestamp: at}
		ev.Poison = fmt.Errorf("the row has %d columns where %d were announced", len(values), len(x.row))
		return
	}
	for i, v := range values {
		x.row[i] = value{data: v}
	}
	x.builder.event(x.mapping, x.row, pos, at, ev)
	clear(x.row)
}

// RowID returns the text of the column Columns.ID, by which the row can be found in its table: the event's ID, but for a
// message of Eventuate Tram. It shares the memory of values.
func (x *Existing) RowID(values [][]byte) []byte { return values[x.mapping.id.only] }
