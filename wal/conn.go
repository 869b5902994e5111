// Package wal owns the connection to Postgres: the replication stream, the slot and the publication. The one rule: one
// goroutine owns the replication connection, and it goes on sending status while everything behind it stands still,
// or else wal_sender_timeout cuts the stream. The package knows nothing of Kafka.
package wal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark/tidemark/handshake"
)

// Options say where the source is and what is read from it.
type Options struct {
	DSN            string // libpq URL or keywords; several hosts work
	AdminDSN       string // where SQL that writes goes; "" is DSN
	Slot           string
	Publication    string
	Tables         []string      // the outbox tables, schema.name
	StatusInterval time.Duration // how often the confirmed position is sent
}

const (
	connectTimeout = 15 * time.Second
	// readBuffer is what one read of the socket may bring. The walsender sends a packet a row; whenever the relay is
	// behind, the kernel has several of them.
	readBuffer = 128 << 10
)

// System identifies the server that a connection has reached.
type System struct {
	ID       string // system identifier of the cluster, the same on its standbys
	Timeline int32
	Database string
	Flushed  pglogrepl.LSN // how far its log was written when it was asked
	Standby  bool          // in recovery
	Version  int           // server_version_num, 180004 for 18.4
	Started  string        // when its server process was started: tells it from another one behind the same name
}

// Conn is a replication connection that has not started streaming. It answers questions about its own server, so that
// the answers and the stream cannot come from different ones behind a list of hosts. Not for concurrent use.
type Conn struct {
	System System

	options     Options
	pg          *pgconn.PgConn
	socket      net.Conn // beneath pg, and beneath TLS
	valve       *valve
	slotTimeout time.Duration // how long CreateSlot may wait
	messages    bool          // see WithMessages
}

// Connect opens a replication connection and asks the server who it is.
func Connect(ctx context.Context, o Options) (*Conn, error) {
	config, err := pgconn.ParseConfig(o.DSN)
	if err != nil {
		return nil, unreadableDSN(err)
	}
	if err := chooseHost(config, "source.dsn"); err != nil {
		return nil, err
	}
	return connect(ctx, o, config, nil)
}

// connect goes where config leads, or to the address at.
func connect(ctx context.Context, o Options, config *pgconn.Config, at net.Addr) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	config.RuntimeParams["replication"] = "database"
	setSession(config.RuntimeParams)
	valve := &valve{}
	config.BuildFrontend = valve.frontend
	var dial pgconn.DialFunc = dialer().DialContext
	if at != nil {
		dial = dialAt(at)
	}
	var socket net.Conn // the last one that was dialled is the one that is used; TLS may be put around it
	config.DialFunc = func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		socket, err = dial(ctx, network, address)
		return socket, err
	}
	pg, err := pgconn.ConnectConfig(ctx, config)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "42501" && e.Routine != "CheckMyDatabase" { // which is about CONNECT
		return nil, permanent(fmt.Errorf("connect to the source: %w", err),
			"let the role read the log: "+GrantReplicationSQL(config.User)+" (on Amazon RDS: grant rds_replication to "+quoteIdentifier(config.User)+")")
	}
	if err != nil {
		return nil, explainConnect(err)
	}
	c := &Conn{options: o, pg: pg, socket: socket, valve: valve, slotTimeout: createSlotTimeout}
	if err := c.identify(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// dialer has the kernel notice within half a minute that a host vanished without a word.
func dialer() *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4},
	}
}

// dialAt leads to one address, whatever host is asked for.
func dialAt(at net.Addr) pgconn.DialFunc {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer().DialContext(ctx, at.Network(), at.String())
	}
}

// hostTimeout is how long one of several hosts may take, so that a silent one does not use up the time of the others.
const hostTimeout = 4 * time.Second

