package debezium_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/test/trial"
)

// TestSwitchFromDebeziumAndBack takes the steps of docs/debezium.md, with Debezium in Kafka Connect on a real Kafka and a writer that never
// rests: Debezium publishes, is killed or stopped, tidemark takes over, and Debezium takes over again. Each row has to arrive
// once, and in the order of its key. It takes a minute: make switch.
func TestSwitchFromDebeziumAndBack(t *testing.T) {
	if os.Getenv("TIDEMARK_TEST_SWITCH") == "" {
		t.Skip("TIDEMARK_TEST_SWITCH is not set: make switch")
	}
	program := router()
	stacktest.Require(t, "debezium", program.Have())
	for _, end := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(end.String(), func(t *testing.T) {
			s := newSwitching(t)
			s.write()
			stop := s.debezium()
			s.await("Debezium has published", func() bool { return s.arrived() > 500 })

			s.phase = "debezium"
			mustRun(t, s.tidemark, "init")
			begin := s.confirmed("tidemark")
			s.await("Debezium has passed tidemark's slot", func() bool { return s.passed("debezium", begin) })
			s.moreThan(1000)
			stop(end)
			s.awaitFree("debezium")
			s.arrived()
			s.arrived()
			s.phase = "handover"
			out, err := trial.Command(t.Context(), s.tidemark, "checkpoint", "handover", "--from-slot", "debezium")
			if err != nil {
				t.Fatal(err)
			}
			t.Log(out)
			s.arrived()
			s.arrived()
			s.phase = "tidemark"
			relay, err := trial.Start(t.Context(), s.tidemark)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = relay.Kill() })
			s.moreThan(1000)

			if status, err := relay.Stop(2 * time.Minute); err != nil || status != 0 {
				t.Fatalf("exit status %d, %v", status, err)
			}
			s.awaitFree("tidemark")
			mustRun(t, s.tidemark, "run", "--once") // to the end of a transaction
			s.awaitFree("tidemark")
			shown, err := trial.Command(t.Context(), s.tidemark, "checkpoint", "show")
			if err != nil {
				t.Fatal(err)
			}
			var stored struct {
				LSN string `json:"lsn"`
			}
			if err := json.Unmarshal([]byte(shown), &stored); err != nil {
				t.Fatal(err)
			}
			s.arrived()
			s.arrived()
			s.phase = "back"
			// The way back.
			exec(t, s.db, "select pg_replication_slot_advance('debezium', '"+stored.LSN+"')")
			if err := os.Remove(s.offsets); err != nil {
				t.Fatal(err)
			}
			stop = s.debezium()
			s.moreThan(1000)
			s.writers()
			s.judge()
			stop(syscall.SIGTERM)
		})
	}
}

// switching is a database with a writer, a Kafka, and the two relays.
type switching struct {
	t        *testing.T
	db       *pgx.Conn
	dsn      string
	tidemark trial.Config
	dir      string
	offsets  string // Debezium's, in the file of Kafka Connect's standalone worker
	prefix   string // of the topics
	writers  func() // stops them

	client *kgo.Client
	seen   map[string]int    // by id
	how    map[string]string // the record's phase, partition, offset
	phase  string
	last   map[string]int64 // by key
}

