package devstack_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

func serverTLS(t *testing.T, name string) (*devstack.Authority, *devstack.TLS) {
	t.Helper()
	authority, err := devstack.NewAuthority(name)
	if err != nil {
		t.Fatal(err)
	}
	served, err := authority.ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	return authority, served
}

func TestPostgresEncryptsAndAsksWhoComes(t *testing.T) {
	t.Parallel()
	_, served := serverTLS(t, "first")
	pg := stacktest.NewPostgres(t, devstack.PostgresOptions{TLS: served, HBA: []string{"hostssl all all 127.0.0.1/32 trust"}})
	if conn, err := pgx.Connect(t.Context(), pg.DSN("postgres")); err == nil {
		t.Error("a connection without TLS was let in", conn.Close(t.Context()))
	}
	encrypted := func() error {
		conn, err := pgx.Connect(t.Context(), pg.SecureDSN("postgres"))
		if err != nil {
			return err
		}
		defer conn.Close(t.Context()) //nolint:errcheck // read only
		var ssl bool
		if err := conn.QueryRow(t.Context(), "select ssl from pg_stat_ssl where pid = pg_backend_pid()").Scan(&ssl); err != nil || !ssl {
			t.Errorf("encrypted: %v, %v", ssl, err)
		}
		return nil
	}
	if err := encrypted(); err != nil {
		t.Fatal(err)
	}
	_, second := serverTLS(t, "second")
	if err := pg.SetTLS(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if err := encrypted(); err != nil {
		t.Error(err)
	}
}

func TestKafkaHasAListenerForEachWayToLogIn(t *testing.T) {
	t.Parallel()
	authority, served := serverTLS(t, "kafka's")
	kafka := stacktest.NewKafka(t, devstack.KafkaOptions{Security: &devstack.KafkaSecurity{
		TLS: served, Users: map[string]string{"orders": "secret"}, ACL: true,
	}})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority.Certificate())
	certificate, key, err := authority.Issue(devstack.IssueOptions{Name: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	known := &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	unknown := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	for _, c := range []struct {
		name     string
		listener devstack.Listener
		opts     []kgo.Opt
		welcome  bool
	}{
		{"plain", devstack.ListenerPlain, nil, true},
		{"TLS", devstack.ListenerTLS, []kgo.Opt{kgo.DialTLSConfig(unknown)}, true},
		{"mutual", devstack.ListenerMutual, []kgo.Opt{kgo.DialTLSConfig(known)}, true},
		{"mutual without a certificate", devstack.ListenerMutual, []kgo.Opt{kgo.DialTLSConfig(unknown)}, false},
		{"PLAIN", devstack.ListenerSASL, []kgo.Opt{kgo.DialTLSConfig(unknown), kgo.SASL(plain.Auth{User: "orders", Pass: "secret"}.AsMechanism())}, true},
		{"SCRAM", devstack.ListenerSASL, []kgo.Opt{kgo.DialTLSConfig(unknown), kgo.SASL(scram.Auth{User: "orders", Pass: "secret"}.AsSha512Mechanism())}, true},
		{"SCRAM, wrong", devstack.ListenerSASL, []kgo.Opt{kgo.DialTLSConfig(unknown), kgo.SASL(scram.Auth{User: "orders", Pass: "guess"}.AsSha512Mechanism())}, false},
	} {
		client, err := kgo.NewClient(append(c.opts, kgo.SeedBrokers(kafka.BrokersAt(c.listener)...), kgo.RequestRetries(0))...)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := client.Ping(ctx); (err == nil) != c.welcome {
			t.Errorf("%s: %v", c.name, err)
		}
		cancel()
		client.Close()
	}
}
