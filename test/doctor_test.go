package test_test

import (
	"encoding/json"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/test/ledger"
	"github.com/tidemark/tidemark/test/trial"
)

// finding is a line of `tidemark doctor --json`.
type finding struct {
	Check, State, Finding, Fix string
	SQL                        []string
	Config                     map[string]string
}

// setup is one that was broken on purpose.
type setup struct {
	name  string
	begin func(t *testing.T) *arena // default: on the shared servers
	spoil func(t *testing.T, a *arena)
	check string   // the one that fails
	says  []string // in its finding and fix
	// run is what `tidemark run` says, in one line, and with what exit status; 0: it waits, and the line is in its log.
	status int
	run    []string
	// mend does what the findings say; default: their statements are run, by a superuser, as they are.
	mend func(t *testing.T, a *arena, found []finding)
	// tolerated is what the way out brings with it.
	tolerated []ledger.Finding
}

// TestBrokenSetups makes one thing wrong at a time. `doctor` has to name it, with a fix; `run` has to say the same in one
// line; and when the fix has been carried out as it was printed, `doctor` passes and `run` publishes.
func TestBrokenSetups(t *testing.T) {
	t.Parallel()
	const failed, refused = 1, 3
	setups := []setup{
		{
			name: "wrong wal_level",
			begin: func(t *testing.T) *arena {
				t.Helper()
				return newRestartable(t, map[string]string{"wal_level": "replica"})
			},
			spoil: func(*testing.T, *arena) {},
			check: "source.wal_level", says: []string{"wal_level is replica", "restart Postgres"},
			status: failed, run: []string{"wal_level", "replica", "alter system set wal_level = 'logical'", "restart"},
			mend: func(t *testing.T, a *arena, found []finding) {
				t.Helper()
				a.runSQL(found)
				a.restart()
			},
		},
		{
			name: "a role that may not replicate",
			spoil: func(_ *testing.T, a *arena) {
				role := a.as("login")
				a.exec("grant select on outbox to " + role)
				a.exec("create publication tidemark for table outbox with (publish = 'insert')")
			},
			check: "source.replication", says: []string{"permission denied", "alter role"},
			status: failed, run: []string{"permission denied", "alter role", "replication"},
		},
		{
			name: "a role that may not read the table",
			spoil: func(_ *testing.T, a *arena) {
				a.as("login replication")
				a.exec("create publication tidemark for table outbox with (publish = 'insert')")
			},
			check: "source.role", says: []string{"may not read public.outbox"},
			status: failed, run: []string{"permission denied", "grant select on \"public\".\"outbox\""},
		},
		{
			name: "a topic that is missing",
			spoil: func(_ *testing.T, a *arena) {
				a.Config = a.Config.With("TIDEMARK_KAFKA_CREATE_TOPICS_ENABLED", "false")
			},
			check: "kafka.topics", says: []string{"topics do not exist", "kafka.create_topics.enabled is false", "kafka-topics --create"},
			run: []string{"does not exist", "create it, or set kafka.create_topics.enabled: true"},
			mend: func(_ *testing.T, a *arena, found []finding) {
				for key, value := range found[0].Config {
					a.Config = a.Config.With("TIDEMARK_"+strings.ToUpper(strings.ReplaceAll(key, ".", "_")), value)
				}
			},
		},
		{
			name: "a topic that takes small records only",
			spoil: func(t *testing.T, a *arena) {
				t.Helper()
				small := "2000"
				created, err := a.admin().CreateTopics(t.Context(), 1, 1, map[string]*string{"max.message.bytes": &small}, a.Topics()...)
				if err == nil {
					err = created.Error()
				}
				if err != nil {
					t.Fatal(err)
				}
			},
			check: "kafka.max_message_bytes", says: []string{"max.message.bytes of topic", "is 2000", "kafka-configs --alter"},
			status: failed, run: []string{"cannot be published", "max.message.bytes of topic", "is 2000: raise it there"},
			mend: func(t *testing.T, a *arena, found []finding) {
				t.Helper()
				command := regexp.MustCompile(`kafka-configs --alter --topic (\S+) --add-config (\S+)=(\d+)`)
				for _, f := range found {
					m := command.FindStringSubmatch(f.Fix)
					if m == nil {
						t.Fatalf("no command in %q", f.Fix)
					}
					_, err := a.admin().AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: m[2], Value: &m[3]}}, m[1])
					if err != nil {
						t.Fatal(err)
					}
				}
			},
		},
		{
			name: "a slot that was dropped",
			spoil: func(t *testing.T, a *arena) {
				t.Helper()
				a.runBefore(t)
				a.exec("select pg_drop_replication_slot($1)", a.Config.Slot)
			},
			check: "slot.state", says: []string{"does not exist, but a checkpoint at", "tidemark init --recreate-slot"},
			status: refused, run: []string{"refused", "does not exist", "tidemark init --recreate-slot"},
			mend: runCommand, tolerated: []ledger.Finding{ledger.Doubled, ledger.Unstable, ledger.Backward},
		},
		{
			name: "a slot that is lost",
			begin: func(t *testing.T) *arena {
				t.Helper()
				return newRestartable(t, map[string]string{"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"})
			},
			spoil: func(t *testing.T, a *arena) {
				t.Helper()
				a.runBefore(t)
				a.await("the slot is lost", time.Minute, func() bool {
					a.exec("select pg_logical_emit_message(false, 'filler', repeat('x', 1 << 20))")
					a.exec("select pg_switch_wal()")
					a.exec("checkpoint")
					var lost bool
					if err := a.Query(t.Context(), []any{&lost}, "select wal_status = 'lost' from pg_replication_slots"); err != nil {
						t.Fatal(err)
					}
					return lost
				})
			},
			check: "slot.state", says: []string{"is lost (wal_removed)", "tidemark init --recreate-slot", "raise max_slot_wal_keep_size"},
			status: refused, run: []string{"refused", "is lost (wal_removed)", "tidemark init --recreate-slot", "raise max_slot_wal_keep_size"},
			mend: runCommand, tolerated: []ledger.Finding{ledger.Doubled, ledger.Unstable, ledger.Backward},
		},
		{
			name:  "a column that is mapped and missing",
			spoil: func(_ *testing.T, a *arena) { a.exec("alter table outbox drop column type") },
			check: "outbox.tables", says: []string{`column "type"`, "public.outbox", "add the column"},
			status: failed, run: []string{`column "type"`, "public.outbox", "add the column"},
		},
		{
			name:  "a publication with updates",
			spoil: func(_ *testing.T, a *arena) { a.exec("create publication tidemark for table outbox") },
			check: "publication", says: []string{"must publish inserts and nothing else"},
			status: failed, run: []string{"publication tidemark", "set (publish = 'insert')"},
		},
		{
			name: "a table outside the publication",
			spoil: func(_ *testing.T, a *arena) {
				a.exec("create table other (i int)")
				a.exec("create publication tidemark for table other with (publish = 'insert')")
			},
			check: "publication", says: []string{"table public.outbox is not in publication"},
			status: failed, run: []string{"public.outbox", "alter publication", "add table"},
			mend: func(_ *testing.T, a *arena, found []finding) {
				if len(found) != 2 || !strings.Contains(found[1].Finding, "public.other, which is not under outbox") {
					a.t.Errorf("the other table is not named: %+v", found)
				}
				a.runSQL(found)
			},
		},
		{
			name:  "a port of Postgres where nobody listens",
			spoil: func(t *testing.T, a *arena) { t.Helper(); a.cutOff(t, "source") },
			check: "source.connection", says: []string{"connect", "check host and port in source.dsn"},
			run:  []string{"connect to the source", "check host and port in source.dsn"},
			mend: restoreWay,
		},
		{
			name:  "a port of Kafka where nobody listens",
			spoil: func(t *testing.T, a *arena) { t.Helper(); a.cutOff(t, "kafka") },
			check: "kafka.connection", says: []string{"no broker of 127.0.0.1", "check kafka.brokers"},
			run:  []string{"no Kafka broker answers", "check kafka.brokers"},
			mend: restoreWay,
		},
		{
			name:  "a wrong password",
			begin: func(t *testing.T) *arena { t.Helper(); return newRestartable(t, nil) },
			spoil: func(t *testing.T, a *arena) {
				t.Helper()
				a.askForPassword(t)
				a.Config.DSN = withPassword(t, a.DSN, "relay")
			},
			check: "source.connection", says: []string{"password authentication failed", "check user and password in source.dsn"},
			status: failed, run: []string{"password authentication failed", "check user and password in source.dsn"},
			mend: func(t *testing.T, a *arena, _ []finding) {
				t.Helper()
				u, err := url.Parse(a.DSN)
				if err != nil {
					t.Fatal(err)
				}
				u.User = url.UserPassword("relay", "swordfish")
				a.Config.DSN = u.String()
			},
		},
	}
	for _, s := range setups {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			a := s.arena(t)
			a.Config.Dir = t.TempDir()
			payload := func(rng *rand.Rand) int { return 3000 + rng.IntN(100) }
			if s.name != "a column that is mapped and missing" {
				if err := a.write(trial.Load{Writers: 1, Rows: 10, Kinds: existing(), Size: payload}).Wait(); err != nil {
					t.Fatal(err)
				}
			}
			s.spoil(t, a)
			found := a.mustDiagnose(s.check, s.says)
			a.mustSay(&s)
			if s.mend == nil {
				a.runSQL(found)
			} else {
				s.mend(t, a, found)
			}
			a.mustPass()
			r := a.startReady()
			if err := a.write(trial.Load{Writers: 1, Rows: 5, Kinds: existing(), Size: payload}).Wait(); err != nil {
				t.Fatal(err)
			}
			a.judgeBut(s.tolerated...)
			a.mustPass() // beside the relay
			if status, body, err := r.Get(t.Context(), "/api/doctor"); err != nil || status != 200 || !strings.Contains(body, `"check":"slot.state","state":"ok"`) {
				t.Errorf("/api/doctor: %d, %v: %.300s", status, err, body)
			}
			a.stop(r)
		})
	}
}

