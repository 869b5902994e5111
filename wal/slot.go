package wal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
)

// Slot is a replication slot as pg_replication_slots shows it. Fields that the server's version lacks are zero.
type Slot struct {
	Name               string `json:"slot_name"`
	Plugin             string `json:"plugin"`
	Type               string `json:"slot_type"`
	Database           string `json:"database"`
	Temporary          bool   `json:"temporary"`
	Active             bool   `json:"active"`
	ActivePID          int    `json:"active_pid"`
	RestartLSN         string `json:"restart_lsn"`
	ConfirmedFlushLSN  string `json:"confirmed_flush_lsn"`
	WALStatus          string `json:"wal_status"`
	SafeWALSize        int64  `json:"safe_wal_size"`
	InvalidationReason string `json:"invalidation_reason"`
	Conflicting        bool   `json:"conflicting"`
	Failover           bool   `json:"failover"`
	Synced             bool   `json:"synced"`

	// Of who streams from it, as far as the role may know.
	HolderName    string `json:"holder_name"` // application_name
	HolderAddress string `json:"holder_address"`
}

// Holder names who streams from the slot, for a person; "" if nobody does.
func (s *Slot) Holder() string {
	if !s.Active {
		return ""
	}
	name := s.HolderName
	if name == "" {
		name = "somebody"
	}
	if s.HolderAddress != "" {
		name += " from " + s.HolderAddress
	}
	return fmt.Sprintf("%s (Postgres backend %d)", name, s.ActivePID)
}

// Lost reports whether the server has thrown away log that the slot needs, and why.
func (s *Slot) Lost() (reason string, lost bool) {
	switch {
	case s.InvalidationReason != "":
		return s.InvalidationReason, true
	case s.Conflicting && s.RestartLSN != "": // version 16, which says so of every logical slot that is lost, and not why
		return "conflicting with recovery", true
	case s.WALStatus == "lost", s.Conflicting: // the log is gone, and with it restart_lsn
		return "wal_removed", true
	default:
		return "", false
	}
}

// holderSQL is who streams from the slot s, as the fields of a Slot.
const holderSQL = `coalesce((select jsonb_build_object('holder_name', application_name, 'holder_address', host(client_addr))
	from pg_stat_activity a where a.pid = s.active_pid), '{}')`

// Confirmed returns the position up to which the server may throw away; zero if it has none yet.
func (s *Slot) Confirmed() (pglogrepl.LSN, error) {
	if s.ConfirmedFlushLSN == "" {
		return 0, nil
	}
	return pglogrepl.ParseLSN(s.ConfirmedFlushLSN)
}

// Slot returns the configured slot, or nil if the server has none of that name.
func (c *Conn) Slot(ctx context.Context) (*Slot, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout) // a hot standby asks for days, of a server that may vanish
	defer cancel()
	var s *Slot
	err := c.queryJSON(ctx, "select to_jsonb(s) || "+holderSQL+" from pg_replication_slots s where slot_name = "+quoteLiteral(c.options.Slot), &s)
	if err != nil {
		return nil, fmt.Errorf("look up slot %s: %w", c.options.Slot, err)
	}
	return s, nil
}

// CreateSlot creates the slot and returns the point from which it streams, with the name of a snapshot that shows
// exactly what was committed before that point. The snapshot lives until the connection is used again.
//
// Postgres makes it wait for every transaction that is running; the wait is bounded, and the error names who was in
// the way. On a standby it waits until the primary logs which transactions run, see remind.
func (c *Conn) CreateSlot(ctx context.Context, failover bool) (start pglogrepl.LSN, snapshot string, err error) {
	limited, cancel := context.WithTimeout(ctx, c.slotTimeout)
	defer cancel()
	inTheWay := c.longTransactions
	if c.System.Standby {
		inTheWay = c.remind(limited)
	}
	// As text: pglogrepl's options lack FAILOVER (Postgres 17+).
	options := "SNAPSHOT 'export'"
	if failover {
		options += ", FAILOVER true"
	}
	if c.System.Version < 150000 {
		options = "EXPORT_SNAPSHOT"
	} else {
		options = "(" + options + ")"
	}
	sql := fmt.Sprintf("CREATE_REPLICATION_SLOT %s LOGICAL pgoutput %s", quoteIdentifier(c.options.Slot), options)
	result, err := c.createSlot(limited, sql)
	switch {
	case err == nil:
	case ctx.Err() != nil: // it was not the wait that ended this
		return 0, "", fmt.Errorf("create slot %s: %w", c.options.Slot, ctx.Err())
	case sqlState(err) == "40001":
		return 0, "", permanent(fmt.Errorf("create slot %s: %w, each time for %s: too many transactions are rolled back meanwhile", c.options.Slot, err, c.slotTimeout),
			"start again when fewer are, or raise max_connections")
	case limited.Err() != nil:
		return 0, "", permanent(fmt.Errorf("create slot %s: gave up after %s; Postgres waits for the end of every running transaction%s",
			c.options.Slot, c.slotTimeout, inTheWay()),
			"end the long transactions, or start again when they are done")
	case c.System.Standby && sqlState(err) == "55000":
		return 0, "", fmt.Errorf("create slot %s on a standby: %w (it takes wal_level = logical on the primary, too)", c.options.Slot, err)
	default:
		return 0, "", explain(fmt.Errorf("create slot %s: %w", c.options.Slot, err))
	}
	start, err = pglogrepl.ParseLSN(result.ConsistentPoint)
	if err != nil {
		return 0, "", fmt.Errorf("create slot %s: %w", c.options.Slot, err)
	}
	return start, result.SnapshotName, nil
}

