package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Postgres keeps checkpoints in a table, one row a source. A save replaces the row only if it still has the very text
// that was looked at: no lock is held between the look and the write, so that a process which is stopped there is in
// nobody's way.
//
// A save that has returned survives a crash of the server and, where there are synchronous standbys, of its host. It
// does not survive a failover to an asynchronous standby that had not got it yet: the checkpoint is then an older one.
// That hides nothing, because a slot that knows better is refused as being ahead of the checkpoint.
//
// It holds one connection. When that breaks, the call that notices returns the error, and the next one connects anew.
// Any goroutine may call its methods; calls come one after the other.
type Postgres struct {
	o    PostgresOptions
	busy chan struct{} // holds a token while a call has what is below

	conn   *pgx.Conn // nil, or perhaps closed
	role   string    // who is connected, for advice
	table  bool      // on this connection the table has been seen
	last   *row      // what this store has written last, nil if nothing yet
	closed bool
}

// PostgresOptions are what a Postgres store is made from.
type PostgresOptions struct {
	DSN            string
	Database, Slot string // name the row
	Create         bool   // the table may be created where it is missing
}

// row is what the table has for a source.
type row struct{ text, writer string }

const (
	schemaName = "public"
	tableName  = schemaName + ".tidemark_checkpoint"
	// tableMark is the table's comment. A version that writes another format writes another mark, with a larger number,
	// so that this one refuses the table instead of misreading it.
	tableMark   = tableFormat + "1"
	tableFormat = "tidemark: checkpoints, format "

	connectLimit = 15 * time.Second
	callLimit    = 30 * time.Second
)

// TableSQL returns the statements that create the table, without a semicolon behind the last. They change nothing where
// it is there already.
func TableSQL() string {
	return `create table if not exists ` + tableName + ` (
	database   text not null,
	slot       text not null,
	checkpoint json not null check (json_typeof(checkpoint) = 'object'),  -- what ` + "`tidemark checkpoint show`" + ` prints
	written_at timestamptz not null default clock_timestamp(),
	primary key (database, slot)
);
comment on table ` + tableName + ` is '` + tableMark + `'`
}

// NewPostgres returns a store that connects when it is used.
func NewPostgres(o PostgresOptions) *Postgres {
	return &Postgres{o: o, busy: make(chan struct{}, 1)}
}

// String names the store for logs and errors.
func (p *Postgres) String() string {
	return "Postgres table " + tableName + ", row " + Key(p.o.Database, p.o.Slot)
}

// Close ends the connection, after the call that is under way. Later calls fail.
func (p *Postgres) Close() {
	p.busy <- struct{}{}
	defer func() { <-p.busy }()
	p.closed = true
	p.disconnect()
}

// Load returns what is stored, nil if nothing is, or if there is no table. A row that is no checkpoint is an error for
// which IsCorrupt is true.
func (p *Postgres) Load(ctx context.Context) (stored *Checkpoint, err error) {
	err = p.call(ctx, "load checkpoint from", func(ctx context.Context) error {
		stored, _, err = p.load(ctx)
		return err
	})
	return stored, err
}

func (p *Postgres) load(ctx context.Context) (*Checkpoint, *row, error) {
	if there, err := p.lookAtTable(ctx); err != nil || !there {
		return nil, nil, err
	}
	r := &row{}
	err := p.conn.QueryRow(ctx, "select checkpoint::text from "+tableName+" where database = $1 and slot = $2",
		p.o.Database, p.o.Slot).Scan(&r.text)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	c, err := Decode([]byte(r.text))
	if err != nil {
		return nil, r, err
	}
	r.writer = c.Writer
	return c, r, nil
}

// Save replaces what is stored, durably. What is stored must be held by holder, or else IsTakenOver is true of the
// error. Any other error, but for one that IsCorrupt or IsPermanent, leaves open whether c is stored.
func (p *Postgres) Save(ctx context.Context, c *Checkpoint, holder string) error {
	text, err := encodeASCII(c)
	if err != nil {
		return err
	}
	return p.call(ctx, "save checkpoint in", func(ctx context.Context) error {
		if err := p.ensureTable(ctx); err != nil {
			return err
		}
		seen := p.last // if it is not there any more, nothing is replaced
		for {
			if seen == nil || seen.writer != holder {
				stored, r, err := p.load(ctx)
				if err != nil {
					return err
				}
				if err := heldBy(stored, c, holder); err != nil {
					return err
				}
				seen = r
			}
			swapped, err := p.swap(ctx, seen, text)
			if err != nil {
				return err
			}
			if swapped {
				p.last = &row{text, c.Writer}
				return nil
			}
			seen = nil // somebody was quicker
		}
	})
}

