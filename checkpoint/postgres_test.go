package checkpoint_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

// postgresOptions are those of every test: CI runs them with other versions, too.
func postgresOptions() devstack.PostgresOptions {
	return devstack.PostgresOptions{Version: os.Getenv("TIDEMARK_TEST_POSTGRES")}
}

// All of them in one table, as several relays would be.
func TestPostgresConforms(t *testing.T) {
	t.Parallel()
	pg := newPostgres(t)
	conformance(t, func(t *testing.T) place {
		t.Helper()
		p := *pg
		p.t, p.Slot = t, fmt.Sprintf("slot_%p", t) // subtests run side by side
		return p.place()
	})
}

// postgres is a row of a table in a database of its own.
type postgres struct {
	checkpoint.PostgresOptions
	t *testing.T
}

func newPostgres(t *testing.T) *postgres {
	t.Helper()
	return &postgres{t: t, PostgresOptions: checkpoint.PostgresOptions{
		DSN: stacktest.Database(t, postgresOptions()), Database: "app", Slot: "tidemark", Create: true,
	}}
}

func (p *postgres) place() place {
	return place{open: func() Store { return p.open() }, plant: p.plant, kept: func(mark string) (kept string) {
		err := p.connect().QueryRow(p.t.Context(), "select checkpoint::text from public.tidemark_checkpoint where slot = $1", p.Slot+"."+mark).Scan(&kept)
		if err != nil {
			p.t.Fatal(err)
		}
		return kept
	}}
}

func (p *postgres) open() *checkpoint.Postgres {
	s := checkpoint.NewPostgres(p.PostgresOptions)
	p.t.Cleanup(s.Close)
	return s
}

// sql runs a statement in a session of its own.
func (p *postgres) sql(sql string, args ...any) {
	p.t.Helper()
	conn := p.connect()
	if _, err := conn.Exec(p.t.Context(), sql, args...); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
}