func (s *setup) arena(t *testing.T) *arena {
	t.Helper()
	if s.begin != nil {
		return s.begin(t)
	}
	return newArena(t)
}

// doctor runs `tidemark doctor --json` and returns its lines and exit status.
func (a *arena) doctor() (lines []finding, status int) {
	a.t.Helper()
	c := a.Config
	c.Args = []string{"doctor", "--json"}
	r, err := trial.Run(a.t.Context(), c, "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	if status, err = r.Wait(2 * time.Minute); err != nil {
		a.t.Fatal(err)
	}
	a.silent(r)
	var report struct{ Checks []finding }
	if err := json.Unmarshal([]byte(r.Stdout()), &report); err != nil {
		a.t.Fatalf("%v:\n%s\n%s", err, r.Stdout(), r.Log())
	}
	return report.Checks, status
}

// mustDiagnose has exactly that check fail, and returns what it found.
func (a *arena) mustDiagnose(check string, says []string) []finding {
	a.t.Helper()
	lines, status := a.doctor()
	if status != 1 {
		a.t.Errorf("doctor: exit status %d, want 1", status)
	}
	var found []finding
	for _, f := range lines {
		switch {
		case f.State == "fail" && f.Check == check:
			found = append(found, f)
			a.t.Logf("doctor: %s: %s; fix: %s %q %v", f.Check, f.Finding, f.Fix, f.SQL, f.Config)
		case f.State == "fail":
			a.t.Errorf("another check fails: %+v", f)
		}
	}
	if len(found) == 0 {
		a.t.Fatalf("%s does not fail: %+v", check, lines)
	}
	text := found[0].Finding + " " + found[0].Fix + " " + strings.Join(found[0].SQL, " ")
	for _, word := range says {
		if !strings.Contains(text, word) {
			a.t.Errorf("doctor does not say %q: %s", word, text)
		}
	}
	if found[0].Fix == "" {
		a.t.Error("doctor says no fix")
	}
	return found
}

