package wal

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Look is an ordinary connection for who only looks at a source. Its session is read only and waits for no lock for long.
type Look struct {
	conn    *pgx.Conn
	options Options
}

const (
	lookLimit     = "5s" // of a statement
	lookLockLimit = "2s"
)

// OpenLook connects to where dsn leads, which is one of the two in o.
func OpenLook(ctx context.Context, o Options, dsn string) (*Look, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := connectSQL(ctx, dsn)
	if err != nil {
		return nil, err
	}
	for _, set := range []string{
		"set default_transaction_read_only = on", "set statement_timeout = '" + lookLimit + "'", "set lock_timeout = '" + lookLockLimit + "'",
	} {
		if _, err := conn.Exec(ctx, set); err != nil {
			closeSQL(conn)
			return nil, explain(fmt.Errorf("prepare the session: %w", err))
		}
	}
	return &Look{conn, o}, nil
}

// Close ends the connection. It may be called on nil.
func (l *Look) Close() {
	if l != nil {
		closeSQL(l.conn)
	}
}

// Facts are what a server, and a role on it, are like.
type Facts struct {
	Address           string       `json:"address"`
	Version           int          `json:"version"`
	VersionText       string       `json:"version_text"`
	Standby           bool         `json:"standby"`
	Database          string       `json:"database"`
	Role              string       `json:"role"`
	Superuser         bool         `json:"superuser"`
	CreateRole        bool         `json:"create_role"`
	CreateDB          bool         `json:"create_db"`
	BypassRLS         bool         `json:"bypass_rls"`   // row level security hides nothing from it
	CreateInDB        bool         `json:"create_in_db"` // which a publication takes
	WALLevel          string       `json:"wal_level"`
	MaxSlots          int          `json:"max_slots"`
	Slots             int          `json:"slots"`
	MaxSenders        int          `json:"max_senders"`
	Senders           int          `json:"senders"`
	HasPublication    bool         `json:"has_publication"`
	StandbyWith       []string     `json:"standby_with"`       // names of the standbys that stream from here
	SynchronizedSlots string       `json:"synchronized_slots"` // synchronized_standby_slots (17+)
	Tables            []TableFacts `json:"tables"`             // in the order of Options.Tables
}

// TableFacts are what an outbox table is like to the role.
type TableFacts struct {
	Name        string   `json:"name"` // as configured
	Kind        string   `json:"kind"` // relkind; "" if there is no such table
	Persistence string   `json:"persistence"`
	Usage       bool     `json:"usage"` // of the schema
	Select      bool     `json:"select"`
	Owner       bool     `json:"owner"` // the role is it, or a member of it
	OwnedBy     string   `json:"owned_by"`
	Writes      []string `json:"writes"`       // of insert, update, delete, truncate: what the role may do
	GrantedTo   []string `json:"granted_to"`   // the role itself, roles that it is in, public: who has it from a grant; quoted
	Guarded     bool     `json:"guarded"`      // it has row level security,
	RowSecurity bool     `json:"row_security"` // which holds for the role
}