// chooseHost refuses a list of hosts from which any may be taken: the slot is on one of them.
func chooseHost(config *pgconn.Config, key string) error {
	several := false
	for _, other := range config.Fallbacks { // the same host may be there twice, with and without TLS
		several = several || other.Host != config.Host || other.Port != config.Port
	}
	if !several {
		return nil
	}
	if config.ValidateConnect == nil {
		return permanent(fmt.Errorf("%s names several hosts and does not say which of them is meant", key),
			"add target_session_attrs=read-write for the one that is the primary at the moment, or standby for a read replica")
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = hostTimeout
	}
	return nil
}

// setSession fixes what the text of a value depends on, and what would end a session that works or waits for long,
// whatever the role's or the database's settings are. See also noTransactionTimeout.
func setSession(params map[string]string) {
	params["application_name"] = "tidemark"
	params["client_min_messages"] = "warning" // the reader heeds one
	params["client_encoding"] = "UTF8"
	params["standard_conforming_strings"] = "on" // quoteLiteral relies on it
	params["datestyle"] = "ISO"
	params["timezone"] = "UTC"
	params["intervalstyle"] = "postgres"
	params["bytea_output"] = "hex"
	params["extra_float_digits"] = "1"
	params["statement_timeout"] = "0"
	params["lock_timeout"] = "0"
	params["idle_in_transaction_session_timeout"] = "0" // the slot's exported snapshot is a transaction that idles
}

// noTransactionTimeout is what a session needs besides setSession, on servers that know the setting: it holds for a
// walsender too, and would end the streaming of every transaction that takes longer, again and again.
const noTransactionTimeout = "set transaction_timeout = 0"

const transactionTimeoutSince = 170000

func (c *Conn) identify(ctx context.Context) error {
	sys, err := pglogrepl.IdentifySystem(ctx, c.pg)
	if err != nil {
		return explain(fmt.Errorf("identify the source: %w", err))
	}
	var facts struct {
		Standby bool   `json:"standby"`
		Level   string `json:"level"`
		Version int    `json:"version"`
		Started string `json:"started"`
	}
	err = c.queryJSON(ctx, `select json_build_object('standby', pg_is_in_recovery(), 'level', current_setting('wal_level'),
		'version', current_setting('server_version_num')::int, 'started', pg_postmaster_start_time()::text)`, &facts)
	if err != nil {
		return fmt.Errorf("identify the source: %w", err)
	}
	if facts.Level != "logical" {
		return permanent(fmt.Errorf("wal_level of the source is %s, and the outbox can only be read from the log at logical", facts.Level),
			"set wal_level = logical (alter system set wal_level = 'logical') and restart Postgres")
	}
	if facts.Version >= transactionTimeoutSince {
		if _, err := c.pg.Exec(ctx, noTransactionTimeout).ReadAll(); err != nil {
			return explain(fmt.Errorf("prepare the session: %w", err))
		}
	}
	c.System = System{
		ID: sys.SystemID, Timeline: sys.Timeline, Database: sys.DBName, Flushed: sys.XLogPos,
		Standby: facts.Standby, Version: facts.Version, Started: facts.Started,
	}
	return nil
}

// Refresh asks the server again: what Connect has written into System may be old.
func (c *Conn) Refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return c.identify(ctx)
}

// Close ends the connection. It may be called twice.
func (c *Conn) Close() {
	if c.pg == nil {
		return
	}
	closePG(c.pg)
	c.pg = nil
}

func closePG(pg *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) //nolint:forbidigo // closing must not depend on what was cancelled
	defer cancel()
	_ = pg.Close(ctx) // nothing depends on a farewell
}

// queryJSON runs one statement that yields one JSON value, and decodes it into v. The value is left as it was if the
// statement yields no row. A replication connection speaks the simple protocol only, hence no parameters: quote them.
func (c *Conn) queryJSON(ctx context.Context, sql string, v any) error {
	return queryJSON(ctx, c.pg, sql, v)
}

