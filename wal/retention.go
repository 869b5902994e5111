package wal

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
)

// Bytes is a size; its text is for a person.
type Bytes int64

// String returns it with a unit, such as 1.5 GiB.
func (b Bytes) String() string {
	const unit = 1024
	if b < unit {
		return fmt.Sprintf("%d B", int64(b))
	}
	value, prefix := float64(b)/unit, 0
	for value >= unit && prefix < 4 {
		value /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[prefix])
}

// Retention is how much log the slot holds back.
type Retention struct {
	Slot          *Slot // nil if there is none
	Standby       bool  // the server is one
	End           pglogrepl.LSN
	RetainedBytes int64 // from the slot's restart_lsn to the end of the log: what the server has to keep
	LagBytes      int64 // from what is confirmed to the end
	// KeepBytes is max_slot_wal_keep_size: beyond it the server gives the slot up. -1: never.
	KeepBytes int64
}

// LookAtRetention asks the server that source.dsn leads to, over an ordinary connection of its own.
func LookAtRetention(ctx context.Context, o Options) (*Retention, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := connectSQL(ctx, o.DSN)
	if err != nil {
		return nil, err
	}
	defer closeSQL(conn)
	return retention(ctx, conn, o.Slot)
}

func retention(ctx context.Context, conn *pgx.Conn, slotName string) (*Retention, error) {
	r := &Retention{}
	var slot []byte
	var end string
	// max_slot_wal_keep_size is counted in MB.
	err := conn.QueryRow(ctx, `select s.slot, pg_is_in_recovery(), l.at::text, coalesce(greatest(l.at - s.restart_lsn, 0), 0)::bigint,
			coalesce(greatest(l.at - s.confirmed_flush_lsn, 0), 0)::bigint,
			coalesce((select case when setting::bigint < 0 then -1 else setting::bigint << 20 end from pg_settings where name = 'max_slot_wal_keep_size'), -1)
		from (select case when pg_is_in_recovery() then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) else pg_current_wal_lsn() end) l(at)
		left join (select to_jsonb(s) || `+holderSQL+` as slot, restart_lsn, confirmed_flush_lsn from pg_replication_slots s where slot_name = $1) s on true`,
		slotName).Scan(&slot, &r.Standby, &end, &r.RetainedBytes, &r.LagBytes, &r.KeepBytes)
	if err == nil && slot != nil {
		err = json.Unmarshal(slot, &r.Slot)
	}
	if err == nil {
		r.End, err = pglogrepl.ParseLSN(end)
	}
	if err != nil {
		return nil, explain(fmt.Errorf("look up what slot %s holds back: %w", slotName, err))
	}
	return r, nil
}

// KeepsLess says that the server gives the slot up before a budget of so many bytes is spent; nil if it does not. A budget
// of 0 is none.
func (r *Retention) KeepsLess(budget int64) error {
	if budget == 0 || r.KeepBytes < 0 || r.KeepBytes >= budget {
		return nil
	}
	return permanent(fmt.Errorf("max_slot_wal_keep_size (%s) is less than source.wal_budget (%s), so Postgres may throw away log that the slot needs before the budget is spent",
		Bytes(r.KeepBytes), Bytes(budget)), "set source.wal_budget below it, or raise max_slot_wal_keep_size")
}