// Facts asks the server.
func (l *Look) Facts(ctx context.Context) (*Facts, error) {
	tables := make([]string, len(l.options.Tables))
	for i, t := range l.options.Tables {
		schema, name := splitTable(t)
		tables[i] = fmt.Sprintf("(%d, %s, %s, %s)", i, quoteLiteral(t), quoteLiteral(schema), quoteLiteral(name))
	}
	values := "(values " + strings.Join(tables, ", ") + ")"
	if len(tables) == 0 {
		values = "(select 0, '', '', '' where false)"
	}
	var text []byte
	err := l.conn.QueryRow(ctx, fmt.Sprintf(`select json_build_object(
		'address', coalesce(host(inet_server_addr()) || ' port ' || inet_server_port(), 'a unix socket'),
		'version', current_setting('server_version_num')::int, 'version_text', current_setting('server_version'),
		'standby', pg_is_in_recovery(), 'database', current_database(), 'role', session_user,
		'superuser', r.rolsuper, 'create_role', r.rolcreaterole, 'create_db', r.rolcreatedb, 'bypass_rls', r.rolbypassrls,
		'create_in_db', has_database_privilege(current_database(), 'create'),
		'wal_level', current_setting('wal_level'),
		'max_slots', current_setting('max_replication_slots')::int, 'slots', (select count(*) from pg_replication_slots),
		'max_senders', current_setting('max_wal_senders')::int, 'senders', (select count(*) from pg_stat_get_wal_senders()),
		'has_publication', exists (select from pg_publication where pubname = %s),
		'standby_with', (select coalesce(json_agg(slot_name), '[]') from pg_replication_slots where slot_type = 'physical' and active),
		'synchronized_slots', coalesce(current_setting('synchronized_standby_slots', true), ''),
		'tables', (select coalesce(json_agg(json_build_object('name', t.configured, 'kind', coalesce(c.relkind::text, ''),
				'persistence', coalesce(c.relpersistence::text, ''),
				'usage', coalesce(has_schema_privilege(n.oid, 'usage'), false),
				'select', coalesce(has_table_privilege(c.oid, 'select'), false),
				'owner', coalesce(pg_has_role(c.relowner, 'usage'), false),
				'owned_by', coalesce(pg_get_userbyid(c.relowner)::text, ''), 'guarded', coalesce(c.relrowsecurity, false),
				'writes', (select coalesce(json_agg(w), '[]') from unnest(array['insert', 'update', 'delete', 'truncate']) w where has_table_privilege(c.oid, w)),
				'granted_to', (select coalesce(json_agg(distinct case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end), '[]')
					from aclexplode(c.relacl) a where a.privilege_type in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
					and (a.grantee = 0 or pg_has_role(nullif(a.grantee, 0), 'usage'))),
				'row_security', coalesce(row_security_active(c.oid), false)) order by t.i), '[]')
			from %s t (i, configured, schema, name)
			left join pg_namespace n on n.nspname = t.schema left join pg_class c on c.relnamespace = n.oid and c.relname = t.name))
		from pg_roles r where r.rolname = session_user`, quoteLiteral(l.options.Publication), values)).Scan(&text)
	if err != nil {
		return nil, explain(fmt.Errorf("look at the source: %w", err))
	}
	f := &Facts{}
	if err := json.Unmarshal(text, f); err != nil {
		return nil, fmt.Errorf("look at the source: %w", err)
	}
	return f, nil
}

// Retention is LookAtRetention on this connection.
func (l *Look) Retention(ctx context.Context) (*Retention, error) {
	return retention(ctx, l.conn, l.options.Slot)
}

// ClockAhead returns how far the server's clock is ahead of this host's, and how much that may be off either way.
func (l *Look) ClockAhead(ctx context.Context) (ahead, uncertain time.Duration, err error) {
	uncertain = time.Hour
	for range 5 {
		before := time.Now()
		var there time.Time
		if err := l.conn.QueryRow(ctx, "select clock_timestamp()").Scan(&there); err != nil {
			return 0, 0, explain(fmt.Errorf("look at the server's clock: %w", err))
		}
		half := time.Since(before) / 2
		if half < uncertain {
			ahead, uncertain = there.Sub(before.Add(half)), half
		}
	}
	return ahead, uncertain, nil
}

// GrantReadSQL returns the statements that let a role read the tables.
func GrantReadSQL(role string, tables ...string) []string {
	var out []string
	schemas := map[string]bool{}
	for _, t := range tables {
		schema, _ := splitTable(t)
		if !schemas[schema] {
			schemas[schema] = true
			out = append(out, "grant usage on schema "+quoteIdentifier(schema)+" to "+quoteIdentifier(role))
		}
	}
	if len(tables) == 0 {
		return nil
	}
	return append(out, "grant select on "+quoteTables(tables)+" to "+quoteIdentifier(role))
}

// GrantReplicationSQL returns the statement that lets a role read the log.
func GrantReplicationSQL(role string) string {
	return "alter role " + quoteIdentifier(role) + " replication"
}

// AddColumnSQL returns the statement that adds a text column.
func AddColumnSQL(table, column string) string {
	return "alter table " + quoteTable(table) + " add column " + quoteIdentifier(column) + " text"
}
