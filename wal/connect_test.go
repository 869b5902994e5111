package wal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidemark/tidemark/devstack/stacktest"
)

// secret is the password that no error may show, nor half of it.
const secret = "s3cr3t" //nolint:gosec // of a test's server

func mustNotTell(t *testing.T, err error) {
	t.Helper()
	for _, part := range []string{secret, "s3c", "r3t"} {
		if strings.Contains(err.Error(), part) {
			t.Errorf("the error %q shows %q, a part of the password", err, part)
		}
	}
}

func TestConnectTellsWhoTheServerIs(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	before := s.lsn("select pg_current_wal_flush_lsn()")
	got := s.connect().System
	after := s.lsn("select pg_current_wal_flush_lsn()")
	if got.Flushed < before || got.Flushed > after {
		t.Errorf("the log is written up to %s, want between %s and %s", got.Flushed, before, after)
	}
	got.Flushed = 0
	want := System{
		ID: s.query("select system_identifier from pg_control_system()"), Timeline: 1,
		Database: s.query("select current_database()"), Version: s.version(),
		Started: s.query("select pg_postmaster_start_time() at time zone 'UTC'") + "+00",
	}
	if got != want {
		t.Errorf("System = %+v, want %+v", got, want)
	}
}

// Without TLS pgconn tries an address twice, and says so twice.
func TestAnAddressIsNamedOnce(t *testing.T) {
	t.Parallel()
	for name, connect := range map[string]func(Options) error{
		"replication": func(o Options) error { _, err := Connect(t.Context(), o); return err },
		"SQL":         func(o Options) error { _, err := OpenSetup(t.Context(), o); return err },
	} {
		err := connect(Options{DSN: "postgres://u@127.0.0.1:1/d"})
		if err == nil || strings.Count(err.Error(), "refused") != 1 || !strings.Contains(err.Error(), "listen_addresses") {
			t.Errorf("%s: %v", name, err)
		}
	}
	one := errors.New("one")
	if got := oncePerAddress(fmt.Errorf("a\n\tb\n\tc\n\tb: %w", one)); got.Error() != "a\n\tb\n\tc\n\tb: one" || !errors.Is(got, one) {
		t.Errorf("what differs is left out: %v", got)
	}
}

// refusals are servers' and their errors' ways to say no. permanent is what a person has to mend.
func TestConnectSaysWhatToDo(t *testing.T) {
	t.Parallel()
	s, pg := ownSource(t, nil)
	for _, sql := range []string{
		"create role locked login replication password '" + secret + "'", "create role barred login replication", "create role nobody login",
		"create role asleep nologin replication", "create role outside login replication", "create database walled", "revoke connect on database walled from public",
	} {
		s.exec(sql)
	}
	lines := "host all locked 127.0.0.1/32 scram-sha-256\nhost all barred 127.0.0.1/32 reject\nhost all all 127.0.0.1/32 trust\nlocal all all trust\n"
	if err := os.WriteFile(filepath.Join(pg.DataDir(), "pg_hba.conf"), []byte(lines), 0o600); err != nil { // it keeps its owner
		t.Fatal(err)
	}
	s.exec("select pg_reload_conf()")
	dsn := s.options.DSN
	eventually(t, "the new pg_hba.conf holds", func() bool {
		_, err := Connect(t.Context(), Options{DSN: as(t, dsn, "barred", secret)})
		return err != nil
	})
	if c, err := Connect(t.Context(), Options{DSN: as(t, dsn, "locked", secret)}); err != nil {
		t.Errorf("with the password: %v", err)
	} else {
		c.Close()
	}
	closed, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		dsn       string
		permanent bool
		says      []string
	}{
		"wrong password":  {as(t, dsn, "locked", "x"+secret), true, []string{"password authentication failed", "check user and password in source.dsn"}},
		"no password":     {as(t, dsn, "locked", ""), true, []string{"check user and password in source.dsn"}},
		"unknown role":    {as(t, dsn, "stranger", secret), true, []string{"stranger", "check the user in source.dsn"}},
		"no login":        {as(t, dsn, "asleep", secret), true, []string{"asleep", "check the user in source.dsn"}},
		"pg_hba.conf":     {as(t, dsn, "barred", secret), true, []string{"pg_hba.conf", "a line for its database", "reload"}},
		"no replication":  {as(t, dsn, "nobody", secret), true, []string{`alter role "nobody" replication`}},
		"unknown":         {as(t, strings.Replace(dsn, "/app", "/nowhere", 1), "postgres", secret), true, []string{"nowhere", "check the database in source.dsn"}},
		"no connect":      {as(t, strings.Replace(dsn, "/app", "/walled", 1), "outside", secret), true, []string{"walled", "grant connect"}},
		"a closed port":   {"postgres://u:" + secret + "@" + closed.Addr().String() + "/app", false, []string{"connect to the source", "refused"}},
		"an unknown host": {"postgres://u:" + secret + "@no-such-host.invalid/app", false, []string{"no-such-host.invalid"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := Connect(t.Context(), Options{DSN: c.dsn})
			if err == nil {
				conn.Close()
				t.Fatal("it connects")
			}
			if IsPermanent(err) != c.permanent {
				t.Errorf("permanent is %v of %q", !c.permanent, err)
			}
			for _, part := range c.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error %q does not say %q", err, part)
				}
			}
			mustNotTell(t, err)
		})
	}
}

