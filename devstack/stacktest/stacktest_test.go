package stacktest_test

import (
	"errors"
	"runtime"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

func TestMain(m *testing.M) { stacktest.Main(m) }

func TestDatabaseIsEmptyAndDroppedWithWhatIsLeftInIt(t *testing.T) {
	pg := stacktest.Postgres(t)
	for range 2 {
		t.Run("a test", func(t *testing.T) {
			conn, err := pgx.Connect(t.Context(), stacktest.Database(t))
			if err != nil {
				t.Fatal(err)
			}
			// The session is left open, and the slot in place.
			for _, sql := range []string{"create table t (i int)", "select pg_create_logical_replication_slot('same', 'pgoutput')"} {
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	conn, err := pgx.Connect(t.Context(), pg.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // read only
	var left int
	err = conn.QueryRow(t.Context(), "select (select count(*) from pg_replication_slots) + (select count(*) from pg_database where datname like 't%\\_%' and not datistemplate)").Scan(&left)
	if err != nil || left != 0 {
		t.Errorf("%d databases and slots left, %v", left, err)
	}
	if stacktest.Postgres(t) != pg {
		t.Error("a second server was started")
	}
}

func TestKafkaIsSharedAndFakeKafkaIsNot(t *testing.T) {
	if first, second := stacktest.Kafka(t), stacktest.Kafka(t); len(first) != 1 || first[0] != second[0] {
		t.Errorf("brokers %v, then %v", first, second)
	}
	if first, second := stacktest.FakeKafka(t), stacktest.FakeKafka(t); first[0] == second[0] {
		t.Errorf("both fakes are %v", first)
	}
}

// spy is a testing.TB that remembers what was asked of it.
type spy struct {
	testing.TB

	said string
}

func (s *spy) Helper()               {}
func (s *spy) Skipf(string, ...any)  { s.said = "skip" }
func (s *spy) Fatalf(string, ...any) { s.said = "fatal"; runtime.Goexit() }

func TestRequireSkipsUnlessThePartIsNamed(t *testing.T) {
	cases := []struct {
		required string
		err      error
		want     string
	}{
		{"", nil, ""},
		{"kafka", nil, ""},
		{"", errors.New("no java"), "skip"},
		{"browser", errors.New("no java"), "skip"},
		{"browser, kafka", errors.New("no java"), "fatal"},
	}
	for _, c := range cases {
		t.Setenv(stacktest.RequireEnv, c.required)
		s := &spy{TB: t}
		done := make(chan struct{})
		go func() { // ends with the call, which may end its goroutine
			defer close(done)
			stacktest.Require(s, "kafka", c.err)
		}()
		<-done
		if s.said != c.want {
			t.Errorf("%q, %v: %q, want %q", c.required, c.err, s.said, c.want)
		}
	}
}

// TestRequireKafka is what CI runs without Java, with TIDEMARK_TEST_REQUIRE=kafka: it has to fail then, and not to skip.
func TestRequireKafka(t *testing.T) {
	stacktest.Require(t, "kafka", devstack.HaveKafka())
}
