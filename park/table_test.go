package park

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tidemark/tidemark/devstack/stacktest"
)

func TestTableSQLIsIdempotentAndWhatOpenMakes(t *testing.T) {
	t.Parallel()
	dsn := stacktest.Database(t, server())
	if _, err := OpenExisting(t.Context(), dsn, testSource); !IsNoTable(err) {
		t.Fatalf("without a table: %v", err)
	}
	sql(t, dsn, TableSQL(), TableSQL())
	s, err := OpenExisting(t.Context(), dsn, testSource)
	must(t, err)
	defer s.Close()
	mustPark(t, s, poison(1, "a"))
	if strings.HasSuffix(strings.TrimSpace(TableSQL()), ";") {
		t.Error("ends with a semicolon")
	}
}

// asRole makes a role without any rights, and returns the DSN with which it connects.
func asRole(t *testing.T, dsn string) (role, roleDSN string) {
	t.Helper()
	role = session(t, dsn).Config().Database + "_role"
	sql(t, dsn, "create role "+role+" login")
	t.Cleanup(func() {
		conn := sessionOutliving(t, dsn)
		for _, statement := range []string{"drop owned by " + role, "drop role " + role} {
			if _, err := conn.Exec(contextOutliving(t), statement); err != nil {
				t.Error(err)
			}
		}
	})
	return role, strings.Replace(dsn, "postgres@", role+"@", 1)
}

func TestMissingRightsAreNamed(t *testing.T) {
	t.Parallel()
	dsn := stacktest.Database(t, server())
	role, roleDSN := asRole(t, dsn)
	open := func() error {
		s, err := Open(t.Context(), roleDSN, testSource)
		if err == nil {
			s.Close()
		}
		return err
	}
	grant := fmt.Sprintf("grant select, insert, update, delete on public.tidemark_parked to %q", role)
	mustSay(t, open(), IsPermanent, "create public.tidemark_parked: ", "permission denied", "tidemark init --dry-run", grant)
	sql(t, dsn, TableSQL(), "grant select, delete on tidemark_parked to "+role)
	mustSay(t, open(), IsPermanent, "may not insert or update in", grant)
	sql(t, dsn, "revoke all on schema public from public")
	mustSay(t, open(), IsPermanent, "permission denied for schema public", "grant usage on schema public")
	sql(t, dsn, "grant usage on schema public to "+role, grant)
	s, err := Open(t.Context(), roleDSN, testSource)
	must(t, err)
	defer s.Close()
	mustPark(t, s, poison(1, "a"))
	must(t, s.Discard(t.Context(), "id-1"))

	sql(t, dsn, "revoke insert on tidemark_parked from "+role)
	mustSay(t, s.Park(t.Context(), []Event{poison(1, "a")}), IsPermanent, grant)

	sql(t, dsn, "drop table tidemark_parked", "drop schema public")
	mustSay(t, open(), IsPermanent, "tidemark init --dry-run")
}

func TestATableOfAnotherFormatIsRefused(t *testing.T) {
	t.Parallel()
	s, dsn := openNew(t)
	mustPark(t, s, poison(1, "a"))
	sql(t, dsn, "comment on table tidemark_parked is 'tidemark: parked events, format 2'")
	for _, open := range []func() error{
		func() error { _, err := Open(t.Context(), dsn, testSource); return err },
		func() error { _, err := OpenExisting(t.Context(), dsn, testSource); return err },
		func() error { s.disconnect(); _, err := s.Count(t.Context()); return err },
	} {
		mustSay(t, open(), IsNewer, "format 2", "format 1", "a newer version", "run that version again")
	}
	sql(t, dsn, "comment on table tidemark_parked is null")
	_, err := s.Count(t.Context())
	mustSay(t, err, IsPermanent, "comment on table public.tidemark_parked is 'tidemark: parked events, format 1'")
	sql(t, dsn, "comment on table public.tidemark_parked is 'tidemark: parked events, format 1'")
	if n := count(t, s); n != 1 {
		t.Errorf("%d are parked", n)
	}
}

// TestTheFirstFormat goes on with the table as the first version made it, and what it had parked: a waits for a decision, b
// was released, and the first of c was discarded.
func TestTheFirstFormat(t *testing.T) {
	t.Parallel()
	dsn := stacktest.Database(t, server())
	first, err := os.ReadFile("testdata/first.sql")
	must(t, err)
	sql(t, dsn, string(first))
	s := openAt(t, dsn, "7711127065204882249/shop/tidemark")
	tally, err := s.Tally(t.Context())
	must(t, err)
	if want := (Tally{Waiting: 1, Behind: 2, Released: 2}); tally != want {
		t.Errorf("%+v, want %+v", tally, want)
	}
	ids := func(events []Event) (ids []string) {
		for i := range events {
			ids = append(ids, events[i].Event.ID[len(events[i].Event.ID)-1:])
		}
		return ids
	}
	if got := ids(due(t, s, 10)); !slices.Equal(got, []string{"3", "4", "6"}) {
		t.Errorf("due: %v", got)
	}
	waits := show(t, s, "00000000-0000-0000-0000-000000000001")
	if waits.ValueBytes != len(waits.Event.Value) || !strings.HasPrefix(string(waits.Event.Value), `{"pad": "0123`) || !strings.Contains(waits.Reason, "max.message.bytes") ||
		string(waits.Event.Key) != "a" || len(waits.Event.Headers) != 4 || string(waits.Event.Headers[1].Value) != "placed" {
		t.Errorf("%+v", waits)
	}
	next := behind(9, "a") // parked by this version, behind what the first one has parked
	next.Event.Topic, next.Event.Key = waits.Event.Topic, waits.Event.Key
	mustPark(t, s, next)
	must(t, s.Release(t.Context(), "00000000-0000-0000-0000-000000000001"))
	if got := ids(due(t, s, 10)); !slices.Equal(got, []string{"1", "2", "3", "4", "6", "9"}) {
		t.Errorf("due after the release: %v", got)
	}
}

