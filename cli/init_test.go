package cli

import (
	"strings"
	"testing"
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
