package cli

import (
	"strings"
	"testing"

	"github.com/tidemark/tidemark/outbox"
)

// Who may not create tables lets somebody else run what init prints: that has to be all of it.
func TestInitCreatesTheTableOfParkedEvents(t *testing.T) {
	b := newCheckpointBench(t)
	const statement = "create table if not exists public.tidemark_parked ("
	if out := b.run("file", 0, "init --dry-run"); strings.Contains(out, "tidemark_parked") {
		t.Errorf("nothing is to be parked, and init --dry-run prints:\n%s", out)
	}
	park := func(command string, says ...string) string {
		t.Helper()
		stdout, stderr, status := tidemark(t, strings.Fields(command), "TIDEMARK_SOURCE_DSN="+b.dsn, "TIDEMARK_SOURCE_SLOT="+b.slot,
			"TIDEMARK_KAFKA_BROKERS="+strings.Join(b.brokers, ","), "TIDEMARK_CHECKPOINT_PATH="+b.path, "TIDEMARK_DELIVERY_ON_POISON=park")
		if status != 0 {
			t.Fatalf("%s: exit status %d: %s", command, status, stderr)
		}
		for _, word := range says {
			if !strings.Contains(stdout, word) {
				t.Errorf("%s does not say %q:\n%s", command, word, stdout)
			}
		}
		return stdout
	}
	printed := park("init --dry-run", statement)
	printed, _, _ = strings.Cut(printed, "select pg_create_logical_replication_slot")
	park("init --dry-run", statement) // which has changed nothing
	b.exec(printed)                   // as somebody else would run it
	if out := park("init --dry-run"); strings.Contains(out, "create table") {
		t.Errorf("everything is there, and it prints:\n%s", out)
	}
	b.exec("drop table tidemark_parked")
	park("init", statement)
	park("init", "is there")
	park("parked list")
}

// The table and the functions are those of package outbox, whose tests know that they work.
func TestInitCreatesWhatPackageOutboxWritesInto(t *testing.T) {
	b := newCheckpointBench(t)
	if out := b.run("file", 0, "init --dry-run"); !strings.HasPrefix(out, outbox.Schema(`"public"."outbox"`)+";\n") || strings.Contains(out, "outbox_publish") {
		t.Errorf("init --dry-run prints:\n%s", out)
	}
	const call = `do $$ begin perform outbox_publish('order', '42', 'OrderPlaced', '{"total": 9}'); end $$`
	printed := b.run("file", 0, "init --functions --dry-run")
	printed, _, _ = strings.Cut(printed, "select pg_create_logical_replication_slot")
	b.exec(printed) // as somebody else would run it
	b.exec(call)
	b.exec("drop function outbox_publish; delete from outbox")
	for range 2 {
		b.run("file", 0, "init --functions")
		b.exec(call)
	}
	b.run("file", 2, "init --functions --recreate-slot")
}

// What init --dry-run --role prints is all that the role needs, for somebody else to run; and nothing is granted twice.
func TestInitMakesARoleOnce(t *testing.T) {
	b := newCheckpointBench(t)
	role := "least_" + b.slot[:min(len(b.slot), 50)]
	dry := "init --dry-run --role " + role
	printed := b.run("postgres", 0, dry)
	for _, want := range []string{
		`create role "` + role + `" login replication`, `grant select on "public"."outbox" to "` + role + `"`,
		`grant select, insert, update on "public"."tidemark_checkpoint" to "` + role + `"`, "cannot log in yet",
	} {
		if !strings.Contains(printed, want) {
			t.Errorf("no %q in:\n%s", want, printed)
		}
	}
	if again := b.run("postgres", 0, dry); again != printed {
		t.Errorf("a dry run has changed something:\n%s", again)
	}
	sql, _, _ := strings.Cut(printed, "select pg_create_logical_replication_slot")
	b.exec(sql)
	if out := b.run("postgres", 0, dry); strings.Contains(out, "grant") || strings.Contains(out, "role \"") || !strings.Contains(out, "may do what it needs to") {
		t.Errorf("everything is there, and it prints:\n%s", out)
	}
	b.exec("revoke select on outbox from " + role + "; alter role " + role + " noreplication nologin")
	out := b.run("postgres", 0, "init --role "+role)
	if !strings.Contains(out, `alter role "`+role+`" login`) || !strings.Contains(out, `alter role "`+role+`" replication`) || !strings.Contains(out, "grant select on") || strings.Contains(out, "create role") {
		t.Errorf("what was taken away is not given back:\n%s", out)
	}
	b.run("postgres", 2, "init --recreate-slot --role "+role)
	b.exec("drop owned by " + role + "; drop role " + role)
}