func TestATableThatVanishesIsNotReplacedByAnEmptyOne(t *testing.T) {
	t.Parallel()
	s, dsn := openNew(t)
	mustPark(t, s, poison(1, "a"))
	found := openAt(t, dsn, testSource) // one has made the table, this one has found it
	sql(t, dsn, "drop table tidemark_parked")
	for _, s := range []*Store{s, found} {
		for range 3 {
			if err := s.Park(t.Context(), []Event{poison(2, "a")}); !IsPermanent(err) {
				t.Errorf("parked into nothing: %v", err)
			}
		}
		_, err := s.Due(t.Context(), 1)
		mustSay(t, err, IsPermanent, "gone")
	}
	if _, err := OpenExisting(t.Context(), dsn, testSource); !IsNoTable(err) {
		t.Errorf("somebody has made a new one: %v", err)
	}
}

func TestWhatWasDeletedByHandHoldsNothingUp(t *testing.T) {
	t.Parallel()
	s, dsn := openNew(t)
	mustPark(t, s, poison(1, "a"), behind(2, "a"), behind(3, "a"), poison(4, "b"), behind(5, "b"))
	sql(t, dsn, "delete from tidemark_parked where id in ('id-1', 'id-4')")
	s.disconnect()
	mustBeDue(t, s, 2, 3, 5)
}

func TestWrongAddressesAreToldFromServersThatAreAway(t *testing.T) {
	t.Parallel()
	dsn := stacktest.Database(t, server())
	name := session(t, dsn).Config().Database
	for changed, kind := range map[string]bool{
		"postgres://%zz": true,
		strings.Replace(dsn, "/"+name, "/nowhere", 1):           true,
		strings.Replace(dsn, "postgres@", "nobody@", 1):         true,
		"postgres://u:hunter2@127.0.0.1:1/shop?sslmode=disable": false,
	} {
		_, err := Open(t.Context(), changed, testSource)
		if err == nil || IsPermanent(err) != kind || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", changed, err)
		}
	}
}

// TestLookingForWhatIsDueReadsLittle: the relay asks every second, and what waits may be many.
func TestLookingForWhatIsDueReadsLittle(t *testing.T) {
	t.Parallel()
	s, dsn := openNew(t)
	const waiting = 20_000
	var events []Event
	n := 0
	add := func(e Event) { events = append(events, e); n++ }
	add(poison(n, "busy")) // one key that many wait behind,
	for range waiting {
		add(behind(n, "busy"))
	}
	for i := range waiting { // many keys that wait for a decision,
		add(poison(n, fmt.Sprint("key ", i)))
	}
	mustPark(t, s, events...)
	events = nil
	for i := range 20 { // and later than these a few that may go
		add(behind(n, fmt.Sprint("free ", i)))
		add(behind(n, fmt.Sprint("free ", i)))
	}
	mustPark(t, s, events...)
	for _, state := range []string{"", "analyze tidemark_parked", "vacuum tidemark_parked"} {
		if state != "" {
			sql(t, dsn, state)
		}
		for _, mode := range []string{"force_generic_plan", "force_custom_plan"} {
			s.disconnect()
			must(t, s.call(t.Context(), "set", nothing))
			_, err := s.conn.Exec(t.Context(), "set plan_cache_mode = "+mode)
			must(t, err)
			var text []byte
			must(t, s.conn.QueryRow(t.Context(), "explain (analyze, buffers, format json) "+dueSQL, s.source, 500, s.dueBytes).Scan(&text))
			var plans []struct {
				Plan struct {
					Rows float64 `json:"Actual Rows"`
					Hit  int     `json:"Shared Hit Blocks"`
					Read int     `json:"Shared Read Blocks"`
				}
			}
			must(t, json.Unmarshal(text, &plans))
			if p := plans[0].Plan; p.Rows != 40 || p.Hit+p.Read > 2000 {
				t.Errorf("%s, %s: %g events, %d blocks", mode, state, p.Rows, p.Hit+p.Read)
				t.Logf("%s", text)
			} else {
				t.Logf("%s, %s: %d blocks", mode, state, p.Hit+p.Read)
			}
		}
	}
}