func (p *postgres) connect() *pgx.Conn {
	p.t.Helper()
	conn, err := pgx.Connect(p.t.Context(), p.DSN)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (p *postgres) plant(contents string) {
	p.t.Helper()
	sql, err := p.open().MissingTable(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	if sql != "" {
		p.sql(sql)
	}
	p.sql("insert into public.tidemark_checkpoint (database, slot, checkpoint) values ($1, $2, $3) on conflict (database, slot) do update set checkpoint = excluded.checkpoint",
		p.Database, p.Slot, contents)
}

func TestPostgresTakesNoHalfCheckpoint(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	p.plant("{}")
	whole := string(encode(t, example(0)))
	for _, torn := range []string{"", whole[:len(whole)/2], "null", "[" + whole + "]"} {
		_, err := p.connect().Exec(t.Context(), "update public.tidemark_checkpoint set checkpoint = $1::text::json", torn)
		if err == nil {
			t.Errorf("the table takes %q", torn)
		}
	}
}

func TestPostgresGoesOnAfterALostConnection(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	s := p.open()
	save(t, s, example(1))
	for n := range uint64(3) {
		p.sql("select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
		c := example(2 + n)
		err := s.Save(t.Context(), c, c.Writer)
		if err == nil {
			t.Fatal("the connection is gone, and nothing was noticed")
		}
		if checkpoint.IsTakenOver(err) || checkpoint.IsCorrupt(err) || checkpoint.IsPermanent(err) {
			t.Fatalf("a lost connection is taken for something else: %v", err)
		}
		if err := s.Save(t.Context(), c, c.Writer); err != nil {
			t.Fatal(err)
		}
		mustLoad(t, s, c)
	}
}

// A lost checkpoint that was confirmed is a gap that nobody sees, so it is not up to the database how durable it is.
func TestPostgresWaitsForTheDisk(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	var name string
	if err := p.connect().QueryRow(t.Context(), "select current_database()").Scan(&name); err != nil {
		t.Fatal(err)
	}
	p.sql("alter database " + pgx.Identifier{name}.Sanitize() + " set synchronous_commit = off")
	s := p.open()
	save(t, s, example(1)) // makes the table, too
	p.sql(`create table seen (setting text);
		create function note() returns trigger language plpgsql as 'begin insert into seen values (current_setting($$synchronous_commit$$)); return new; end';
		create trigger note before update on public.tidemark_checkpoint for each row execute function note()`)
	save(t, s, example(2))
	var seen []string
	if err := p.connect().QueryRow(t.Context(), "select array_agg(setting) from seen").Scan(&seen); err != nil || len(seen) != 1 || seen[0] != "on" {
		t.Errorf("saved with synchronous_commit %q, %v, want on", seen, err)
	}
}

func TestPostgresSaveIsBounded(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	s := p.open()
	save(t, s, example(1))
	blocker, err := p.connect().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blocker.Exec(t.Context(), "lock table public.tidemark_checkpoint"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := s.Save(ctx, example(2), example(1).Writer); err == nil || !strings.Contains(err.Error(), "tidemark_checkpoint") {
		t.Errorf("Save into a locked table: %v", err)
	}
	if err := blocker.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	save(t, s, example(3))
	mustLoad(t, p.open(), example(3))
}

func TestPostgresSaysWhatKeepsItFromWorking(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	mustFail := func(err error, permanent bool, says ...string) {
		t.Helper()
		if err == nil || checkpoint.IsPermanent(err) != permanent || checkpoint.IsCorrupt(err) || checkpoint.IsTakenOver(err) {
			t.Errorf("%v, want an error, permanent: %v", err, permanent)
			return
		}
		for _, word := range says {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%q does not say %q", err, word)
			}
		}
	}
	load := func(s Store) error { _, err := s.Load(t.Context()); return err }

	readOnly := *p
	readOnly.Create = false
	s := readOnly.open()
	if c, err := s.Load(t.Context()); c != nil || err != nil {
		t.Errorf("Load() = %+v, %v without a table, want nothing", c, err)
	}
	mustFail(s.Save(t.Context(), example(1), ""), true, "source.create", "tidemark init")
	gone := *p
	gone.DSN = "postgres://127.0.0.1:1/app"
	mustFail(load(gone.open()), false, "127.0.0.1")
	wrong := *p
	wrong.DSN = "postgres://%%"
	mustFail(load(wrong.open()), true, "source.admin_dsn")

	save(t, p.open(), example(1))
	p.sql("drop role if exists checkpoint_nobody")
	p.sql("create role checkpoint_nobody login")
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), p.DSN)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background()) //nolint:errcheck // everything has been said by then
		if _, err := conn.Exec(context.Background(), "drop owned by checkpoint_nobody; drop role checkpoint_nobody"); err != nil {
			t.Error(err)
		}
	})
	nobody := *p
	config, err := pgx.ParseConfig(p.DSN)
	if err != nil {
		t.Fatal(err)
	}
	nobody.DSN = fmt.Sprintf("host=%s port=%d dbname=%s user=checkpoint_nobody", config.Host, config.Port, config.Database)
	mustFail(load(nobody.open()), true, "checkpoint_nobody", "grant select, insert, update on public.tidemark_checkpoint")
	p.sql("grant select, insert, update on public.tidemark_checkpoint to checkpoint_nobody")
	save(t, nobody.open(), example(2)) // and that is all it takes

	p.sql("comment on table public.tidemark_checkpoint is 'tidemark: checkpoints, format 2'")
	mustFail(load(p.open()), true, "format 2", "format 1", "a newer version", "run that version again")
	if err := load(p.open()); checkpoint.IsCorrupt(err) {
		t.Errorf("a way out that replaces the checkpoint would go on after %v", err)
	}
	p.sql("comment on table public.tidemark_checkpoint is null")
	mustFail(load(p.open()), true, "if it is tidemark's")
	p.sql("comment on table public.tidemark_checkpoint is 'tidemark: checkpoints, format 2'")
	closed := p.open()
	closed.Close()
	mustFail(load(closed), false, "closed")
}

// Names that a server's encoding does not have must not keep the checkpoint from being stored.
func TestPostgresKeepsWhatTheEncodingHasNot(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	dsn := p.DSN
	latin := fmt.Sprintf("latin_%d", time.Now().UnixNano())
	p.sql("create database " + latin + " encoding 'LATIN1' locale 'C' template template0")
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background()) //nolint:errcheck // everything has been said by then
		if _, err := conn.Exec(context.Background(), "drop database "+latin+" with (force)"); err != nil {
			t.Error(err)
		}
	})
	config, err := pgx.ParseConfig(p.DSN)
	if err != nil {
		t.Fatal(err)
	}
	p.DSN = fmt.Sprintf("host=%s port=%d dbname=%s user=%s", config.Host, config.Port, latin, config.User)
	s := p.open()
	c := example(1)
	c.Database = "büro € 日本 😀\x00"
	save(t, s, c)
	mustLoad(t, p.open(), c)
}
