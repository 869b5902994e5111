package wal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// publication is what the server publishes under the configured name.
type publication struct {
	Insert    bool     `json:"pubinsert"`
	Update    bool     `json:"pubupdate"`
	Delete    bool     `json:"pubdelete"`
	Truncate  bool     `json:"pubtruncate"`
	AllTables bool     `json:"puballtables"`
	Tables    []string `json:"tables"`
	Partial   []string `json:"partial"`   // tables of which not every row or column is published
	Scattered []string `json:"scattered"` // partitioned tables whose rows come under the names of their partitions
}

// CheckPublication refuses a publication that would hide rows or bring what is none: every outbox table must be in
// it, whole, no other may, and it must publish inserts only. missing is true if there is no such publication.
func (c *Conn) CheckPublication(ctx context.Context) (missing bool, err error) {
	missing, problems, err := c.PublicationProblems(ctx)
	if err != nil || len(problems) == 0 {
		return missing, err
	}
	p := problems[0]
	how := strings.Join(p.SQL, "; ")
	if p.Remark != "" {
		how = strings.TrimPrefix(p.Remark+": "+how, ": ")
	}
	return false, permanent(errors.New(p.What), how)
}

// PublicationProblem is something that stands against a publication.
type PublicationProblem struct {
	What   string
	Remark string   // on what mends it; may be empty
	SQL    []string // mends it
}

// PublicationProblems returns all that CheckPublication would refuse.
func (c *Conn) PublicationProblems(ctx context.Context) (missing bool, problems []PublicationProblem, err error) {
	p, err := c.publication(ctx)
	if err != nil || p == nil {
		return p == nil && err == nil, nil, err
	}
	return false, p.problems(c.options), nil
}

func (p *publication) problems(o Options) []PublicationProblem {
	var found []PublicationProblem
	add := func(what, remark string, sql ...string) { found = append(found, PublicationProblem{what, remark, sql}) }
	alter := "alter publication " + quoteIdentifier(o.Publication) + " "
	if p.AllTables {
		add(fmt.Sprintf("publication %s is for all tables, and no other tables than the outbox tables may be in it", o.Publication),
			"replace it, in one transaction so that no row is missed",
			"begin", "drop publication "+quoteIdentifier(o.Publication), CreatePublicationSQL(o), "commit")
		return found
	}
	if !p.Insert || p.Update || p.Delete || p.Truncate {
		add(fmt.Sprintf("publication %s must publish inserts and nothing else", o.Publication), "", alter+"set (publish = 'insert')")
	}
	reset := ""
	if len(o.Tables) > 0 {
		reset = alter + "set table " + quoteTables(o.Tables)
	}
	for _, table := range o.Tables {
		if slices.Contains(p.Scattered, qualified(table)) {
			add(fmt.Sprintf("publication %s publishes the rows of table %s under the names of its partitions", o.Publication, table), "",
				alter+"set (publish_via_partition_root = true)")
			continue
		}
		if !slices.Contains(p.Tables, qualified(table)) {
			add(fmt.Sprintf("table %s is not in publication %s, so its rows would never be seen", table, o.Publication),
				"before anything that must arrive is written to it", alter+"add table "+quoteTable(table))
			continue
		}
		if slices.Contains(p.Partial, qualified(table)) {
			add(fmt.Sprintf("publication %s has a row filter or a column list on %s, which would hide events", o.Publication, table), "", reset)
		}
	}
	for _, table := range p.Tables {
		if !slices.ContainsFunc(o.Tables, func(t string) bool { return qualified(t) == table }) {
			add(fmt.Sprintf("publication %s contains table %s, which is not under outbox in the configuration", o.Publication, table),
				"add it there, or", cmp.Or(reset, alter+"drop table "+table))
		}
	}
	return found
}

