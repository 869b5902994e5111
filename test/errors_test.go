package test_test

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/test/trial"
)

// password is in every connection string of these tests, and must be in no output.
const password = "correct-horse-battery"

// withPassword puts a user and the password into a connection string. The servers of devstack ask for none.
func withPassword(t *testing.T, dsn, user string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

// TestClearErrors makes one mistake at a time. Each has to end tidemark with the right status and a line that says what
// to do, without the password. Those that doctor mends are in TestBrokenSetups.
func TestClearErrors(t *testing.T) {
	const failed, usage, refused = 1, 2, 3
	tests := []struct {
		name    string
		prepare func(t *testing.T, a *arena)
		status  int
		want    []string // in the message
	}{
		// The configuration.
		{"a key that does not exist", func(t *testing.T, a *arena) {
			t.Helper()
			a.file(t, "kafka:\n  brokerz: [localhost:9092]\n")
		}, usage, []string{"kafka.brokerz", "kafka.brokers", "config.yaml:2"}},
		{"a value of the wrong type", func(t *testing.T, a *arena) {
			t.Helper()
			a.file(t, "checkpoint:\n  interval: soon\n")
		}, usage, []string{"checkpoint.interval", "soon", "200ms"}},
		{"a typo in a variable", func(_ *testing.T, a *arena) {
			a.Config = a.Config.With("TIDEMARK_SOURCE_SLOTT", "x")
		}, usage, []string{"TIDEMARK_SOURCE_SLOTT", "TIDEMARK_SOURCE_SLOT"}},
		{"no source", func(_ *testing.T, a *arena) {
			a.Config.DSN = ""
		}, usage, []string{"source.dsn", "required", "TIDEMARK_SOURCE_DSN"}},
		{"a file that is not there", func(_ *testing.T, a *arena) {
			a.Config.Args = []string{"run", "--config", "nowhere.yaml"}
		}, usage, []string{"nowhere.yaml"}},
		{"a flag that does not exist", func(_ *testing.T, a *arena) {
			a.Config.Args = []string{"run", "--onze"}
		}, usage, []string{"--onze", "--help"}},

		// The source.
		{"no such table", func(_ *testing.T, a *arena) {
			a.exec("drop table outbox")
		}, failed, []string{"public.outbox", "tidemark init"}},
		{"a publication with a row filter", func(_ *testing.T, a *arena) {
			a.exec("create publication tidemark for table outbox where (type <> 'x') with (publish = 'insert')")
		}, failed, []string{"row filter", "alter publication"}},
		{"no such database", func(_ *testing.T, a *arena) {
			a.Config.DSN = strings.Replace(a.Config.DSN, "/"+a.Config.Slot, "/nowhere", 1)
		}, failed, []string{"nowhere", "database in source.dsn"}},
		{"no such user", func(t *testing.T, a *arena) {
			t.Helper()
			a.Config.DSN = withPassword(t, a.DSN, "nobody")
		}, failed, []string{"nobody", "user", "source.dsn"}},
		{"a slot of another plugin", func(_ *testing.T, a *arena) {
			a.exec("select pg_create_logical_replication_slot($1, 'test_decoding')", a.Config.Slot)
		}, failed, []string{"pgoutput", "test_decoding", "source.slot"}},
		{"nothing may be created", func(_ *testing.T, a *arena) {
			a.Config = a.Config.With("TIDEMARK_SOURCE_CREATE", "false")
		}, failed, []string{"publication tidemark", "does not exist", "tidemark init"}},

		// This machine.
		{"the HTTP port is taken", func(t *testing.T, a *arena) {
			t.Helper()
			listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = listener.Close() })
			a.Config = a.Config.With("TIDEMARK_HTTP_LISTEN", listener.Addr().String())
		}, failed, []string{"http.listen", "address already in use"}},

		// Slot and checkpoint do not fit together: going on would hide a gap.
		{"a torn checkpoint", func(t *testing.T, a *arena) {
			t.Helper()
			a.runBefore(t)
			text := a.checkpoint(t)
			a.setCheckpoint(t, text[:len(text)/2])
		}, refused, []string{"refused", "checkpoint", "checkpoint adopt --accept-gap"}},
		{"an empty checkpoint", func(t *testing.T, a *arena) {
			t.Helper()
			a.runBefore(t)
			a.setCheckpoint(t, "")
		}, refused, []string{"refused", "empty", "checkpoint adopt --accept-gap"}},
		{"a checkpoint of zeroes", func(t *testing.T, a *arena) { // what some file systems leave after a power cut
			t.Helper()
			a.runBefore(t)
			a.setCheckpoint(t, strings.Repeat("\x00", 300))
		}, refused, []string{"refused", "checkpoint adopt --accept-gap"}},
		{"a checkpoint of a newer version", func(t *testing.T, a *arena) {
			t.Helper()
			a.runBefore(t)
			a.setCheckpoint(t, strings.Replace(a.checkpoint(t), `"version": 1`, `"version": 2, "shards": 3`, 1))
		}, refused, []string{"refused", "a newer version of tidemark has written it", "Run that version again", "checkpoint adopt --accept-gap"}},
		{"a newer one in Postgres", func(t *testing.T, a *arena) {
			t.Helper()
			a.Config = a.Config.With("TIDEMARK_CHECKPOINT_STORE", "postgres")
			a.runBefore(t)
			a.exec(`update tidemark_checkpoint set checkpoint = (checkpoint::jsonb || '{"version": 2}')::json`)
		}, refused, []string{"refused", "a newer version of tidemark has written it", "Run that version again", "checkpoint adopt --accept-gap"}},
		{"a newer one in Kafka", func(t *testing.T, a *arena) {
			t.Helper()
			a.Config = a.Config.With("TIDEMARK_CHECKPOINT_STORE", "kafka", "TIDEMARK_CHECKPOINT_TOPIC", "checkpoint-of-a-newer-version")
			a.runBefore(t)
			a.produce(t, "checkpoint-of-a-newer-version", a.Config.Slot+"/"+a.Config.Slot, `{"version": 2}`)
		}, refused, []string{"refused", "a newer version of tidemark has written it", "Run that version again", "checkpoint adopt --accept-gap"}},
		{"a table of checkpoints of a newer version", func(t *testing.T, a *arena) {
			t.Helper()
			a.Config = a.Config.With("TIDEMARK_CHECKPOINT_STORE", "postgres")
			a.runBefore(t)
			a.exec("comment on table tidemark_checkpoint is 'tidemark: checkpoints, format 2'")
		}, refused, []string{"format 2", "a newer version of tidemark has made it", "run that version again", "checkpoint adopt --accept-gap"}},
		{"a table of parked events of a newer version", func(t *testing.T, a *arena) {
			t.Helper()
			a.Config = a.Config.With("TIDEMARK_DELIVERY_ON_POISON", "park")
			a.runBefore(t)
			a.exec("comment on table tidemark_parked is 'tidemark: parked events, format 2'")
		}, refused, []string{"format 2", "a newer version of tidemark has made it", "run that version again", "tidemark parked list"}},
		{"a checkpoint of another cluster", func(t *testing.T, a *arena) {
			t.Helper()
			a.runBefore(t)
			text := a.checkpoint(t)
			_, rest, _ := strings.Cut(text, `"system_identifier": "`)
			id, _, _ := strings.Cut(rest, `"`)
			a.setCheckpoint(t, strings.Replace(text, id, "7000000000000000001", 1))
		}, refused, []string{"refused", "system identifier 7000000000000000001", "checkpoint.path"}},
		{"a checkpoint of another database", func(t *testing.T, a *arena) {
			t.Helper()
			a.runBefore(t)
			a.setCheckpoint(t, strings.Replace(a.checkpoint(t), `"database": "`, `"database": "other_`, 1))
		}, refused, []string{"refused", "database other_", "checkpoint.path"}},
		{"a slot ahead of the checkpoint", func(t *testing.T, a *arena) {
			t.Helper()
			a.runBefore(t)
			old := a.checkpoint(t)
			a.runBefore(t)
			a.setCheckpoint(t, old)
		}, refused, []string{"refused", "ahead of the checkpoint", "checkpoint adopt --accept-gap"}},
		{"a checkpoint ahead of the server", func(t *testing.T, a *arena) {
			t.Helper()
			a.runBefore(t)
			_, rest, _ := strings.Cut(a.checkpoint(t), `"lsn": "`)
			lsn, _, _ := strings.Cut(rest, `"`)
			a.setCheckpoint(t, strings.Replace(a.checkpoint(t), lsn, "FF/1000000", 1))
		}, refused, []string{"refused", "ahead of the server's log", "checkpoint adopt --accept-gap"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := newArenaOn(t, stacktest.Database(t, postgresOptions()), brokers(t))
			a.Config.DSN = withPassword(t, a.DSN, "postgres")
			a.Config.Dir = t.TempDir()
			test.prepare(t, a)
			a.mustEnd(test.status, test.want...)
		})
	}
}

