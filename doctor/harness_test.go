package doctor

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

func TestMain(m *testing.M) { stacktest.Main(m) }

const outboxColumns = `(id uuid not null default gen_random_uuid(), aggregatetype text, aggregateid text, type text, payload text, written timestamptz)`

// patient is a source with an outbox table and an imitation of Kafka, and what a relay for them would be started with.
type patient struct {
	t       *testing.T
	db      *pgx.Conn
	options Options
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DefaultNumPartitions(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return newPatientOf(t, cluster)
}

func newPatientOf(t *testing.T, cluster *kfake.Cluster) *patient {
	t.Helper()
	dsn := stacktest.Database(t)
	db, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	p := &patient{t: t, db: db}
	p.options = Options{
		Source: wal.Options{DSN: dsn, Slot: db.Config().Database, Publication: "tidemark", Tables: []string{"public.outbox"}},
		Tables: []decode.Table{{
			Name:    "public.outbox",
			Columns: decode.Columns{ID: "id", Key: "aggregateid", Type: "type", Topic: "aggregatetype", Payload: "payload"},
			Topic:   "outbox.event.{aggregatetype}",
		}},
		Kafka:  publish.Options{Brokers: cluster.ListenAddrs(), Compression: "lz4", Topics: publish.TopicOptions{Create: true, Partitions: -1, ReplicationFactor: -1}},
		Store:  store{},
		Create: true, Failover: "auto", ResumeDedupe: true, OnPoison: "stop",
		SourceName: func(wal.System) string { return "source" },
		Judge: func(*wal.Slot, *checkpoint.Checkpoint, wal.System, wal.History) (string, error) {
			return "a first start", nil
		},
		SamePublication: func(*checkpoint.Publication, wal.Fingerprint) error { return nil },
		Parked:          func(context.Context, wal.System) (int64, bool, error) { return 0, false, nil },
	}
	return p
}

// store is one in which nothing is stored, unless load says so.
type store struct {
	load func() (*checkpoint.Checkpoint, error)
}

func (s store) Load(context.Context) (*checkpoint.Checkpoint, error) {
	if s.load == nil {
		return nil, nil //nolint:nilnil // as checkpoint's stores
	}
	return s.load()
}

func (store) String() string { return "a store" }

func (p *patient) exec(sql string, args ...any) {
	p.t.Helper()
	if _, err := p.db.Exec(p.t.Context(), sql, args...); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
}

func (p *patient) examine() *Report {
	p.t.Helper()
	return Run(p.t.Context(), p.options)
}

// must has the check come to that state, with these words in what it says.
func must(t *testing.T, findings []Finding, check string, state State, words ...string) {
	t.Helper()
	i := slices.IndexFunc(findings, func(f Finding) bool { return f.Check == check && f.State == state })
	if i < 0 {
		t.Errorf("%s is not %s: %+v", check, state, of(findings, check))
		return
	}
	text := findings[i].Finding + " | " + findings[i].Fix + " | " + strings.Join(findings[i].SQL, "; ")
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%s does not say %q: %s", check, word, text)
		}
	}
	if state == Fail && findings[i].Fix == "" && len(findings[i].SQL) == 0 {
		t.Errorf("%s fails without a fix: %s", check, text)
	}
}

func of(findings []Finding, check string) []Finding {
	return slices.DeleteFunc(slices.Clone(findings), func(f Finding) bool { return f.Check != check })
}