// swap puts text in the place of what was seen, nil for nothing, if it is still there.
func (p *Postgres) swap(ctx context.Context, seen *row, text string) (bool, error) {
	sql := "insert into " + tableName + " (database, slot, checkpoint) values ($1, $2, $3) on conflict do nothing"
	args := []any{p.o.Database, p.o.Slot, text}
	if seen != nil {
		sql = "update " + tableName + " set checkpoint = $3, written_at = clock_timestamp()" +
			" where database = $1 and slot = $2 and checkpoint::text = $4"
		args = append(args, seen.text)
	}
	tag, err := p.conn.Exec(ctx, sql, args...)
	return tag.RowsAffected() == 1, err
}

// Replace stores c in the place of whatever is there, and whoever holds it. What was there is kept in another row, whose
// name is returned; "" if nothing was.
func (p *Postgres) Replace(ctx context.Context, c *Checkpoint, now time.Time) (kept string, err error) {
	text, err := encodeASCII(c)
	if err != nil {
		return "", err
	}
	slot := aside(p.o.Slot, now)
	err = p.call(ctx, "replace checkpoint in", func(ctx context.Context) error {
		if err := p.ensureTable(ctx); err != nil {
			return err
		}
		return pgx.BeginFunc(ctx, p.conn, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, "update "+tableName+" set slot = $3 where database = $1 and slot = $2", p.o.Database, p.o.Slot, slot)
			if err != nil {
				return err
			}
			if tag.RowsAffected() > 0 {
				kept = "row " + Key(p.o.Database, slot) + " of " + tableName
			}
			_, err = tx.Exec(ctx, "insert into "+tableName+" (database, slot, checkpoint) values ($1, $2, $3)", p.o.Database, p.o.Slot, text)
			return err
		})
	})
	return kept, err
}

// MissingTable returns the statements that create the table, "" if it is there.
func (p *Postgres) MissingTable(ctx context.Context) (sql string, err error) {
	err = p.call(ctx, "look at", func(ctx context.Context) error {
		there, err := p.lookAtTable(ctx)
		if err == nil && !there {
			sql = TableSQL()
		}
		return err
	})
	return sql, err
}

// call gives work the connection.
func (p *Postgres) call(ctx context.Context, doing string, work func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	select {
	case p.busy <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%s %s: %w", doing, p, ctx.Err())
	}
	defer func() { <-p.busy }()
	err := ctx.Err()
	if err == nil {
		err = p.connect(ctx)
	}
	if err == nil {
		err = work(ctx)
	}
	if err == nil {
		return nil
	}
	if p.conn != nil && (sqlState(err) != "" || p.conn.PgConn().TxStatus() != 'I') {
		p.disconnect() // the next call shall look at the table before it goes on
	}
	return p.explain(fmt.Errorf("%s %s: %w", doing, p, err))
}

func (p *Postgres) connect(ctx context.Context) error {
	if p.closed {
		return errors.New("it is closed")
	}
	if p.conn != nil && !p.conn.IsClosed() {
		return nil
	}
	p.conn, p.table, p.last = nil, false, nil
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	config, err := pgx.ParseConfig(p.o.DSN)
	if err != nil {
		return &permanentError{fmt.Errorf("read source.admin_dsn: %w", err), "write it as postgres://user:password@host:5432/database"}
	}
	p.role = config.User
	maps.Copy(config.RuntimeParams, map[string]string{
		"application_name":   "tidemark",
		"client_encoding":    "UTF8",
		"synchronous_commit": "on", // what is stored is confirmed, whatever the database thinks of losing commits
		"lock_timeout":       "10s",
		"statement_timeout":  "30s",
		// A process that is frozen inside a transaction must not hold up its successor.
		"idle_in_transaction_session_timeout": "10s",
	})
	config.DialFunc = (&net.Dialer{
		// A host that vanished without a word is noticed by the kernel within half a minute.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4},
	}).DialContext
	p.conn, err = pgx.ConnectConfig(ctx, config) // pgx takes the password out of its errors
	return err
}

