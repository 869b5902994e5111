package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

// checkpointBench is a source with an outbox, a Kafka, and a shell.
type checkpointBench struct {
	t       *testing.T
	dsn     string
	slot    string
	brokers []string
	path    string
	rows    int
}

func newCheckpointBench(t *testing.T) *checkpointBench {
	t.Helper()
	dsn := stacktest.Database(t, devstack.PostgresOptions{Version: os.Getenv("TIDEMARK_TEST_POSTGRES")})
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return &checkpointBench{
		t: t, dsn: dsn, slot: strings.TrimPrefix(u.Path, "/"), brokers: stacktest.FakeKafka(t), path: filepath.Join(t.TempDir(), "checkpoint"),
	}
}

// run runs a command with the checkpoint in store, checks its exit status and what it says, and returns stdout.
func (b *checkpointBench) run(store string, status int, command string, says ...string) string {
	b.t.Helper()
	stdout, stderr, got := tidemark(b.t, strings.Fields(command),
		"TIDEMARK_SOURCE_DSN="+b.dsn, "TIDEMARK_SOURCE_SLOT="+b.slot, "TIDEMARK_KAFKA_BROKERS="+strings.Join(b.brokers, ","),
		"TIDEMARK_HTTP_LISTEN=127.0.0.1:0", "TIDEMARK_CHECKPOINT_STORE="+store, "TIDEMARK_CHECKPOINT_PATH="+b.path)
	if got != status {
		b.t.Fatalf("%s, in %s: exit status %d, want %d\n%s%s", command, store, got, status, stdout, stderr)
	}
	text := stdout
	if status != 0 {
		text = stderr
	}
	if strings.HasPrefix(command, "run") {
		b.awaitIdle()
	}
	for _, word := range says {
		if !strings.Contains(text, word) {
			b.t.Errorf("%s, in %s: does not say %q:\n%s", command, store, word, text)
		}
	}
	return stdout
}

// awaitIdle waits until the server has noticed that the relay is gone.
func (b *checkpointBench) awaitIdle() {
	b.t.Helper()
	conn, err := pgx.Connect(b.t.Context(), b.dsn)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // read only
	eventually(b.t, "the slot is free", func() bool {
		var active bool
		if err := conn.QueryRow(b.t.Context(), "select exists (select from pg_replication_slots where slot_name = $1 and active)", b.slot).Scan(&active); err != nil {
			b.t.Fatal(err)
		}
		return !active
	})
}

func (b *checkpointBench) exec(sql string, args ...any) {
	b.t.Helper()
	conn, err := pgx.Connect(b.t.Context(), b.dsn)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // everything has been said by then
	if _, err := conn.Exec(b.t.Context(), sql, args...); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
}

func (b *checkpointBench) insert() {
	b.t.Helper()
	b.exec("insert into outbox (aggregatetype, aggregateid, type, payload) values ('order', '17', 'created', '{}')")
	b.rows++
}

func (b *checkpointBench) show(store string) *checkpoint.Checkpoint {
	b.t.Helper()
	var c checkpoint.Checkpoint
	if err := json.Unmarshal([]byte(b.run(store, 0, "checkpoint show")), &c); err != nil {
		b.t.Fatal(err)
	}
	return &c
}

// records reads the topic of the orders from its start to where it ends now.
func (b *checkpointBench) records() (records []*kgo.Record) {
	b.t.Helper()
	const topic = "outbox.event.order"
	client, err := kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.ConsumeTopics(topic),
		kgo.KeepControlRecords()) // the fence of a predecessor takes an offset a partition
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*time.Minute)
	defer cancel()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		b.t.Fatal(err)
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			b.t.Fatalf("read %s up to %v: %v", topic, left, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
			if !r.Attrs.IsControl() {
				records = append(records, r)
			}
		})
	}
	return records
}

// mustHaveAllOnce checks that each row is in Kafka, and in there once.
func (b *checkpointBench) mustHaveAllOnce() {
	b.t.Helper()
	ids := map[string]int{}
	for _, r := range b.records() {
		ids[string(r.Headers[0].Value)]++
	}
	if len(ids) != b.rows {
		b.t.Errorf("%d events arrived of %d rows", len(ids), b.rows)
	}
	for id, n := range ids {
		if n != 1 {
			b.t.Errorf("event %s arrived %d times", id, n)
		}
	}
}