// createSlot tries until ctx is done. A snapshot that is exported holds every transaction that was not committed between the
// point where Postgres began to look and the one from which it can decode, and is refused if they are more than the server
// has room for: some hundred that were rolled back on a busy server are enough, and the next attempt may meet fewer.
func (c *Conn) createSlot(ctx context.Context, sql string) (pglogrepl.CreateReplicationSlotResult, error) {
	const pause = 100 * time.Millisecond
	for {
		result, err := pglogrepl.ParseCreateReplicationSlot(c.pg.Exec(ctx, sql))
		if sqlState(err) != "40001" { // serialization_failure: "initial slot snapshot too large"
			return result, err
		}
		select {
		case <-ctx.Done():
			return result, err
		case <-time.After(pause):
		}
	}
}

const createSlotTimeout = 2 * time.Minute

// longTransactions names the oldest running transactions, the prepared ones too, which belong to no process, for an
// error; the connection itself is no longer usable.
func (c *Conn) longTransactions() string {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout) //nolint:forbidigo // the caller's has run out
	defer cancel()
	conn, err := connectSQL(ctx, c.options.DSN)
	if err != nil {
		return ""
	}
	defer closeSQL(conn)
	var who string
	err = conn.QueryRow(ctx, `select coalesce(': ' || string_agg(who, ', '), '') from (
		select format('pid %s (%s, %s)', pid, coalesce(nullif(application_name, ''), usename), state) as who, xact_start as since
		from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid()
		union all
		select format('prepared transaction %L (of %s; rollback prepared or commit prepared ends it)', gid, owner), prepared
		from pg_prepared_xacts
		order by since limit 5) a`).Scan(&who)
	if err != nil {
		return ""
	}
	return who
}

// SetFailover has the slot, which must not be active, synced to standbys or not (Postgres 17+).
func (c *Conn) SetFailover(ctx context.Context, on bool) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	_, err := c.pg.Exec(ctx, fmt.Sprintf("ALTER_REPLICATION_SLOT %s (FAILOVER %t)", quoteIdentifier(c.options.Slot), on)).ReadAll()
	if err != nil {
		return explain(fmt.Errorf("set failover of slot %s: %w", c.options.Slot, err))
	}
	return nil
}

// failoverSince is the first version with failover slots.
const failoverSince = 170000

// Failover says what source.failover (auto, true, false) means on this server: whether its slot is to be a failover slot.
func (s System) Failover(setting string) (bool, error) {
	able := s.Version >= failoverSince && !s.Standby
	switch {
	case setting != "true":
		return setting == "auto" && able, nil
	case s.Standby:
		return false, permanent(errors.New("source.failover is true, and source.dsn leads to a standby, whose slots are its own"),
			"set source.failover: auto, or point source.dsn at the primary")
	case !able:
		return false, permanent(fmt.Errorf("source.failover is true, and this is Postgres %d: failover slots came with 17", s.Version/10000),
			"set source.failover: auto, or upgrade; until then a failover takes tidemark init --recreate-slot --republish")
	default:
		return true, nil
	}
}

// DropSlot drops the slot, which must not be active.
func (c *Conn) DropSlot(ctx context.Context) error {
	_, err := c.pg.Exec(ctx, "select pg_drop_replication_slot("+quoteLiteral(c.options.Slot)+")").ReadAll()
	if err != nil {
		return explain(fmt.Errorf("drop slot %s: %w", c.options.Slot, err))
	}
	return nil
}
