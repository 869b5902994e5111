package debezium_test

import (
	"bytes"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// parity is an option of the Event Router (or of the connector, or a converter), rows that show what it does, and what
// tidemark is to be configured with to do the same.
type parity struct {
	option string // with its value, as docs/debezium.md has it
	with   string // the types and values that it is tried with; for the same place

	columns string   // of the table, behind id, if they are not the default ones
	idName  string   // default id
	idType  string   // default uuid
	rows    []string // the values of these columns
	after   []string // statements behind the rows; TABLE is the table

	router     map[string]string // options of the Event Router
	connector  map[string]string // options of the connector
	key, value map[string]string // converters; default StringConverter
	header     map[string]string // header converter; default SimpleHeaderConverter, as Kafka Connect's

	outbox string // of the table's entry in config.yaml, indented as there; default: no column type

	differs map[string]string // part: why; for what is different on purpose
}

func (c *parity) name() string { return c.option + " " + c.with }

func (c *parity) table(i int) string { return fmt.Sprintf("case_%02d", i) }

// rowID is unique among all cases.
func (c *parity) rowID(i, row int) string {
	if c.idType == "" || c.idType == "uuid" {
		return fmt.Sprintf("%08x-0000-4000-8000-%012x", i, row)
	}
	return fmt.Sprint(1_000_000 + 1000*i + row)
}

const defaultColumns = "aggregatetype varchar(255), aggregateid varchar(255), type varchar(255), payload jsonb"

func (c *parity) create(t *testing.T, conn *pgx.Conn, i int) {
	t.Helper()
	columns, name, id := c.columns, c.idName, c.idType
	if columns == "" {
		columns = defaultColumns
	}
	if name == "" {
		name = "id"
	}
	if id == "" {
		id = "uuid"
	}
	exec(t, conn, fmt.Sprintf("create table %s (%s %s primary key, %s)", c.table(i), name, id, columns))
}

func (c *parity) insert(t *testing.T, conn *pgx.Conn, i int) {
	t.Helper()
	for row, values := range c.rows {
		exec(t, conn, fmt.Sprintf("insert into %s values ('%s', %s)", c.table(i), c.rowID(i, row), values))
	}
	for _, sql := range c.after {
		exec(t, conn, strings.ReplaceAll(sql, "TABLE", c.table(i)))
	}
}

func (c *parity) routed(i int) routed {
	router := map[string]string{"type": "io.debezium.transforms.outbox.EventRouter"}
	maps.Copy(router, c.router)
	or := func(m map[string]string, otherwise map[string]string) map[string]string {
		if m == nil {
			return otherwise
		}
		return m
	}
	return routed{
		Name: c.name(), Table: "public." + c.table(i), Partitions: partitions, Transforms: []map[string]string{router},
		Key: or(c.key, stringConverter()), Value: or(c.value, stringConverter()),
		Header: or(c.header, map[string]string{"type": "org.apache.kafka.connect.storage.SimpleHeaderConverter"}),
	}
}

func stringConverter() map[string]string {
	return map[string]string{"type": "org.apache.kafka.connect.storage.StringConverter"}
}

func jsonConverter(schemas string) map[string]string {
	return map[string]string{"type": "org.apache.kafka.connect.json.JsonConverter", "schemas.enable": schemas}
}

// tidemarkConfig has an entry for each case.
func tidemarkConfig(cases []parity) []byte {
	var b bytes.Buffer
	b.WriteString("kafka:\n  create_topics:\n    partitions: " + fmt.Sprint(partitions) + "\noutbox:\n")
	for i := range cases {
		entry := cases[i].outbox
		if entry == "" {
			entry = "columns: {type: \"\"}"
		}
		fmt.Fprintf(&b, "  - table: public.%s\n", cases[i].table(i))
		for line := range strings.Lines(strings.TrimSpace(entry)) {
			b.WriteString("    " + line)
		}
		b.WriteString("\n")
	}
	return b.Bytes()
}