func TestCheckpointMovesFromAnyStoreToAnyOther(t *testing.T) {
	b := newCheckpointBench(t)
	b.run("file", 0, "init")
	b.run("file", 1, "checkpoint move --to kafka", "nothing is stored in file", "change checkpoint.store")
	from := "file"
	b.insert()
	b.run(from, 0, "run --once")
	for _, to := range []string{"postgres", "kafka", "file", "kafka", "postgres", "file"} {
		before := b.show(from)
		b.insert() // while nobody looks
		out := b.run(from, 0, "checkpoint move --to "+to, before.LSN.String(), "checkpoint.store: "+to)
		if strings.Contains(out, "checkpoint.path") || strings.Contains(out, "kept") {
			t.Errorf("%s to %s: it says more than there is to do:\n%s", from, to, out)
		}
		after, left := b.show(to), b.show(from)
		if after.LSN != before.LSN || after.State != checkpoint.Streaming || fmt.Sprint(after.Offsets) != fmt.Sprint(before.Offsets) || fmt.Sprint(after.Producers) != fmt.Sprint(before.Producers) {
			t.Errorf("%s to %s: moved %+v and got %+v", from, to, before, after)
		}
		if left.State != checkpoint.Moved || left.MovedTo == "" {
			t.Errorf("%s to %s: left behind is %+v", from, to, left)
		}
		// Nobody starts from the old one, and it is not moved twice.
		b.run(from, 3, "run --once", "refused", "moved to", "set checkpoint.store")
		b.run(from, 0, "status", "moved to")
		b.run(from, 1, "checkpoint move --to "+to, "moved to", "already")
		b.run(to, 0, "run --once")
		b.run(to, 0, "status", "inactive")
		if now := b.show(to); now.LSN <= after.LSN {
			t.Errorf("%s to %s: it does not go on: %s after %s", from, to, now.LSN, after.LSN)
		}
		from = to
	}
	b.mustHaveAllOnce()
}