func (a *arena) mustPass() {
	a.t.Helper()
	lines, status := a.doctor()
	for _, f := range lines {
		if f.State == "fail" || (f.State == "skipped" && !strings.Contains(f.Finding, "no row of the outbox")) {
			a.t.Errorf("after the fix: %+v", f)
		}
	}
	if status != 0 {
		a.t.Errorf("after the fix: exit status %d, want 0", status)
	}
}

// mustSay has `tidemark run` say it in one line: the one that it ends with, or one in the log of one that waits.
func (a *arena) mustSay(s *setup) {
	a.t.Helper()
	if s.status != 0 {
		a.mustEnd(s.status, s.run...)
		return
	}
	r := a.launch()
	line := ""
	a.await("run says it", time.Minute, func() bool {
		for text := range strings.Lines(r.Log()) {
			if strings.Contains(text, s.run[0]) {
				line = text
			}
		}
		return line != ""
	})
	for _, word := range s.run {
		if !strings.Contains(line, word) {
			a.t.Errorf("run does not say %q: %s", word, line)
		}
	}
	if !r.Running() {
		a.t.Error("run has ended, and what is missing may come")
	}
	a.t.Logf("run waits: %s", line)
	a.stop(r)
}

// runSQL runs the statements of the findings.
func (a *arena) runSQL(found []finding) {
	a.t.Helper()
	n := 0
	for _, f := range found {
		for _, sql := range f.SQL {
			a.exec(sql)
			n++
		}
	}
	if n == 0 {
		a.t.Errorf("no statements in %+v", found)
	}
}

