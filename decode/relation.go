package decode

// relation is a table as this replication session announced it.
type relation struct {
	name    string   // schema.name
	mapping *mapping // nil if the table is not configured
}

// relation reads a Relation: Int32 OID, String namespace (empty for pg_catalog), String name, Int8 replica identity,
// Int16 number of columns, and for each Int8 flags, String name, Int32 type OID, Int32 type modifier. One comes before
// the first row of a table, and again after every change to it.
func (d *Decoder) relation(c *cursor) {
	const leastColumn = 1 + 1 + 4 + 4
	oid := c.uint32()
	schema, name := string(c.text()), string(c.text())
	if schema == "" {
		schema = "pg_catalog"
	}
	rel := &relation{name: schema + "." + name}
	c.uint8()
	n := int(c.uint16())
	columns := make([]Column, 0, min(n, (len(c.msg)-c.at)/leastColumn))
	for i := 0; i < n && c.err == nil; i++ {
		c.uint8()
		columns = append(columns, Column{Name: string(c.text()), Type: c.uint32()})
		c.uint32()
	}
	if c.end() != nil {
		return
	}
	delete(d.relations, oid)
	if t := d.tables[rel.name]; t != nil {
		var err error
		if rel.mapping, err = resolve(t, d.withoutDomains(columns), false); err != nil {
			c.fail("%w", err)
			return
		}
	}
	d.relations[oid] = rel
}

// withoutDomains puts the type beneath in the place of each domain.
func (d *Decoder) withoutDomains(columns []Column) []Column {
	for i, c := range columns {
		if base, ok := d.domains[c.Type]; ok {
			columns[i].Type = base
		}
	}
	return columns
}