func TestCheckpointMoveLosesNothingThatIsWorthMore(t *testing.T) {
	b := newCheckpointBench(t)
	b.run("file", 0, "init")
	b.insert()
	b.run("file", 0, "run --once")
	file, err := os.ReadFile(b.path)
	if err != nil {
		t.Fatal(err)
	}
	restore := func() {
		t.Helper()
		if err := os.WriteFile(b.path, file, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	// Interrupted before the original was marked: both have it, and moving again ends it.
	b.run("file", 0, "checkpoint move --to postgres")
	restore()
	b.run("file", 0, "checkpoint move --to postgres")

	// What is there has gone on.
	b.insert()
	b.run("postgres", 0, "run --once")
	restore()
	b.run("file", 1, "checkpoint move --to postgres", "later checkpoint", "--replace")
	if c := b.show("file"); c.State != checkpoint.Streaming {
		t.Errorf("after a refusal the file says %+v", c)
	}
	later := b.show("postgres")
	b.run("file", 0, "checkpoint move --to postgres --replace", ".before-", later.Slot)
	if c := b.show("postgres"); c.LSN >= later.LSN {
		t.Errorf("it was not replaced: %s", c.LSN)
	}
	b.run("postgres", 3, "run --once", "ahead of the checkpoint") // which is what --replace asked for
	b.run("postgres", 0, "checkpoint adopt --accept-gap", ".before-")
	b.run("postgres", 0, "run --once")

	// What is there is somebody else's, or nothing whole.
	restore()
	b.exec(`update tidemark_checkpoint set checkpoint = replace(checkpoint::text, '"system_identifier": "', '"system_identifier": "9')::json`)
	b.run("file", 1, "checkpoint move --to postgres", "another source", "--replace")
	b.exec(`update tidemark_checkpoint set checkpoint = '{}'`)
	b.run("file", 1, "checkpoint move --to postgres", "not a whole checkpoint", "--replace")

	for command, says := range map[string]string{
		"checkpoint move":                                "where to",
		"checkpoint move --to redis":                     "redis",
		"checkpoint move --to file":                      "there already",
		"checkpoint move --to file --topic x":            "--topic goes with --to kafka",
		"checkpoint move --to kafka --path x":            "--path goes with --to file",
		"checkpoint move --to file --path " + b.path:     "there already",
		"checkpoint move --to postgres kafka":            `"kafka"`,
		"checkpoint move --to postgres --path elsewhere": "--path goes with --to file",
	} {
		b.run("file", 2, command, says)
	}
	b.run("file", 0, "checkpoint move --to file --path "+b.path+"-elsewhere", "checkpoint.path: "+b.path+"-elsewhere")
}

func TestCheckpointStaysWhileARelayStreams(t *testing.T) {
	b := newCheckpointBench(t)
	b.run("postgres", 0, "init", "create table if not exists public.tidemark_checkpoint")
	b.insert()
	b.run("postgres", 0, "run --once")
	conn, err := pgx.Connect(t.Context(), b.dsn+"&replication=database")
	if err != nil {
		t.Fatal(err)
	}
	start := fmt.Sprintf(`START_REPLICATION SLOT "%s" LOGICAL 0/0 (proto_version '1', publication_names 'tidemark')`, b.slot)
	reader := conn.PgConn().Exec(t.Context(), start)
	eventually(t, "somebody streams", func() bool { return !strings.Contains(b.run("postgres", 0, "status"), "inactive") })
	b.run("postgres", 1, "checkpoint move --to file", "(Postgres backend ")
	b.run("postgres", 1, "checkpoint adopt --accept-gap", "(Postgres backend ")
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = conn.Close(ended) // without waiting for a server that streams
	_ = reader
}

// A checkpoint names who may have written since it was stored, so that the next start fences them: also one that was written
// with exactly_once, and is taken over by a command before a start of another mode.
func TestAdoptKeepsWhoMayHaveWritten(t *testing.T) {
	b := newCheckpointBench(t)
	b.run("file", 0, "init")
	b.insert()
	b.run("file", 0, "run --once")
	for what, edit := range map[string]func(*checkpoint.Checkpoint){
		"producers":           func(c *checkpoint.Checkpoint) { c.Producers, c.TransactionalID = []int64{4711}, "" },
		"a transactional one": func(c *checkpoint.Checkpoint) { c.Producers, c.TransactionalID = nil, "tidemark-checkpoint-x" },
	} {
		stored := b.show("file")
		edit(stored)
		if err := checkpoint.NewFile(b.path).Save(t.Context(), stored, stored.Writer); err != nil {
			t.Fatal(err)
		}
		b.run("file", 0, "checkpoint adopt --accept-gap")
		if got := b.show("file"); !slices.Equal(got.Producers, stored.Producers) || got.TransactionalID != stored.TransactionalID {
			t.Errorf("%s: adopted are producers %v and transactional id %q, want %v and %q", what, got.Producers, got.TransactionalID, stored.Producers, stored.TransactionalID)
		}
	}
}

// The commands that mend something do so in every store.
func TestRefusalsAreMendedInEveryStore(t *testing.T) {
	for _, store := range []string{"file", "postgres", "kafka"} {
		t.Run(store, func(t *testing.T) {
			b := newCheckpointBench(t)
			out := b.run(store, 0, "init --dry-run", "create table", "pg_create_logical_replication_slot")
			if strings.Contains(out, "tidemark_checkpoint") != (store == "postgres") {
				t.Errorf("init --dry-run prints:\n%s", out)
			}
			b.run(store, 0, "init")
			b.run(store, 0, "init", "is there")
			b.run(store, 1, "checkpoint show", "nothing is stored")
			b.insert()
			b.run(store, 0, "run --once")
			old := b.show(store)

			stacktest.DropSlot(t, b.dsn, b.slot)
			b.run(store, 3, "run --once", "init --recreate-slot")
			b.run(store, 1, "init", "init --recreate-slot", old.LSN.String())
			b.run(store, 0, "init --recreate-slot", ".before-", old.LSN.String())
			b.insert()
			b.run(store, 0, "run --once")

			b.insert()
			b.exec("select pg_replication_slot_advance($1, pg_current_wal_lsn())", b.slot)
			b.rows-- // somebody else has moved the slot past it
			b.run(store, 3, "run --once", "ahead of the checkpoint", "checkpoint adopt --accept-gap")
			b.run(store, 2, "checkpoint adopt")
			b.run(store, 0, "checkpoint adopt --accept-gap", ".before-")
			b.insert()
			b.run(store, 0, "run --once")
			b.mustHaveAllOnce()
		})
	}
}

// A publication that was changed while nobody looked: the way out leaves the position where it is, and verify brings the rows.
func TestChangedPublicationIsAdoptedInEveryStore(t *testing.T) {
	for _, store := range []string{"file", "postgres", "kafka"} {
		t.Run(store, func(t *testing.T) {
			b := newCheckpointBench(t)
			b.run(store, 0, "init")
			b.insert()
			b.run(store, 0, "run --once")
			b.exec("alter publication tidemark drop table outbox")
			b.insert()
			b.insert()
			b.run(store, 3, "run --once", "is not in publication tidemark", "checkpoint adopt --accept-gap", "verify --repair")
			b.run(store, 1, "checkpoint adopt --accept-gap", `alter publication "tidemark" add table`) // first things first
			b.exec("alter publication tidemark add table outbox")
			b.insert()
			b.run(store, 3, "run --once", "put in again", "checkpoint adopt --accept-gap", "verify --repair")
			old := b.show(store)
			b.run(store, 0, "checkpoint adopt --accept-gap", "stays at "+old.LSN.String(), "may be missing", ".before-")
			if now := b.show(store); now.LSN != old.LSN || fmt.Sprint(now.Offsets) != fmt.Sprint(old.Offsets) || now.Publication.Tables["public.outbox"] == old.Publication.Tables["public.outbox"] {
				t.Errorf("adopted %+v, was %+v", now, old)
			}
			if out := b.run(store, 0, "checkpoint adopt --accept-gap", "stays at "+old.LSN.String()); strings.Contains(out, "may be missing") {
				t.Errorf("the second time it says:\n%s", out)
			}
			b.run(store, 0, "run --once")
			b.run(store, 1, "verify", "2 rows are missing")
			b.run(store, 0, "verify --repair")
			b.run(store, 0, "run --once")
			b.mustHaveAllOnce()
		})
	}
}