// TestServersThatAreAway has tidemark started before the servers: it waits, says for what, and works when they come.
func TestServersThatAreAway(t *testing.T) {
	a := newArena(t)
	source := proxy(t, strings.Split(strings.Split(a.DSN, "@")[1], "/")[0])
	kafka := proxy(t, a.Brokers[0])
	a.Config.DSN = withPassword(t, strings.Replace(a.DSN, strings.Split(strings.Split(a.DSN, "@")[1], "/")[0], source.Addr(), 1), "postgres")
	a.Config.Brokers = []string{kafka.Addr()}
	w := a.write(trial.Load{Rows: 100, Kinds: existing()})
	if err := w.Wait(); err != nil {
		t.Fatal(err)
	}
	source.Cut()
	kafka.Cut()

	r := a.start()
	said := func(text string) func() bool { return func() bool { return strings.Contains(r.Log(), text) } }
	a.await("a warning that names the source", time.Minute, said(":"+strconv.Itoa(source.Port())))
	if err := source.Restore(); err != nil {
		t.Fatal(err)
	}
	a.await("a warning that names the broker", time.Minute, said("kafka.brokers"))
	if status, body, err := r.Get(t.Context(), "/readyz"); err != nil || status != 503 {
		t.Errorf("/readyz: %d %q, %v", status, body, err)
	}
	if err := kafka.Restore(); err != nil {
		t.Fatal(err)
	}
	a.awaitReady(r)
	a.judge()
	a.stop(r)
	if n := strings.Count(r.Log(), "\n"); n > 30 {
		t.Errorf("%d lines in the log:\n%s", n, r.Log())
	}
	a.silent(r)
}

