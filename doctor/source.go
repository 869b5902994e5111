package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/wal"
)

// The checks of the source, in the order of the report.
const (
	checkSource      = "source.connection"
	checkRole        = "source.role"
	checkAdmin       = "source.admin"
	checkLevel       = "source.wal_level"
	checkReplication = "source.replication"
	checkSlots       = "source.slots"
	checkSenders     = "source.walsenders"
	checkServer      = "source.server"
	checkClock       = "source.clock"
	checkTables      = "outbox.tables"
	checkRows        = "outbox.rows"
	checkPublication = "publication"
	checkWAL         = "slot.wal"
	checkFailover    = "slot.failover"
)

//nolint:gochecknoglobals // a constant list
var sourceChecks = []string{
	checkSource, checkRole, checkAdmin, checkLevel, checkReplication, checkSlots, checkSenders, checkServer, checkClock,
	checkTables, checkRows, checkPublication, checkSlot, checkWAL, checkFailover,
}

// source is the side of Postgres. Its checks follow each other, since one connection serves them.
type source struct {
	Options
	notes

	look      *wal.Look
	facts     *wal.Facts
	retention *wal.Retention
	conn      *wal.Conn // for replication; nil if there can be none
	slot      *wal.Slot
	slotKnown bool
	history   wal.History
	print     wal.Fingerprint
	printed   bool
	sampled   bool // routes has what leads from some table
	routes    []*route
}

func (s *source) close() {
	s.look.Close()
	if s.conn != nil {
		s.conn.Close()
	}
}

// examine looks at everything that the source alone can tell.
func (s *source) examine(ctx context.Context) {
	if !s.connect(ctx) {
		return
	}
	s.why = "nothing was found out"
	s.role()
	s.admin(ctx)
	s.level()
	s.replication(ctx)
	s.room()
	s.server(ctx)
	s.clock(ctx)
	s.columns(ctx)
	s.publication(ctx)
	s.wal()
	s.failover()
}

func (s *source) connect(ctx context.Context) bool {
	began := time.Now()
	var err error
	if s.look, err = wal.OpenLook(ctx, s.Source, s.Source.DSN); err == nil {
		if s.facts, err = s.look.Facts(ctx); err == nil {
			s.retention, err = s.look.Retention(ctx)
		}
	}
	if err != nil {
		s.failed(checkSource, err)
		s.why = "because " + checkSource + " failed"
		return false
	}
	s.slot, s.slotKnown = s.retention.Slot, true
	s.ok(checkSource, "Postgres %s at %s, database %s, as role %s, in %s",
		s.facts.VersionText, s.facts.Address, s.facts.Database, s.facts.Role, time.Since(began).Round(time.Millisecond))
	return true
}

// role holds what the role may do against what it needs: to replicate, and to read the tables. Whether it may replicate is
// seen when it does, see replication: on managed servers the attribute does not tell.
func (s *source) role() {
	f := s.facts
	var missing []string
	for _, t := range f.Tables {
		if t.Kind != "" && (!t.Usage || !t.Select) {
			missing = append(missing, t.Name)
		}
	}
	all := append([]string{wal.GrantReplicationSQL(f.Role)}, wal.GrantReadSQL(f.Role, s.Source.Tables...)...)
	if len(missing) > 0 {
		s.fail(checkRole, fmt.Sprintf("role %s may not read %s", f.Role, strings.Join(missing, ", ")), "let it read them", wal.GrantReadSQL(f.Role, missing...)...)
		return
	}
	for _, t := range f.Tables {
		if t.RowSecurity {
			s.warn(checkRole, fmt.Sprintf("row level security hides rows of %s from role %s: existing rows, verify and repair do not see them", t.Name, f.Role),
				"give the role a policy that shows all rows, or bypassrls", "alter role "+quote(f.Role)+" bypassrls")
		}
	}
	if f.Superuser {
		s.warn(checkRole, fmt.Sprintf("role %s is a superuser, which is more than reading takes", f.Role),
			"use a role of its own in source.dsn: tidemark init --role tidemark_reader makes it, or this (replace name and password); init, checkpoint.store: postgres and parked events write through source.admin_dsn",
			append([]string{"create role tidemark_reader login replication password 'PASSWORD'"}, wal.GrantReadSQL("tidemark_reader", s.Source.Tables...)...)...)
		return
	}
	if more, less := s.beyond(); len(more) > 0 {
		s.warn(checkRole, fmt.Sprintf("role %s %s, which is more than reading takes", f.Role, strings.Join(more, ", ")),
			"take that from it, unless something else needs it; init, checkpoint.store: postgres, parked events and prune write through source.admin_dsn, which may be another role",
			less...)
		return
	}
	s.ok(checkRole, "role %s has what it needs and no more: %s", f.Role, strings.Join(all, "; "))
}