func TestConnectRefusesAServerWhoseLogIsNotLogical(t *testing.T) {
	t.Parallel()
	o := server()
	o.Settings = map[string]string{"wal_level": "replica"}
	_, err := Connect(t.Context(), Options{DSN: stacktest.NewPostgres(t, o).DSN("postgres")})
	if !IsPermanent(err) || !strings.Contains(err.Error(), "alter system set wal_level = 'logical'") || !strings.Contains(err.Error(), "restart") {
		t.Errorf("Connect: %v", err)
	}
}

// A text that cannot be read is not repeated: who knows what part of it is the password.
func TestConnectDoesNotRepeatAnUnreadableDSN(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{
		"garbage", secret, "user:" + secret + "@host/db", "mysql://user:" + secret + "@host/db", "postgresql:user:" + secret + "@host",
		"postgres://user:" + secret + "@[::1/db", "postgres://user:" + secret + "%zz@host/db", "postgres://user:s3c/r3t@host/db",
		"postgres://user:" + secret + "@host:port/db", "postgres://user:" + secret + "@host/db?sslmode=perhaps",
		"postgres://user:" + secret + "@host/db?connect_timeout=soon", "postgres://host/db?password=" + secret + "&sslmode=perhaps",
		"host=h password='" + secret, "host=h password=" + secret + " port=abc", "host=h password = " + secret + " port=abc",
		`host=h password=s3c\ r3t port=abc`, "host=h password='s3c\\' r3t' port=abc", "host=h PASSWORD=" + secret + " port=abc =",
		"host=h sslpassword=" + secret + " port=abc", "`: " + secret, "host=`:" + secret + " port=abc",
	} {
		for _, connect := range []func() error{
			func() error { _, err := Connect(t.Context(), Options{DSN: dsn}); return err },
			func() error { return CreatePublication(t.Context(), Options{DSN: dsn}) },
		} {
			err := connect()
			if !IsPermanent(err) {
				t.Errorf("%s: %v, want a permanent error", dsn, err)
				continue
			}
			if !strings.Contains(err.Error(), "source.dsn") || !strings.Contains(err.Error(), "postgres://user:password@host:5432/database") {
				t.Errorf("%s: the error %q does not say how to write it", dsn, err)
			}
			mustNotTell(t, err)
		}
	}
}

// Of several hosts the DSN has to say which; one that says nothing does not keep the others from being asked.
func TestSeveralHosts(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a test's listener
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close() //nolint:errcheck // nobody listens
	u, err := url.Parse(s.options.DSN)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = silent.Addr().String() + "," + u.Host
	s.options.DSN = u.String()
	if _, err := Connect(t.Context(), s.options); err == nil || !IsPermanent(err) || !strings.Contains(err.Error(), "target_session_attrs") {
		t.Errorf("several hosts, and any of them will do: %v", err)
	}
	if _, err := OpenSetup(t.Context(), s.options); err == nil || !IsPermanent(err) {
		t.Errorf("OpenSetup, several hosts, and any of them will do: %v", err)
	}
	s.options.DSN = with(t, s.options.DSN, "target_session_attrs", "read-write")
	if c := s.connect(); c.System.Standby {
		t.Error("connected to a standby")
	}
}

func TestConnectEndsWithItsContext(t *testing.T) {
	t.Parallel()
	mute, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // the kernel accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mute.Close() })
	dsn := fmt.Sprintf("postgres://u:%s@%s/app?sslmode=disable", secret, mute.Addr())
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for want, ctx := range map[error]context.Context{context.Canceled: cancelled, context.DeadlineExceeded: short} {
		begin := time.Now()
		_, err := Connect(ctx, Options{DSN: dsn})
		if !errors.Is(err, want) || IsPermanent(err) || time.Since(begin) > time.Minute {
			t.Errorf("Connect: %v after %s, want %v", err, time.Since(begin), want)
		} else {
			mustNotTell(t, err)
		}
	}
}

func TestCloseTwice(t *testing.T) {
	t.Parallel()
	c := newSource(t).connect()
	c.Close()
	c.Close()
}
