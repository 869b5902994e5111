package wal

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Grant is what a role may do with a table.
type Grant struct {
	Table  string // schema.name
	Rights []string
}

// MissingRole returns the statements that make a role which may log in, read the log and do what the grants say, as far as
// it may not yet, and whether it has to be created. A table that is not there yet is granted all the same.
func (s *Setup) MissingRole(ctx context.Context, role string, grants []Grant) (statements []string, created bool, err error) {
	quoted := quoteIdentifier(role)
	var login, replication bool
	err = s.conn.QueryRow(ctx, "select rolcanlogin, rolreplication or rolsuper from pg_roles where rolname = $1", role).Scan(&login, &replication)
	who := role
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		created, who = true, "public" // it will have what everybody has
		statements = append(statements, "create role "+quoted+" login replication")
	case err != nil:
		return nil, false, explain(fmt.Errorf("look up role %s: %w", role, err))
	default:
		if !login {
			statements = append(statements, "alter role "+quoted+" login")
		}
		if !replication {
			statements = append(statements, GrantReplicationSQL(role))
		}
	}
	var connect bool
	var database string
	err = s.conn.QueryRow(ctx, "select has_database_privilege($1, current_database(), 'connect'), current_database()", who).Scan(&connect, &database)
	if err != nil {
		return nil, false, explain(fmt.Errorf("look up what role %s may do: %w", role, err))
	}
	if !connect {
		statements = append(statements, "grant connect on database "+quoteIdentifier(database)+" to "+quoted)
	}
	schemas := map[string]bool{}
	for _, g := range grants {
		schema, _ := splitTable(g.Table)
		var usage bool
		var lacking []string
		err := s.conn.QueryRow(ctx, `select coalesce((select has_schema_privilege($1, oid, 'usage') from pg_namespace where nspname = $2), false),
			array(select r from unnest($4::text[]) with ordinality as u(r, n) where not coalesce(has_table_privilege($1, to_regclass($3), r), false) order by n)`,
			who, schema, quoteTable(g.Table), g.Rights).Scan(&usage, &lacking)
		if err != nil {
			return nil, false, explain(fmt.Errorf("look up what role %s may do with %s: %w", role, g.Table, err))
		}
		if !usage && !schemas[schema] {
			schemas[schema] = true
			statements = append(statements, "grant usage on schema "+quoteIdentifier(schema)+" to "+quoted)
		}
		if len(lacking) > 0 {
			statements = append(statements, "grant "+strings.Join(lacking, ", ")+" on "+quoteTable(g.Table)+" to "+quoted)
		}
	}
	return statements, created, nil
}