// beyond says what the role may do, or is, that reading does not take, and what would take that from it. What it takes to make
// the publication, and to prune, is no more than is needed where nobody else is configured for that.
func (s *source) beyond() (more, less []string) {
	f := s.facts
	alter := func(is bool, claim, attribute string) {
		if is {
			more, less = append(more, claim), append(less, "alter role "+quote(f.Role)+" "+attribute)
		}
	}
	alter(f.CreateRole, "may create roles", "nocreaterole")
	alter(f.CreateDB, "may create databases", "nocreatedb")
	alter(f.BypassRLS && !slices.ContainsFunc(f.Tables, func(t wal.TableFacts) bool { return t.Guarded }),
		"passes row level security by, which no outbox table has", "nobypassrls")
	alone := s.Source.AdminDSN == "" || s.Source.AdminDSN == s.Source.DSN // it is for what is written, too
	for _, t := range f.Tables {
		switch {
		case t.Owner && alone && !f.HasPublication: // which its owner alone can publish
		case t.Owner && t.OwnedBy == f.Role:
			more, less = append(more, "owns "+t.Name), append(less, "alter table "+t.Name+" owner to OWNER")
			less = append(less, wal.GrantReadSQL(f.Role, t.Name)...) // which its owner had by itself
		case t.Owner:
			more, less = append(more, fmt.Sprintf("is in role %s, which owns %s", t.OwnedBy, t.Name)), append(less, "revoke "+quote(t.OwnedBy)+" from "+quote(f.Role))
		default:
			writes := slices.DeleteFunc(slices.Clone(t.Writes), func(w string) bool { return w == "delete" && alone && s.Prunes })
			if len(writes) == 0 {
				continue
			}
			more = append(more, "may "+strings.Join(writes, ", ")+" in "+t.Name)
			for _, grantee := range t.GrantedTo {
				less = append(less, "revoke "+strings.Join(writes, ", ")+" on "+t.Name+" from "+grantee)
			}
		}
	}
	return more, less
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// admin looks where SQL that writes goes, if that is elsewhere.
func (s *source) admin(ctx context.Context) {
	facts := s.facts
	if s.Source.AdminDSN != "" && s.Source.AdminDSN != s.Source.DSN {
		look, err := wal.OpenLook(ctx, s.Source, s.Source.AdminDSN)
		if err != nil {
			finding, fix := parts(err)
			s.fail(checkAdmin, finding, strings.ReplaceAll(fix, "source.dsn", "source.admin_dsn"))
			return
		}
		defer look.Close()
		if facts, err = look.Facts(ctx); err != nil {
			s.failed(checkAdmin, err)
			return
		}
		if facts.Standby {
			s.fail(checkAdmin, "source.admin_dsn leads to a standby, which takes no writes", "set it to the primary (with several hosts: target_session_attrs=read-write)")
			return
		}
	}
	if facts.HasPublication {
		s.ok(checkAdmin, "nothing has to be created through role %s", facts.Role)
		return
	}
	i := slices.IndexFunc(facts.Tables, func(t wal.TableFacts) bool { return t.Kind != "" && !t.Owner })
	switch {
	case facts.Standby:
		s.fail(checkAdmin, fmt.Sprintf("publication %s has to be created, and source.dsn leads to a standby, which takes no writes", s.Source.Publication),
			"set source.admin_dsn to the primary, or run the statement there", wal.CreatePublicationSQL(s.Source))
	case !s.Create: // the publication's own check says what is missing
		s.ok(checkAdmin, "source.create is false, so nothing is created")
	case !facts.CreateInDB || i >= 0:
		s.fail(checkAdmin, fmt.Sprintf("publication %s has to be created, and role %s may not: that takes the ownership of its tables, and CREATE on the database", s.Source.Publication, facts.Role),
			"let the owner of the tables create it, or set source.admin_dsn to a role that may", wal.CreatePublicationSQL(s.Source))
	default:
		s.ok(checkAdmin, "role %s may create publication %s", facts.Role, s.Source.Publication)
	}
}

func (s *source) level() {
	if s.facts.WALLevel == "logical" {
		s.ok(checkLevel, "logical")
		return
	}
	s.fail(checkLevel, "wal_level is "+s.facts.WALLevel+", and the outbox can only be read from the log at logical",
		"run the statement, then restart Postgres; on managed servers it is a parameter of the instance (rds.logical_replication, cloudsql.logical_decoding)", "alter system set wal_level = 'logical'")
}

// replication opens a replication connection, and learns what only that shows.
func (s *source) replication(ctx context.Context) {
	if s.facts.WALLevel != "logical" {
		s.skip(checkReplication, "because "+checkLevel+" failed")
		return
	}
	conn, err := wal.Connect(ctx, s.Source)
	if err != nil {
		finding, fix := parts(err)
		var sql []string
		if grant := wal.GrantReplicationSQL(s.facts.Role); strings.Contains(fix, grant) {
			sql = []string{grant}
		}
		s.fail(checkReplication, finding, fix, sql...)
		return
	}
	s.conn = conn
	if s.history, err = conn.History(ctx); err != nil {
		s.failed(checkReplication, err)
		return
	}
	s.ok(checkReplication, "a replication connection is accepted; system %s, timeline %d", conn.System.ID, conn.System.Timeline)
}

// room looks for a free slot and a free walsender, where they are still needed.
func (s *source) room() {
	f := s.facts
	if free := f.MaxSlots - f.Slots; free <= 0 && s.slot == nil {
		s.fail(checkSlots, fmt.Sprintf("all %d replication slots are taken, and slot %s has to be created", f.MaxSlots, s.Source.Slot),
			"drop one that nobody needs (select slot_name, active from pg_replication_slots), or run the statement and restart Postgres",
			fmt.Sprintf("alter system set max_replication_slots = %d", f.MaxSlots+5))
	} else {
		s.ok(checkSlots, "%d of %d replication slots are taken", f.Slots, f.MaxSlots)
	}
	active := s.slot != nil && s.slot.Active
	switch free := f.MaxSenders - f.Senders; {
	case free <= 0 && !active && s.conn == nil: // our own connection has got one
		s.fail(checkSenders, fmt.Sprintf("all %d walsenders are taken", f.MaxSenders), "run the statement and restart Postgres",
			fmt.Sprintf("alter system set max_wal_senders = %d", f.MaxSenders+5))
	case free <= 1:
		s.warn(checkSenders, fmt.Sprintf("%d of %d walsenders are taken: a hot standby of tidemark, or a backup, finds none", f.Senders, f.MaxSenders),
			"run the statement and restart Postgres when it suits", fmt.Sprintf("alter system set max_wal_senders = %d", f.MaxSenders+5))
	default:
		s.ok(checkSenders, "%d of %d walsenders are taken", f.Senders, f.MaxSenders)
	}
}

// server says what kind of server it is.
func (s *source) server(ctx context.Context) {
	if !s.facts.Standby {
		s.ok(checkServer, "a primary")
		return
	}
	if s.conn == nil {
		s.ok(checkServer, "a standby")
		return
	}
	why, err := s.conn.Endangered(ctx)
	switch {
	case err != nil:
		s.failed(checkServer, err)
	case why != "":
		s.warn(checkServer, "a standby, whose slot may be lost: "+why,
			"on the standby set hot_standby_feedback = on, and primary_slot_name to a slot of its own on the primary", "alter system set hot_standby_feedback = on", "select pg_reload_conf()")
	case s.facts.Version < 160000:
		s.fail(checkServer, "a standby of Postgres "+s.facts.VersionText+", and logical decoding on a standby came with 16", "point source.dsn at the primary")
	default:
		s.ok(checkServer, "a standby, which tells its primary what it still needs")
	}
}

// clockTolerance is how far apart clocks may be without a word: what is computed from them is for people.
const clockTolerance = time.Second

func (s *source) clock(ctx context.Context) {
	ahead, uncertain, err := s.look.ClockAhead(ctx)
	if err != nil {
		s.failed(checkClock, err)
		return
	}
	text := fmt.Sprintf("Postgres is %s ahead of this host (± %s)", ahead.Round(time.Microsecond), uncertain.Round(time.Microsecond))
	if ahead.Abs() > clockTolerance+uncertain {
		s.warn(checkClock, text+": the times of records and the latency that is measured are off by that much", "synchronise the clocks (NTP) on both hosts")
		return
	}
	s.ok(checkClock, "%s", text)
}

// wal holds what the slot keeps against what it may.
func (s *source) wal() {
	r := s.retention
	if r.Slot == nil {
		s.ok(checkWAL, "there is no slot, so no log is held back; max_slot_wal_keep_size is %s", keepText(r.KeepBytes))
		return
	}
	text := fmt.Sprintf("the slot holds back %s, and is %s behind the end of the log; max_slot_wal_keep_size is %s",
		wal.Bytes(r.RetainedBytes), wal.Bytes(r.LagBytes), keepText(r.KeepBytes))
	if s.WALBudget > 0 {
		text += fmt.Sprintf(", source.wal_budget %s", wal.Bytes(s.WALBudget))
	}
	const wayOut = "see what holds it (tidemark status; select pid, xact_start from pg_stat_activity order by xact_start), or raise the limit"
	switch {
	case r.Slot.WALStatus == "unreserved":
		s.fail(checkWAL, text+": Postgres may remove log that the slot needs at its next checkpoint", "start the relay at once, and raise max_slot_wal_keep_size",
			fmt.Sprintf("alter system set max_slot_wal_keep_size = '%dMB'", max(2*r.RetainedBytes, 1<<30)>>20), "select pg_reload_conf()")
	case s.WALBudget > 0 && r.RetainedBytes >= s.WALBudget:
		s.fail(checkWAL, text+": the budget is spent", wayOut)
	case r.KeepBytes >= 0 && r.RetainedBytes*2 >= r.KeepBytes:
		s.warn(checkWAL, text+": more than half of what Postgres keeps before it gives the slot up", wayOut)
	case s.WALBudget > 0 && r.RetainedBytes*2 >= s.WALBudget:
		s.warn(checkWAL, text, wayOut)
	default:
		if err := r.KeepsLess(s.WALBudget); err != nil {
			finding, fix := parts(err)
			s.warn(checkWAL, text+": "+finding, fix)
			return
		}
		s.ok(checkWAL, "%s", text)
	}
}

func keepText(n int64) string {
	if n < 0 {
		return "unlimited"
	}
	return wal.Bytes(n).String()
}

// failover says whether the slot would survive one.
func (s *source) failover() {
	if s.conn == nil {
		s.skip(checkFailover, "because "+checkReplication+" did not succeed")
		return
	}
	want, err := s.conn.System.Failover(s.Failover)
	switch f := s.facts; {
	case err != nil:
		s.failed(checkFailover, err)
	case s.facts.Standby:
		s.ok(checkFailover, "the slot is the standby's own: it is not synced anywhere")
	case !want:
		s.ok(checkFailover, "no failover slot (source.failover: %s): after a failover of Postgres it is missing, and tidemark init --recreate-slot makes it anew", s.Failover)
	case s.slot == nil:
		s.ok(checkFailover, "the slot will be a failover slot")
	case !s.slot.Failover:
		s.warn(checkFailover, "the slot is no failover slot, as source.failover wants it", "restart tidemark run, which makes it one")
	case len(f.StandbyWith) == 0:
		s.ok(checkFailover, "a failover slot; no standby streams from this server")
	case f.SynchronizedSlots == "":
		s.warn(checkFailover, fmt.Sprintf("a failover slot, and standbys stream from here (slots %s) that synchronized_standby_slots does not name: events can be in Kafka that a promoted standby lacks", strings.Join(f.StandbyWith, ", ")),
			"name the slot of the standby that would be promoted; whether it has the slot shows there: select slot_name, synced and not temporary as ready from pg_replication_slots",
			"alter system set synchronized_standby_slots = '"+strings.Join(f.StandbyWith, ",")+"'", "select pg_reload_conf()")
	default:
		s.ok(checkFailover, "a failover slot, behind synchronized_standby_slots = %s; whether the standby has it shows there: select slot_name, synced and not temporary as ready from pg_replication_slots", f.SynchronizedSlots)
	}
}

// publication looks at what is published, and whether it is the one that was stored, see examineStores.
func (s *source) publication(ctx context.Context) {
	if s.conn == nil {
		s.skip(checkPublication, "because "+checkReplication+" did not succeed")
		return
	}
	var err error
	if s.print, err = s.conn.Fingerprint(ctx); err != nil {
		s.failed(checkPublication, err)
		return
	}
	s.printed = true
	missing, problems, err := s.conn.PublicationProblems(ctx)
	switch {
	case err != nil:
		s.failed(checkPublication, err)
	case missing && s.Create && s.slot == nil:
		s.ok(checkPublication, "publication %s does not exist: the first start creates it", s.Source.Publication)
	case missing:
		s.fail(checkPublication, fmt.Sprintf("publication %s does not exist", s.Source.Publication),
			"create it (tidemark init does); rows written while it was missing may be missing in Kafka: tidemark verify --repair publishes them", wal.CreatePublicationSQL(s.Source))
	case len(problems) == 0:
		s.ok(checkPublication, "%s publishes the inserts of %s and nothing else", s.Source.Publication, cmp.Or(strings.Join(s.Source.Tables, ", "), "no table"))
	}
	for _, p := range problems {
		fix := "run the statements"
		if p.Remark != "" {
			fix = p.Remark + ": run the statements"
		}
		s.fail(checkPublication, p.What, fix, p.SQL...)
	}
}

// storedPublication is what the checkpoint knows of the publication, if anything.
func storedPublication(c *checkpoint.Checkpoint) *checkpoint.Publication {
	if c == nil || c.State != checkpoint.Streaming {
		return nil
	}
	return c.Publication
}
