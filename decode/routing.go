package decode

import "slices"

// Routing is which columns of a table say what a row is and where it goes.
type Routing struct {
	ID    string   // the column that identifies a row
	Place []string // the columns of topic and key, which together make an order; nil if it takes more than columns to tell the key
	All   []string // everything that an event's ID, Topic, Key and Partition are made of
}

// RowIDs returns the texts of the column Columns.ID for which the table may hold the events of these ids.
func (t Table) RowIDs(ids ...string) []string {
	own, err := outboxID(t)
	if err != nil || own == nil {
		return ids
	}
	var rows []string
	for _, id := range ids {
		if n, ok := databaseID(id, *own); ok {
			rows = append(rows, n)
		}
	}
	return rows
}

// Routing reads the table's templates. Its error is that of New.
func (t Table) Routing() (Routing, error) {
	c, err := compile(t)
	if err != nil {
		return Routing{}, err
	}
	r := Routing{ID: t.Columns.ID}
	add := func(template Template, column string) {
		names := template.Columns()
		if len(template.parts) == 0 {
			names = []string{column}
		}
		for _, name := range names {
			if name != "" && !slices.Contains(r.Place, name) {
				r.Place = append(r.Place, name)
			}
		}
	}
	add(c.topic, t.Columns.Topic)
	add(c.key, t.Columns.Key)
	r.All = append([]string{r.ID}, r.Place...)
	if t.Format == Eventuate {
		r.All = append(r.All, t.Columns.Headers, columnPublished) // the latter only where it is there
		r.Place = nil
	}
	if t.Columns.Partition != "" {
		r.All = append(r.All, t.Columns.Partition)
	}
	return r, nil
}