func newSwitching(t *testing.T) *switching {
	t.Helper()
	s := &switching{t: t, dsn: stacktest.Database(t), dir: t.TempDir(), seen: map[string]int{}, how: map[string]string{}, last: map[string]int64{}}
	s.db = connect(t, s.dsn)
	s.prefix = s.db.Config().Database + "."
	exec(t, s.db, "select pg_create_logical_replication_slot('debezium', 'pgoutput')") // before the first row
	exec(t, s.db, `create table outbox (id bigserial primary key, aggregatetype varchar(255) not null, aggregateid varchar(255) not null,
		type varchar(255) not null, payload jsonb)`, "create publication debezium for table outbox")
	brokers := stacktest.Kafka(t)
	s.tidemark = trial.Config{
		Binary: binary(t), Dir: s.dir, DSN: s.dsn, Slot: "tidemark", Brokers: brokers, Checkpoint: filepath.Join(s.dir, "checkpoint"),
	}.With("TIDEMARK_SOURCE_EXISTING_ROWS", "skip", "TIDEMARK_OUTBOX_0_TABLE", "public.outbox", "TIDEMARK_OUTBOX_0_TOPIC", s.prefix+"{aggregatetype}")
	s.offsets = filepath.Join(s.dir, "offsets")
	var err error
	s.client, err = kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeRegex(), kgo.ConsumeTopics("^"+s.prefix+".*"), kgo.MetadataMinAge(50*time.Millisecond), kgo.MetadataMaxAge(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.client.Close)
	return s
}

// write starts writers of transactions of one to five rows, some rolled back, some deleted again; s.writers stops them.
func (s *switching) write() {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for w := range 2 {
		conn := connect(s.t, s.dsn)
		group.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				// The key's own number rises with its commits: each writer has keys of its own.
				err := pgx.BeginFunc(context.Background(), conn, func(tx pgx.Tx) error {
					_, err := tx.Exec(context.Background(), `insert into outbox (aggregatetype, aggregateid, type, payload)
						select 'order', format('%s-%s', $1::int, i % 7), 'made', to_jsonb($2::bigint * 10 + i) from generate_series(1, 1 + $2::bigint % 5) i`, w, n)
					if err == nil && n%11 == 5 {
						_, err = tx.Exec(context.Background(), "delete from outbox where aggregateid = format('%s-1', $1::int)", w)
					}
					return err
				})
				if err != nil {
					s.t.Errorf("write: %v", err)
					return
				}
				time.Sleep(2 * time.Millisecond) //nolint:forbidigo // the pace of a writer
			}
		})
	}
	stopped := false
	s.writers = func() {
		if !stopped {
			stopped = true
			cancel()
			group.Wait()
		}
	}
	s.t.Cleanup(s.writers)
}

// debezium starts a worker of Kafka Connect with the connector, and returns what ends it with a signal.
func (s *switching) debezium() (stop func(syscall.Signal)) {
	s.t.Helper()
	connector := connectorConfig(s.t, s.dsn, "debezium")
	maps.Copy(connector, map[string]string{
		"table.include.list": "public.outbox", "snapshot.mode": "no_data", "transforms": "outbox",
		"transforms.outbox.type":                    "io.debezium.transforms.outbox.EventRouter",
		"transforms.outbox.route.topic.replacement": s.prefix + "${routedByValue}",
		"topic.creation.default.partitions":         "3", "topic.creation.default.replication.factor": "1",
	})
	worker := map[string]string{
		"bootstrap.servers": s.tidemark.Brokers[0], "offset.storage.file.filename": s.offsets, "offset.flush.interval.ms": "300",
		"key.converter": stringConverter()["type"], "value.converter": stringConverter()["type"], "listeners": "http://127.0.0.1:0",
		"plugin.discovery": "service_load",
	}
	files := []string{"connect"}
	for name, config := range map[string]map[string]string{"2-connector": connector, "1-worker": worker} {
		var b bytes.Buffer
		for _, key := range slices.Sorted(maps.Keys(config)) {
			fmt.Fprintf(&b, "%s=%s\n", key, config[key])
		}
		file := filepath.Join(s.dir, name+".properties")
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			s.t.Fatal(err)
		}
		files = append(files, file)
	}
	slices.Sort(files[1:])
	cmd, err := router().Command(context.Background(), func(line string) { s.t.Log(line) }, files...)
	if err != nil {
		s.t.Fatal(err)
	}
	log := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := false
	stop = func(signal syscall.Signal) {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Signal(signal)
		_ = cmd.Wait() // by the signal
		if s.t.Failed() {
			s.t.Logf("Debezium has said:\n%s", log.String()[max(0, log.Len()-6000):])
		}
	}
	s.t.Cleanup(func() { stop(syscall.SIGKILL) })
	return stop
}