func (c *Conn) publication(ctx context.Context) (*publication, error) {
	// A generated column is published or not as the publication says (18), and need not be.
	partial := "rowfilter is not null or exists (select from pg_attribute" +
		" where attrelid = format('%I.%I', t.schemaname, t.tablename)::regclass and attnum > 0 and not attisdropped" +
		" and attgenerated = '' and attname <> all (t.attnames))"
	if c.System.Version < 150000 {
		partial = "false" // row filters and column lists came with 15
	}
	var p *publication
	err := c.queryJSON(ctx, fmt.Sprintf(`select to_jsonb(p) || jsonb_build_object(
		'tables', (select coalesce(jsonb_agg(schemaname || '.' || tablename), '[]') from pg_publication_tables t where pubname = p.pubname),
		'partial', (select coalesce(jsonb_agg(schemaname || '.' || tablename) filter (where %s), '[]') from pg_publication_tables t where pubname = p.pubname),
		'scattered', (select coalesce(jsonb_agg(n.nspname || '.' || r.relname), '[]')
			from pg_publication_rel m join pg_class r on r.oid = m.prrelid join pg_namespace n on n.oid = r.relnamespace
			where m.prpubid = p.oid and r.relkind = 'p' and not p.pubviaroot))
		from pg_publication p where pubname = %s`, partial, quoteLiteral(c.options.Publication)), &p)
	if err != nil {
		return nil, fmt.Errorf("look up publication %s: %w", c.options.Publication, err)
	}
	return p, nil
}

// Columns returns the columns of an outbox table, in order. A table that does not exist is an error that says so.
func (c *Conn) Columns(ctx context.Context, table string) ([]Column, error) {
	schema, name := splitTable(table)
	var columns []Column
	err := c.queryJSON(ctx, fmt.Sprintf(`select jsonb_agg(jsonb_build_object('name', a.attname, 'type', a.atttypid::bigint) order by a.attnum)
		from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
		where n.nspname = %s and c.relname = %s and a.attnum > 0 and not a.attisdropped`, quoteLiteral(schema), quoteLiteral(name)), &columns)
	if err != nil {
		return nil, fmt.Errorf("look up the columns of %s: %w", table, err)
	}
	if len(columns) == 0 {
		return nil, permanent(fmt.Errorf("the outbox table %s does not exist in database %s", table, c.System.Database), missingTable)
	}
	return columns, nil
}

const missingTable = "create it (tidemark init does), or name the right one under outbox in the configuration"

// Domains maps the OID of each domain to that of the type beneath it: the log announces a column by its domain.
func (c *Conn) Domains(ctx context.Context) (map[uint32]uint32, error) {
	var domains map[uint32]uint32
	err := c.queryJSON(ctx, `with recursive step as (
			select oid as domain, typbasetype as base from pg_type where typtype = 'd'
			union all
			select s.domain, t.typbasetype from step s join pg_type t on t.oid = s.base where t.typtype = 'd')
		select jsonb_object_agg(s.domain::text, s.base::bigint) from step s join pg_type t on t.oid = s.base where t.typtype <> 'd'`, &domains)
	if err != nil {
		return nil, fmt.Errorf("look up domains: %w", err)
	}
	return domains, nil
}

// CreatePublicationSQL returns the statement that creates the publication. Rows of a partitioned outbox table come under
// the name of that table; for others the second setting means nothing.
func CreatePublicationSQL(o Options) string {
	tables := ""
	if len(o.Tables) > 0 { // without any, for logical messages alone
		tables = "for table " + quoteTables(o.Tables) + " "
	}
	return fmt.Sprintf("create publication %s %swith (publish = 'insert', publish_via_partition_root = true)", quoteIdentifier(o.Publication), tables)
}

// CreatePublication creates the publication through source.admin_dsn.
func CreatePublication(ctx context.Context, o Options) error {
	setup, err := OpenSetup(ctx, o)
	if err != nil {
		return err
	}
	defer setup.Close()
	return setup.CreatePublication(ctx)
}

// CreatePublication creates the publication.
func (s *Setup) CreatePublication(ctx context.Context) error {
	err := s.Exec(ctx, CreatePublicationSQL(s.options))
	if sqlState(err) == "42710" { // somebody else was quicker; what it publishes is checked after this
		return nil
	}
	return err
}

// qualified writes a configured table's name as the catalogue does, with its schema.
func qualified(table string) string {
	schema, name := splitTable(table)
	return schema + "." + name
}

func quoteTables(tables []string) string {
	quoted := make([]string, len(tables))
	for i, t := range tables {
		quoted[i] = quoteTable(t)
	}
	return strings.Join(quoted, ", ")
}
