package stacktest_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

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