func (s *switching) confirmed(slot string) string {
	s.t.Helper()
	var lsn *string
	err := s.db.QueryRow(s.t.Context(), "select max(confirmed_flush_lsn)::text from pg_replication_slots where slot_name = $1 and database = current_database()", slot).Scan(&lsn)
	if err != nil {
		s.t.Fatal(err)
	}
	if lsn == nil {
		return ""
	}
	return *lsn
}

func (s *switching) passed(slot, lsn string) bool {
	s.t.Helper()
	var ok bool
	if err := s.db.QueryRow(s.t.Context(), "select confirmed_flush_lsn >= $2::pg_lsn from pg_replication_slots where slot_name = $1", slot, lsn).Scan(&ok); err != nil {
		s.t.Fatal(err)
	}
	return ok
}

func (s *switching) awaitFree(slot string) {
	s.t.Helper()
	s.await("slot "+slot+" is free", func() bool {
		var active bool
		if err := s.db.QueryRow(s.t.Context(), "select active from pg_replication_slots where slot_name = $1", slot).Scan(&active); err != nil {
			s.t.Fatal(err)
		}
		return !active
	})
}

func (s *switching) await(what string, ok func() bool) {
	s.t.Helper()
	if err := trial.Await(s.t.Context(), what, 2*time.Minute, func() (bool, error) { return ok(), nil }); err != nil {
		s.t.Fatal(err)
	}
}

// arrived reads what has come meanwhile, and returns how many rows have come in all.
func (s *switching) arrived() int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 200*time.Millisecond)
	defer cancel()
	s.client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
		var id string
		for _, h := range r.Headers {
			if h.Key == "id" {
				id = string(h.Value)
			}
		}
		how := fmt.Sprintf("%s/%d/%d by %d headers at %s", s.phase, r.Partition, r.Offset, len(r.Headers), r.Timestamp.Format("05.000"))
		if s.seen[id]++; s.seen[id] > 1 {
			s.t.Errorf("row %s has come %d times, now %s, before %s", id, s.seen[id], how, s.how[id])
		}
		s.how[id] = how
		var n int64
		if _, err := fmt.Sscan(string(r.Value), &n); err != nil {
			s.t.Error(err)
		}
		if key := string(r.Key); n <= s.last[key] {
			s.t.Errorf("key %s: %d comes behind %d", key, n, s.last[key])
		} else {
			s.last[key] = n
		}
	})
	return len(s.seen)
}

// moreThan waits until that many more rows have come.
func (s *switching) moreThan(n int) {
	s.t.Helper()
	from := s.arrived()
	s.await("more rows come", func() bool { return s.arrived() > from+n })
}

// judge waits for every row that was ever committed: a sequence's numbers have no holes where nothing is rolled back.
func (s *switching) judge() {
	s.t.Helper()
	var rows int
	if err := s.db.QueryRow(s.t.Context(), "select last_value from outbox_id_seq").Scan(&rows); err != nil {
		s.t.Fatal(err)
	}
	err := trial.Await(s.t.Context(), "every row has come", time.Minute, func() (bool, error) { return s.arrived() >= rows, nil })
	if err != nil {
		n := 0
		for id := 1; id <= rows; id++ {
			if s.seen[fmt.Sprint(id)] == 0 {
				if n++; n < 10 {
					s.t.Logf("missing %d, before it %s, behind it %s", id, s.how[fmt.Sprint(id-1)], s.how[fmt.Sprint(id+1)])
				}
			}
		}
		s.t.Fatalf("%d of %d missing: %v", n, rows, err)
	}
	s.t.Logf("%d rows, each once", rows)
}
