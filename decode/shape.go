package decode

import (
	"fmt"
	"slices"
	"time"
)

// Shape is what the records of a table are like, as far as its configuration tells.
type Shape struct {
	Fields  []string // the columns, or fields of a message, that a record is made of
	Headers []string // names, in the order in which a record has them; those of a headers column come on top
	Static  map[string]string
	Key     bool // whether there is one
}

// Shape reads the table's templates and formats. Its error is that of New.
func (t Table) Shape() (Shape, error) {
	c, err := compileAs(fmt.Sprintf("outbox table %q", t.Name), t)
	if err != nil {
		return Shape{}, err
	}
	const source = "system/database/slot"
	c.cloudEvent.nameSource(source, t.Name)
	m, err := resolve(c, nil, true)
	if err != nil {
		return Shape{}, err
	}
	// What a record looks like its format knows: it makes one, of a row that has a text in every column.
	row := make([]value, len(m.columns))
	for i := range row {
		row[i].data = []byte("1")
	}
	if m.headersJSON >= 0 {
		row[m.headersJSON].data = nil
	}
	b := newBuilder(source)
	var ev Event
	b.event(m, row, Position{}, time.Unix(0, 0).UTC(), &ev)
	s := Shape{Key: !m.key.alwaysNull(), Static: map[string]string{}}
	for _, column := range m.columns {
		s.Fields = append(s.Fields, column.Name)
	}
	for _, h := range ev.Headers {
		if !slices.Contains(s.Headers, h.Key) {
			s.Headers = append(s.Headers, h.Key)
		}
		if h.Key == "content-type" {
			s.Static[h.Key] = string(h.Value)
		}
	}
	return s, nil
}