func queryJSON(ctx context.Context, pg *pgconn.PgConn, sql string, v any) error {
	results, err := pg.Exec(ctx, sql).ReadAll()
	if err != nil {
		return explain(err)
	}
	for _, r := range results {
		if r.Err != nil {
			return explain(r.Err)
		}
		for _, row := range r.Rows {
			if row[0] == nil {
				continue
			}
			if err := json.Unmarshal(row[0], v); err != nil {
				return fmt.Errorf("read the answer to %q: %w", sql, err)
			}
		}
	}
	return nil
}

// connectSQL opens an ordinary connection with the session settings of the replication connection.
func connectSQL(ctx context.Context, dsn string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, unreadableDSN(err)
	}
	if err := chooseHost(&config.Config, "source.admin_dsn"); err != nil {
		return nil, err
	}
	setSession(config.RuntimeParams)
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, explainConnect(err)
	}
	return conn, nil
}

func closeSQL(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) //nolint:forbidigo // closing must not depend on what was cancelled
	defer cancel()
	_ = conn.Close(ctx) // nothing depends on a farewell
}

func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func quoteIdentifier(s string) string { return pgx.Identifier{s}.Sanitize() }

// QuoteTable returns the name of a table, schema.name as the configuration has it, as SQL takes it. A name without a schema
// is in public.
func QuoteTable(table string) string { return quoteTable(table) }

func quoteTable(table string) string {
	schema, name := splitTable(table)
	return pgx.Identifier{schema, name}.Sanitize()
}

func splitTable(table string) (schema, name string) {
	schema, name, ok := strings.Cut(table, ".")
	if !ok {
		return "public", table
	}
	return schema, name
}

// errPermanent marks what trying again will not mend.
type errPermanent struct {
	err     error
	hint    string
	refused bool
}

// Refused reports whether going on would hide events: the process ends with exit status 3.
func (e *errPermanent) Refused() bool { return e.refused }

func (e *errPermanent) Error() string {
	if e.hint == "" {
		return e.err.Error()
	}
	return e.err.Error() + ": " + e.hint
}

func (e *errPermanent) Unwrap() error { return e.err }

// Hint is what to do about it, the end of its text.
func (e *errPermanent) Hint() string { return e.hint }

func permanent(err error, hint string) error { return &errPermanent{err: err, hint: hint} }

// IsPermanent reports whether err is one that trying again will not mend: a person has to act, as its text says.
func IsPermanent(err error) bool {
	var p *errPermanent
	return errors.As(err, &p)
}

// IsSlotActive reports whether err says that another process streams from the slot.
func IsSlotActive(err error) bool { return sqlState(err) == "55006" }

// IsSlotMissing reports whether err says that there is no such slot.
func IsSlotMissing(err error) bool { return sqlState(err) == "42704" }

// IsGoingDown reports whether err says that the server takes no new connections, since it is shutting down or not up yet.
// Streams that are open go on meanwhile: the server waits for the confirmation of all that it has sent.
func IsGoingDown(err error) bool { return sqlState(err) == "57P03" }

func sqlState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

// hints maps an SQLSTATE that only a person can mend to the way out.
// (https://www.postgresql.org/docs/current/errcodes-appendix.html)
func hint(state, message string) (string, bool) {
	switch state {
	case "28P01":
		return "check user and password in source.dsn", true
	case "28000":
		if strings.Contains(message, "client certificate") || strings.Contains(message, "certificate authentication") {
			return "pg_hba.conf asks for a certificate whose common name is the user: set sslcert and sslkey in source.dsn to such a one, from an authority in the server's ssl_ca_file", true
		}
		if strings.Contains(message, "pg_hba") {
			way := "allow the connection in pg_hba.conf (a logical replication connection needs a line for its database, not for `replication`), then reload"
			if strings.Contains(message, "no encryption") {
				way = "if Postgres lets this user in with TLS alone (hostssl), set sslmode=verify-full and sslrootcert in source.dsn; else " + way
			}
			return way, true
		}
		return "check the user in source.dsn", true
	case "3D000":
		return "check the database in source.dsn", true
	case "42501":
		return "grant the role what it lacks: alter role NAME replication; grant connect on the database; grant select on the outbox tables", true
	case "08P01", "42601":
		// PgBouncer refuses parameters that it does not know, unless it is told to ignore them (ignore_startup_parameters):
		// then `replication` is left out, and Postgres cannot make sense of the first command.
		if strings.Contains(message, "unsupported startup parameter") || strings.Contains(message, "IDENTIFY_SYSTEM") {
			return "this is not Postgres itself but a connection pooler, and the log cannot be read through it: name Postgres's own host and port in source.dsn and source.admin_dsn", true
		}
		return "", false
	case "53400":
		return "raise max_replication_slots, or drop a slot that nobody needs (select * from pg_replication_slots)", true
	default:
		return "", false
	}
}