func (p *Postgres) disconnect() {
	if p.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) //nolint:forbidigo // closing must not depend on what was cancelled
	defer cancel()
	_ = p.conn.Close(ctx) // nothing depends on a farewell
	p.conn = nil
}

// ensureTable creates the table where it is missing.
func (p *Postgres) ensureTable(ctx context.Context) error {
	there, err := p.lookAtTable(ctx)
	if err != nil || there {
		return err
	}
	if !p.o.Create {
		return &permanentError{fmt.Errorf("%s does not exist and source.create is false", tableName), "run tidemark init, or set source.create: true"}
	}
	_, err = p.conn.Exec(ctx, TableSQL())
	if err == nil {
		p.table = true
		return nil
	}
	// Somebody else may have been quicker: two who create the same table at once do not both get it.
	if there, again := p.lookAtTable(ctx); again == nil && there {
		return nil
	}
	err = fmt.Errorf("create %s: %w", tableName, err)
	switch sqlState(err) {
	case "42501", "3F000": // no right, no schema
		return &permanentError{err, "let the owner of the database run what `tidemark init --dry-run` prints, then " + p.grantSQL()}
	}
	return err
}

// lookAtTable reports whether the table is there, and makes sure that it is ours and usable.
func (p *Postgres) lookAtTable(ctx context.Context) (there bool, err error) {
	if p.table {
		return true, nil
	}
	var mark, missing string
	err = p.conn.QueryRow(ctx, `select t is not null, coalesce(obj_description(t, 'pg_class'), ''),
			coalesce((select string_agg(r, ' or ') from unnest($2::text[]) r where not has_table_privilege(t, r)), '')
		from (select to_regclass($1)::oid t) x`, tableName, []string{"select", "insert", "update"}).Scan(&there, &mark, &missing)
	switch {
	case err != nil:
		return false, fmt.Errorf("look up %s: %w", tableName, err)
	case !there:
		return false, nil
	case mark != tableMark && strings.HasPrefix(mark, tableFormat): // the first format was 1
		return false, &permanentError{
			fmt.Errorf("%s has format %s, and this version reads format %s: %w", tableName, mark[len(tableFormat):], tableMark[len(tableFormat):], errNewerTable),
			"run that version again; to go back to this one, name another checkpoint.store and take the slot's position: tidemark checkpoint adopt --accept-gap",
		}
	case mark != tableMark:
		return false, &permanentError{
			fmt.Errorf("the comment on %s is %q, not %q", tableName, mark, tableMark),
			"see whose table it is; if it is tidemark's, and only the comment was lost: comment on table " + tableName + " is '" + tableMark + "'",
		}
	case missing != "":
		return false, &permanentError{fmt.Errorf("role %s may not %s in %s", p.role, missing, tableName), p.grantSQL()}
	}
	p.table = true
	return true, nil
}

// explain says what to do about errors of the server that only a person can mend.
// (https://www.postgresql.org/docs/current/errcodes-appendix.html)
func (p *Postgres) explain(err error) error {
	if IsPermanent(err) {
		return err
	}
	switch sqlState(err) {
	case "28P01", "28000":
		return &permanentError{err, "check user and password in source.admin_dsn, and pg_hba.conf"}
	case "3D000":
		return &permanentError{err, "check the database in source.admin_dsn"}
	case "42501":
		return &permanentError{err, "let the owner of the database grant what is missing: " + p.grantSQL()}
	case "25006":
		return fmt.Errorf("%w: that server takes no writes; source.admin_dsn must lead to the primary (with several hosts: target_session_attrs=primary)", err)
	case "42703":
		return &permanentError{err, tableName + " is not as tidemark made it; see that nobody alters it"}
	default:
		return err
	}
}

func (p *Postgres) grantSQL() string {
	role := `"` + strings.ReplaceAll(p.role, `"`, `""`) + `"`
	return "grant usage on schema " + schemaName + " to " + role + "; grant select, insert, update on " + tableName + " to " + role
}

func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// aside returns the name under which what name had is kept after now. No slot can be called so.
func aside(name string, now time.Time) string {
	return name + ".before-" + now.UTC().Format("20060102T150405.000000Z")
}

// encodeASCII is Encode without a character that some server's encoding does not have.
func encodeASCII(c *Checkpoint) (string, error) {
	b, err := Encode(c)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, r := range string(b) {
		switch {
		case r < utf8.RuneSelf:
			text.WriteByte(byte(r))
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&text, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&text, `\u%04x`, r)
		}
	}
	return text.String(), nil
}
