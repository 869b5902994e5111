package trial

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/devstack"
)

// Pair is a primary and its standby, each behind an address of its own that stays the same. A commit waits for the standby, so
// what a writer was told is committed outlives the primary; and where Postgres can (17 and later), slots are synced and
// nothing of a failover slot is sent that the standby lacks.
type Pair struct {
	Primary, Standby *devstack.Postgres // Standby is nil between Failover and Rebuild

	version int
	proxies map[*devstack.Postgres]*devstack.Proxy
	hosts   []*devstack.Proxy // in the order of the DSN
}

// pairSlot is the physical slot of the standby, and its name.
const pairSlot = "standby"

// StartPair starts both.
func StartPair(ctx context.Context, o devstack.PostgresOptions) (_ *Pair, err error) {
	p := &Pair{proxies: map[*devstack.Postgres]*devstack.Proxy{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	for range 2 {
		proxy, err := devstack.StartProxy(ctx, "")
		if err != nil {
			return nil, err
		}
		p.hosts = append(p.hosts, proxy)
	}
	if p.Primary, err = devstack.StartPostgres(ctx, o); err != nil {
		return nil, err
	}
	p.lead(p.Primary, p.hosts[0])
	err = with(ctx, p.Primary.DSN("postgres"), func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "select current_setting('server_version_num')::int").Scan(&p.version)
	})
	if err != nil {
		return nil, err
	}
	return p, p.Rebuild(ctx)
}

// lead has a host of the DSN lead to a server.
func (p *Pair) lead(pg *devstack.Postgres, host *devstack.Proxy) {
	p.proxies[pg] = host
	host.Redirect(address(pg))
}

func address(pg *devstack.Postgres) string { return fmt.Sprintf("127.0.0.1:%d", pg.Port()) }

// SyncsSlots reports whether failover slots are there.
func (p *Pair) SyncsSlots() bool { return p.version >= 170000 }

// DSN is that of a database on whichever is the primary.
func (p *Pair) DSN(database string) string {
	var hosts []string
	for _, host := range p.hosts {
		hosts = append(hosts, host.Addr())
	}
	return fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable&connect_timeout=3&target_session_attrs=read-write", strings.Join(hosts, ","), database)
}

// StandbyDSN is that of a database on the standby, and on the same server when it has been promoted.
func (p *Pair) StandbyDSN(database string) string {
	return strings.Replace(p.Standby.DSN(database), address(p.Standby), p.proxies[p.Standby].Addr(), 1)
}

// Rebuild makes a standby for the primary that has none.
func (p *Pair) Rebuild(ctx context.Context) error {
	settings := map[string]string{}
	if p.SyncsSlots() {
		settings["sync_replication_slots"] = "on"
	}
	var err error
	if p.Standby, err = p.Primary.Standby(ctx, devstack.StandbyOptions{Slot: pairSlot, Settings: settings}); err != nil {
		return err
	}
	host := p.hosts[0]
	if p.proxies[p.Primary] == host {
		host = p.hosts[1]
	}
	p.lead(p.Standby, host)
	sqls := []string{"alter system set synchronous_standby_names = '" + pairSlot + "'"}
	if p.SyncsSlots() {
		sqls = append(sqls, "alter system set synchronized_standby_slots = '"+pairSlot+"'")
	}
	return execAll(ctx, p.Primary, append(sqls, "select pg_reload_conf()"))
}

// AwaitSynced returns when the failover slot would live through a failover.
func (p *Pair) AwaitSynced(ctx context.Context, slot string) error {
	return with(ctx, p.Standby.DSN("postgres"), func(conn *pgx.Conn) error {
		return Await(ctx, "the slot is synced", 2*time.Minute, func() (synced bool, err error) {
			// The slot's restart_lsn moves on only where the log says which transactions run, and the standby's copy of it
			// becomes a lasting one only when it has.
			if err := execAll(ctx, p.Primary, []string{"select pg_log_standby_snapshot()"}); err != nil {
				return false, err
			}
			err = conn.QueryRow(ctx, "select exists (select from pg_replication_slots where slot_name = $1 and synced and not temporary)", slot).Scan(&synced)
			return synced, err
		})
	})
}

// Failover kills the primary and promotes the standby. The dead one's address refuses connections, until Rebuild.
func (p *Pair) Failover(ctx context.Context) error {
	if err := p.Primary.Kill(); err != nil {
		return err
	}
	return p.promote(ctx)
}

// FailoverLosing is Failover to a standby that lacks what was committed during work: the end of the log is lost.
func (p *Pair) FailoverLosing(ctx context.Context, work func() error) error {
	// Nothing waits for the standby any more, neither a commit nor what is sent of a failover slot.
	err := execAll(ctx, p.Primary, []string{
		"alter system reset synchronous_standby_names", "alter system reset synchronized_standby_slots", "select pg_reload_conf()",
	})
	if err != nil {
		return err
	}
	if err := p.Standby.Stop(devstack.StopFast); err != nil {
		return err
	}
	if err := work(); err != nil {
		return err
	}
	if err := p.Primary.Kill(); err != nil { // before the standby could fetch what it lacks
		return err
	}
	if err := p.Standby.Restart(ctx, devstack.StopFast); err != nil {
		return err
	}
	return p.promote(ctx)
}

func (p *Pair) promote(ctx context.Context) error {
	old, pg := p.Primary, p.Standby
	sqls := []string{"alter system reset synchronous_standby_names"} // it has none of its own yet
	if p.SyncsSlots() {
		sqls = append(sqls, "alter system reset synchronized_standby_slots")
	}
	if err := execAll(ctx, pg, append(sqls, "select pg_reload_conf()")); err != nil {
		return err
	}
	if err := pg.Promote(ctx); err != nil {
		return err
	}
	p.Primary, p.Standby = pg, nil
	p.proxies[old].Redirect("")
	delete(p.proxies, old)
	return old.Close()
}

// CreateDatabase makes an empty database, which the standby has, too, when it returns.
func (p *Pair) CreateDatabase(ctx context.Context, name string) error {
	if err := p.Primary.CreateDatabase(ctx, name); err != nil {
		return err
	}
	return p.CatchUp(ctx) // a commit waits until the standby has it, and not until it shows it
}

// CatchUp returns when the standby shows what is committed by now.
func (p *Pair) CatchUp(ctx context.Context) error {
	var end string
	err := with(ctx, p.Primary.DSN("postgres"), func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "select pg_current_wal_insert_lsn()::text").Scan(&end)
	})
	if err != nil {
		return err
	}
	return with(ctx, p.Standby.DSN("postgres"), func(conn *pgx.Conn) error {
		return Await(ctx, "the standby has caught up", time.Minute, func() (there bool, err error) {
			err = conn.QueryRow(ctx, "select pg_last_wal_replay_lsn() >= $1::pg_lsn", end).Scan(&there)
			return there, err
		})
	})
}

// Close ends both.
func (p *Pair) Close() error {
	var errs []error
	for _, pg := range []*devstack.Postgres{p.Primary, p.Standby} {
		if pg != nil {
			errs = append(errs, pg.Close())
		}
	}
	for _, host := range p.hosts {
		errs = append(errs, host.Close())
	}
	return errors.Join(errs...)
}

func execAll(ctx context.Context, pg *devstack.Postgres, sqls []string) error {
	return with(ctx, pg.DSN("postgres"), func(conn *pgx.Conn) error {
		for _, sql := range sqls {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	})
}

func with(ctx context.Context, dsn string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	return errors.Join(do(conn), conn.Close(context.WithoutCancel(ctx)))
}
