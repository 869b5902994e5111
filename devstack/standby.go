package devstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// StandbyOptions are what Postgres.Standby can be told.
type StandbyOptions struct {
	// Slot is the physical slot on the primary that the standby streams from; "" is standby. It is also the standby's
	// application_name, as synchronous_standby_names wants it.
	Slot string
	// Settings are added to, and override, those of the primary.
	Settings map[string]string
	// Log gets the server's output instead of the file postgres.log.
	Log io.Writer
}

// Standby makes a hot standby of the running server p, which goes on meanwhile, and returns when it streams. It has a data
// directory, a port and a socket of its own, and lives until its own Close; it may be the primary of others. Its hot
// standby feedback is on, as whoever decodes on it needs.
func (p *Postgres) Standby(ctx context.Context, opts StandbyOptions) (*Postgres, error) {
	if opts.Slot == "" {
		opts.Slot = "standby"
	}
	scratch, err := newScratch("pg")
	if err != nil {
		return nil, err
	}
	s := &Postgres{
		settings: maps.Clone(p.settings), bin: p.bin, dir: scratch.dir, data: filepath.Join(scratch.dir, "data"),
		scratch: scratch, account: p.account,
	}
	if s.settings == nil {
		s.settings = map[string]string{}
	}
	s.settings["hot_standby_feedback"] = "on"
	s.settings["primary_slot_name"] = opts.Slot
	// With a database, so that the worker that syncs slots can ask.
	s.settings["primary_conninfo"] = fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres application_name=%s sslmode=disable", p.port, opts.Slot)
	maps.Copy(s.settings, opts.Settings)
	s.log = &serverLog{path: filepath.Join(s.dir, "postgres.log"), to: opts.Log}

	err = p.withConn(ctx, func(conn *pgx.Conn) error {
		// It keeps the log from here on: nothing of pg_wal has to be copied.
		_, err := conn.Exec(ctx, "select pg_create_physical_replication_slot($1, true)", opts.Slot)
		if err != nil {
			return fmt.Errorf("create slot %s: %w", opts.Slot, err)
		}
		return s.prepare(func() error { return p.backup(ctx, conn, s.data) })
	})
	if err == nil {
		err = s.startOnFreePort(ctx)
	}
	if err == nil {
		err = p.awaitStandby(ctx, opts.Slot)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a standby: %w", err), s.Close())
	}
	return s, nil
}

// backup copies the data directory of the running server to data, which becomes that of a standby.
func (p *Postgres) backup(ctx context.Context, conn *pgx.Conn, data string) error {
	if _, err := conn.Exec(ctx, "select pg_backup_start('standby', fast => true)"); err != nil {
		return fmt.Errorf("begin the backup: %w", err)
	}
	if err := copyCluster(p.data, data); err != nil {
		return err
	}
	var label string
	if err := conn.QueryRow(ctx, "select labelfile from pg_backup_stop(wait_for_archive => false)").Scan(&label); err != nil {
		return fmt.Errorf("end the backup: %w", err)
	}
	return errors.Join(
		os.WriteFile(filepath.Join(data, "backup_label"), []byte(label), 0o600),
		os.WriteFile(filepath.Join(data, "standby.signal"), nil, 0o600),
	)
}

// copyCluster copies the files of a running cluster, whose files come and go. What changes meanwhile is in the log.
// (https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-LOWLEVEL-BASE-BACKUP-DATA says what to leave out)
func copyCluster(from, to string) error {
	empty := []string{"pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"}
	leave := []string{"postmaster.pid", "postmaster.opts"}
	control := filepath.Join("global", "pg_control")
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir() && slices.Contains(empty, name):
			if err := os.MkdirAll(filepath.Join(to, name), 0o700); err != nil {
				return err
			}
			return fs.SkipDir
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		case slices.Contains(leave, name), strings.HasPrefix(entry.Name(), "pgsql_tmp"), name == control:
			return nil
		default:
			return copyFile(path, filepath.Join(to, name))
		}
	})
	if err == nil {
		err = copyFile(filepath.Join(from, control), filepath.Join(to, control)) // last, as it has to be
	}
	if err != nil {
		return fmt.Errorf("copy the data directory: %w", err)
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it went away meanwhile
	}
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // read only
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// awaitStandby returns when somebody streams from the physical slot.
func (p *Postgres) awaitStandby(ctx context.Context, slot string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("the standby does not stream after %v", readyLimit))
	defer cancel()
	return p.withConn(ctx, func(conn *pgx.Conn) error {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			var streams bool
			err := conn.QueryRow(ctx, "select active from pg_replication_slots where slot_name = $1", slot).Scan(&streams)
			if err != nil || streams {
				return err
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-tick.C:
			}
		}
	})
}

// Promote makes a primary of a standby and returns when it accepts writes.
func (p *Postgres) Promote(ctx context.Context) error {
	err := p.withConn(ctx, func(conn *pgx.Conn) error {
		var promoted bool
		err := conn.QueryRow(ctx, "select pg_promote(true, $1)", int(readyLimit.Seconds())).Scan(&promoted)
		if err == nil && !promoted {
			err = fmt.Errorf("no end after %v", readyLimit)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	return nil
}

func (p *Postgres) withConn(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, p.SocketDSN("postgres"))
	if err != nil {
		return err
	}
	return errors.Join(do(conn), conn.Close(context.WithoutCancel(ctx)))
}