// database makes an empty database on a server that belongs to the test.
func database(t *testing.T, pg *devstack.Postgres) string {
	t.Helper()
	if err := pg.CreateDatabase(t.Context(), "outbox"); err != nil {
		t.Fatal(err)
	}
	return pg.DSN("outbox")
}

func proxy(t *testing.T, upstream string) *devstack.Proxy {
	t.Helper()
	p, err := devstack.StartProxy(t.Context(), upstream)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// launch starts a tidemark without waiting for anything.
func (a *arena) launch() *trial.Relay {
	a.t.Helper()
	r, err := trial.Run(a.t.Context(), a.Config, "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	a.relays = append(a.relays, r)
	return r
}

// mustEnd starts a tidemark that has to end by itself, with this status, one message and these words in it.
func (a *arena) mustEnd(status int, words ...string) {
	a.t.Helper()
	r := a.launch()
	got, err := r.Wait(2 * time.Minute)
	if err != nil {
		a.t.Fatal(err)
	}
	if got != status {
		a.t.Errorf("exit status %d, want %d", got, status)
	}
	_, message, found := strings.Cut(r.Log(), "tidemark: ")
	if !found || strings.Contains(message, "tidemark: ") {
		a.t.Errorf("not one message but:\n%s", r.Log())
	}
	for _, word := range words {
		if !strings.Contains(message, word) {
			a.t.Errorf("the message does not say %q", word)
		}
	}
	lines := strings.Count(strings.TrimSpace(message), "\n") + 1
	if status == 2 && strings.Contains(message, "problem") {
		lines-- // the heading
	}
	if lines != 1 {
		a.t.Errorf("%d lines, want one", lines)
	}
	if r.Stdout() != "" {
		a.t.Errorf("on stdout: %q", r.Stdout())
	}
	a.silent(r)
	a.t.Logf("exit status %d: %s", got, strings.TrimSpace(message))
}

// silent checks that no secret has been told.
func (a *arena) silent(r *trial.Relay) {
	a.t.Helper()
	if strings.Contains(r.Log()+r.Stdout(), password) {
		a.t.Errorf("the password is in the output:\n%s", r.Log())
	}
}

// file gives tidemark a configuration file in the folder where it runs.
func (a *arena) file(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(a.Config.Dir, "config.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// runBefore has tidemark publish a few rows and stop in order.
func (a *arena) runBefore(t *testing.T) {
	t.Helper()
	r := a.startReady()
	if err := a.write(trial.Load{Writers: 1, Rows: 5, Kinds: existing()}).Wait(); err != nil {
		t.Fatal(err)
	}
	a.judge()
	a.stop(r)
	a.await("the slot is free", time.Minute, func() bool {
		_, pid, err := a.Confirmed(t.Context())
		return err == nil && pid == 0
	})
}

func (a *arena) produce(t *testing.T, topic, key, value string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(a.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	record := &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value)}
	if err := client.ProduceSync(t.Context(), record).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func (a *arena) checkpoint(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(a.Config.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (a *arena) setCheckpoint(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(a.Config.Checkpoint, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