// explain adds the way out to an error that only a person can mend, and leaves others as they are.
func explain(err error) error {
	var pgErr *pgconn.PgError
	if err == nil || IsPermanent(err) || !errors.As(err, &pgErr) {
		return err
	}
	if h, ok := hint(pgErr.Code, pgErr.Message); ok {
		return permanent(err, h)
	}
	return err
}

// unreadableDSN says what is wrong with a DSN without repeating it. pgconn repeats it with the passwords masked that it
// recognises, and in what it cannot read it does not recognise all: those of "password = secret" and of
// `password=my\ secret` it printed.
func unreadableDSN(err error) error {
	problem := err.Error() // cannot parse `DSN`: problem
	if i := strings.LastIndex(problem, "`: "); i >= 0 {
		problem = problem[i+len("`: "):]
	}
	return permanent(fmt.Errorf("read source.dsn: %s", problem), "write it as postgres://user:password@host:5432/database")
}

// explainConnect is explain for a failed attempt to connect. pgconn has taken the password out of the text.
func explainConnect(err error) error {
	err = explain(fmt.Errorf("connect to the source: %w", oncePerAddress(err)))
	if IsPermanent(err) || sqlState(err) != "" {
		return err
	}
	return &unreachable{err, connectHint(err)}
}

// connectHint says what to do about a server that could not be spoken to.
func connectHint(err error) string {
	keys := handshake.Keys{CAFile: "sslrootcert in source.dsn", CertFile: "sslcert in source.dsn", KeyFile: "sslkey"}
	if hint := handshake.Explain(err, keys, nil); hint != "" {
		return hint
	}
	switch text := err.Error(); {
	case strings.Contains(text, "server refused TLS"):
		return "Postgres does not have TLS on: set ssl = on there with ssl_cert_file and ssl_key_file and reload it, or take sslmode out of source.dsn"
	case strings.Contains(text, "channel binding"):
		return "channel_binding=require in source.dsn takes TLS, and a server that offers SCRAM-SHA-256-PLUS"
	}
	return "check host and port in source.dsn, that Postgres runs there and listens on that address (listen_addresses), and that no firewall is between"
}

// oncePerAddress leaves out what pgconn says of an address more than once, as it does where TLS is tried first and then not.
func oncePerAddress(err error) error {
	lines := strings.Split(err.Error(), "\n")
	once := lines[:0:0]
	for _, line := range lines {
		if !slices.Contains(once, line) {
			once = append(once, line)
		}
	}
	if len(once) == len(lines) {
		return err
	}
	return &retold{strings.Join(once, "\n"), err}
}

// retold is an error in shorter words.
type retold struct {
	text string
	err  error
}

func (r *retold) Error() string { return r.text }
func (r *retold) Unwrap() error { return r.err }

// unreachable is a failed attempt to connect that the server has not answered.
type unreachable struct {
	err  error
	hint string
}

func (u *unreachable) Error() string { return u.err.Error() + ": " + u.Hint() }
func (u *unreachable) Unwrap() error { return u.err }

// Hint is what to do about it, the end of its text.
func (u *unreachable) Hint() string { return u.hint }