// runCommand runs the first command of tidemark that the fix names.
func runCommand(t *testing.T, a *arena, found []finding) {
	t.Helper()
	command := regexp.MustCompile(`tidemark (init(?: --[a-z-]+)+)`).FindStringSubmatch(found[0].Fix)
	if command == nil {
		t.Fatalf("no command in %q", found[0].Fix)
	}
	if _, err := trial.Command(t.Context(), a.Config, strings.Fields(command[1])...); err != nil {
		t.Fatal(err)
	}
}

// as has tidemark log in with a role of that kind, and returns its name.
func (a *arena) as(kind string) string {
	a.t.Helper()
	role := "r_" + a.Config.Slot[:min(len(a.Config.Slot), 50)]
	a.exec("create role " + role + " " + kind)
	a.Config.DSN = withPassword(a.t, a.DSN, role)
	return role
}

// newRestartable makes an arena on a server of its own, with these settings.
func newRestartable(t *testing.T, settings map[string]string) *arena {
	t.Helper()
	options := postgresOptions()
	options.Settings = settings
	pg := stacktest.NewPostgres(t, options)
	a := newArenaOn(t, database(t, pg), brokers(t))
	a.own = pg
	return a
}

func (a *arena) restart() {
	a.t.Helper()
	if err := a.own.Restart(a.t.Context(), devstack.StopFast); err != nil {
		a.t.Fatal(err)
	}
}

// askForPassword makes a role relay that has to know its password.
func (a *arena) askForPassword(t *testing.T) {
	t.Helper()
	a.exec("create role relay login replication password 'swordfish'")
	a.exec("grant select on outbox to relay")
	a.exec("create publication tidemark for table outbox with (publish = 'insert')")
	hba := filepath.Join(a.own.DataDir(), "pg_hba.conf")
	text, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hba, append([]byte("host all relay 127.0.0.1/32 scram-sha-256\n"), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	a.restart()
}

// cutOff puts a proxy that lets nobody through before one side.
func (a *arena) cutOff(t *testing.T, side string) {
	t.Helper()
	if side == "kafka" {
		a.way = proxy(t, a.Brokers[0])
		a.Config.Brokers = []string{a.way.Addr()}
	} else {
		u, err := url.Parse(a.DSN)
		if err != nil {
			t.Fatal(err)
		}
		a.way = proxy(t, u.Host)
		u.Host = a.way.Addr()
		a.Config.DSN = u.String()
	}
	a.way.Cut()
}

func restoreWay(t *testing.T, a *arena, _ []finding) {
	t.Helper()
	if err := a.way.Restore(); err != nil {
		t.Fatal(err)
	}
}
