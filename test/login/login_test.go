// Package login_test logs the built binary in at a real Postgres and a real Kafka in every way that there is, and in wrong
// ones, of which each has to be named, with what to do about it, by `run` and by `doctor`.
package login_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/test/trial"
)

// login is one way to come in.
type login struct {
	name   string
	dsn    string   // default: one that needs no login
	env    []string // name and value in turns
	rights bool     // doctor has to find them enough
	// Of a wrong way: the check of doctor that fails, and what it and run say, each in one line.
	check string
	says  []string
	run   []string // default: says
	there bool     // its topic exists
	ends  bool     // run ends with status 1; else it waits, since what is wrong may be mended while it does
}

//nolint:tparallel // the second part stops the broker that the first one needs
func TestEveryWayToLogInAndEveryWrongOne(t *testing.T) {
	t.Parallel()
	s := newServers(t)
	t.Run("once", func(t *testing.T) {
		t.Run("with tokens that are soon over", func(t *testing.T) {
			t.Parallel()
			s.renewTokens(t)
		})
		for i, l := range append(s.postgresLogins(), s.kafkaLogins()...) {
			t.Run(l.name, func(t *testing.T) {
				t.Parallel()
				s.try(t, i, &l)
			})
		}
	})
	t.Run("without a secret in what comes out", func(t *testing.T) { s.keepSecrets(t) })
	t.Run("with certificates that are replaced meanwhile", func(t *testing.T) { s.rotate(t) })
}

func (s *servers) try(t *testing.T, i int, l *login) {
	t.Helper()
	c := s.config(i, l)
	if l.there {
		if _, err := s.admin.CreateTopic(t.Context(), 1, 1, nil, prefix(i)+"order"); err != nil {
			t.Fatal(err)
		}
	}
	if l.check == "" {
		s.mustComeIn(t, i, c, l)
		return
	}
	s.doctorMustSay(t, c, l)
	s.runMustSay(t, c, l)
}

func prefix(i int) string { return fmt.Sprintf("login-%d.", i) }

func (s *servers) config(i int, l *login) trial.Config {
	c := trial.Config{
		Binary: s.binary, DSN: l.dsn, Slot: fmt.Sprintf("login_%d", i), Brokers: s.kafka.Brokers(),
		Checkpoint: filepath.Join(s.dir, fmt.Sprintf("checkpoint-%d", i)),
	}
	if c.DSN == "" {
		c.DSN = s.pg.DSN("shop")
	}
	return c.With("TIDEMARK_OUTBOX_0_TOPIC", prefix(i)+"{aggregatetype}").With(l.env...)
}

// mustComeIn publishes the row of the outbox.
func (s *servers) mustComeIn(t *testing.T, i int, c trial.Config, l *login) {
	t.Helper()
	if _, err := trial.Command(t.Context(), c, "run", "--once"); err != nil {
		t.Fatal(err)
	}
	if s.records(t, prefix(i)+"order") == 0 {
		t.Error("nothing was published")
	}
	if !l.rights {
		return
	}
	for _, f := range s.doctor(t, c) {
		if f.State == "fail" {
			t.Errorf("doctor: %+v", f)
		}
	}
}

func (s *servers) doctorMustSay(t *testing.T, c trial.Config, l *login) {
	t.Helper()
	lines := s.doctor(t, c)
	for _, f := range lines {
		if f.Check != l.check || f.State != "fail" {
			continue
		}
		t.Logf("doctor: %s: %s; fix: %s", f.Check, f.Finding, f.Fix)
		mustHold(t, "doctor", f.Finding+" | "+f.Fix, l.says)
		if f.Fix == "" {
			t.Error("doctor says no fix")
		}
		return
	}
	t.Errorf("%s does not fail: %+v", l.check, lines)
}

func (s *servers) runMustSay(t *testing.T, c trial.Config, l *login) {
	t.Helper()
	says := l.run
	if says == nil {
		says = l.says
	}
	r, err := trial.Run(t.Context(), c, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Kill() //nolint:errcheck // it has ended, or the test has failed
	if l.ends {
		status, err := r.Wait(2 * time.Minute)
		lines := strings.Split(strings.TrimSpace(r.Log()), "\n")
		last := lines[len(lines)-1]
		t.Logf("run: %s", last)
		if err != nil || status != 1 {
			t.Errorf("run: exit status %d, %v", status, err)
		}
		mustHold(t, "run", last, says)
		return
	}
	var line string
	err = trial.Await(t.Context(), "run says "+says[0], 2*time.Minute, func() (bool, error) {
		for text := range strings.Lines(r.Log()) {
			if strings.Contains(text, says[0]) && strings.Contains(text, `"level":"warn"`) {
				line = text
			}
		}
		return line != "" || !r.Running(), nil
	})
	if err != nil || !r.Running() {
		t.Fatalf("%v; running: %v; its log:\n%s", err, r.Running(), r.Log())
	}
	t.Logf("run waits: %s", line)
	mustHold(t, "run", line, says)
	if _, err := r.Stop(2 * time.Minute); err != nil {
		t.Error(err)
	}
}

func mustHold(t *testing.T, who, text string, words []string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%s does not say %q: %s", who, word, text)
		}
	}
	if strings.Contains(text, password) {
		t.Errorf("%s gives the password away: %s", who, text)
	}
}

func (s *servers) postgresLogins() []login {
	ca, foreign := s.pg.CAFile(), s.file("foreign-ca.crt", s.stranger.Certificate())
	cert, key := s.pair("certified", s.ours, devstack.IssueOptions{Name: "certified"})
	oldCert, oldKey := s.pair("expired", s.ours, devstack.IssueOptions{Name: "certified", For: -time.Hour})
	strangeCert, strangeKey := s.pair("strange", s.stranger, devstack.IssueOptions{Name: "certified"})
	otherCert, otherKey := s.pair("other", s.ours, devstack.IssueOptions{Name: "somebody"})
	verified := []string{"sslmode", "verify-full", "sslrootcert", ca}
	with := func(more ...string) []string { return append(append([]string{}, verified...), more...) }
	secret := "secret:" + password
	passfile := s.file("pgpass", []byte("*:*:shop:secret:"+password+"\n"))
	service := s.file("pg_service.conf", fmt.Appendf(nil, "[shop]\nhost=127.0.0.1\nport=%d\ndbname=shop\nuser=secret\npassword=%s\nsslmode=verify-full\nsslrootcert=%s\n", s.pg.Port(), password, ca))
	const connection = "source.connection"
	return []login{
		{name: "Postgres, SCRAM over verify-full", dsn: s.dsn(secret, "127.0.0.1", verified...)},
		{name: "Postgres, SCRAM with channel binding", dsn: s.dsn(secret, "127.0.0.1", with("channel_binding", "require")...)},
		{name: "Postgres, client certificate", dsn: s.dsn("certified", "127.0.0.1", with("sslcert", cert, "sslkey", key)...), rights: true},
		{name: "Postgres, passfile", dsn: s.dsn("secret", "127.0.0.1", with("passfile", passfile)...)},
		{name: "Postgres, .pgpass in the environment", dsn: s.dsn("secret", "127.0.0.1", verified...), env: []string{"PGPASSFILE", passfile}},
		{name: "Postgres, service file", dsn: "service=shop servicefile=" + service},
		{
			name: "Postgres, wrong password", dsn: s.dsn("secret:guess", "127.0.0.1", verified...),
			check: connection, says: []string{"password authentication failed", "check user and password in source.dsn"}, ends: true,
		},
		{
			name: "Postgres, unknown user", dsn: s.dsn("nobody:"+password, "127.0.0.1", verified...),
			check: connection, says: []string{"password authentication failed", "nobody", "check user and password in source.dsn"}, ends: true,
		},
		{
			name: "Postgres, without TLS", dsn: s.dsn(secret, "127.0.0.1", "sslmode", "disable"),
			check: connection, says: []string{"no encryption", "with TLS alone (hostssl)", "sslmode=verify-full"}, ends: true,
		},
		{
			name: "Postgres, foreign CA", dsn: s.dsn(secret, "127.0.0.1", "sslmode", "verify-full", "sslrootcert", foreign),
			check: connection, says: []string{"connect to the source", "authority that is not trusted", "sslrootcert in source.dsn"},
		},
		{
			name: "Postgres, wrong host name", dsn: s.dsn(secret, "localhost", verified...),
			check: connection, says: []string{"connect to the source", "not for the name that it is reached by", "connect by a name that it is for"},
		},
		{
			name: "Postgres, expired server certificate", dsn: "postgres://" + secret + "@" + s.expired() + "/shop?sslmode=verify-full&sslrootcert=" + ca,
			check: connection, says: []string{"connect to the source", "has expired", "renew it on the server"},
		},
		{
			name: "Postgres, client certificate missing", dsn: s.dsn("certified", "127.0.0.1", verified...),
			check: connection, says: []string{"client certificate", "set sslcert and sslkey in source.dsn"}, ends: true,
		},
		{
			name: "Postgres, client certificate of somebody else", dsn: s.dsn("certified", "127.0.0.1", with("sslcert", otherCert, "sslkey", otherKey)...),
			check: connection, says: []string{"certificate authentication failed", "whose common name is the user"}, ends: true,
		},
		{
			name: "Postgres, expired client certificate", dsn: s.dsn("certified", "127.0.0.1", with("sslcert", oldCert, "sslkey", oldKey)...),
			check: connection, says: []string{"connect to the source", "our certificate", "has expired"},
		},
		{
			name: "Postgres, client certificate of a foreign CA", dsn: s.dsn("certified", "127.0.0.1", with("sslcert", strangeCert, "sslkey", strangeKey)...),
			check: connection, says: []string{"client certificate", "from an authority in the server's ssl_ca_file"}, ends: true,
		},
	}
}

func (s *servers) kafkaLogins() []login {
	ca, foreign := s.file("kafka-ca.crt", s.ours.Certificate()), s.file("kafka-foreign-ca.crt", s.stranger.Certificate())
	cert, key := s.pair("orders", s.ours, devstack.IssueOptions{Name: "orders"})
	oldCert, oldKey := s.pair("orders-expired", s.ours, devstack.IssueOptions{Name: "orders", For: -time.Hour})
	strangeCert, strangeKey := s.pair("orders-strange", s.stranger, devstack.IssueOptions{Name: "orders"})
	at := func(l devstack.Listener, more ...string) []string {
		return append([]string{
			"TIDEMARK_KAFKA_BROKERS", strings.Join(s.kafka.BrokersAt(l), ","), "TIDEMARK_KAFKA_TLS_ENABLED", "true", "TIDEMARK_KAFKA_TLS_CA_FILE", ca,
		}, more...)
	}
	mutual := func(cert, key string) []string {
		return at(devstack.ListenerMutual, "TIDEMARK_KAFKA_TLS_CERT_FILE", cert, "TIDEMARK_KAFKA_TLS_KEY_FILE", key)
	}
	sasl := func(mechanism, user, secret string) []string {
		return at(devstack.ListenerSASL, "TIDEMARK_KAFKA_SASL_MECHANISM", mechanism, "TIDEMARK_KAFKA_SASL_USERNAME", user, "TIDEMARK_KAFKA_SASL_PASSWORD", secret)
	}
	bearer := func(token string) []string {
		return at(devstack.ListenerSASL, "TIDEMARK_KAFKA_SASL_MECHANISM", "OAUTHBEARER", "TIDEMARK_KAFKA_SASL_TOKEN", token)
	}
	exactly := func(env []string) []string {
		return append(env, "TIDEMARK_DELIVERY_MODE", "exactly_once", "TIDEMARK_CHECKPOINT_STORE", "kafka")
	}
	const scram, connection = "SCRAM-SHA-512", "kafka.connection"
	const silent = "no Kafka broker answers"
	refused := []string{"SASL_AUTHENTICATION_FAILED", "check kafka.sasl"}
	issuer := s.startTokens(s.signer, time.Hour)
	fetched := func(address string, more ...string) []string {
		return at(devstack.ListenerSASL, append([]string{
			"TIDEMARK_KAFKA_SASL_MECHANISM", "OAUTHBEARER", "TIDEMARK_KAFKA_SASL_TOKEN_URL", address, "TIDEMARK_KAFKA_SASL_CLIENT_ID", "relay",
			"TIDEMARK_KAFKA_SASL_CLIENT_SECRET", password, "TIDEMARK_KAFKA_SASL_SCOPE", "kafka", "TIDEMARK_KAFKA_SASL_TOKEN_CA_FILE", ca,
		}, more...)...)
	}
	return []login{
		{name: "Kafka, TLS", env: at(devstack.ListenerTLS)},
		{name: "Kafka, client certificate", env: mutual(cert, key)},
		{name: "Kafka, PLAIN", env: sasl("PLAIN", "least", password)},
		{name: "Kafka, SCRAM-SHA-256", env: sasl("SCRAM-SHA-256", "least", password)},
		{name: "Kafka, SCRAM-SHA-512", env: sasl(scram, "least", password), rights: true},
		{name: "Kafka, OAUTHBEARER", env: bearer(s.token(s.signer, time.Hour))},
		{name: "Kafka, OAUTHBEARER with a token endpoint", env: fetched(issuer.URL), rights: true},
		{
			name: "Kafka, OAUTHBEARER with a secret in a file", rights: true,
			env: fetched(issuer.URL, "TIDEMARK_KAFKA_SASL_CLIENT_SECRET", "", "TIDEMARK_KAFKA_SASL_CLIENT_SECRET_FILE", s.file("client-secret", []byte(password+"\n"))),
		},
		{name: "Kafka, exactly once with the least rights", env: exactly(sasl(scram, "exactly", password)), rights: true},
		{
			name: "Kafka, foreign CA", env: at(devstack.ListenerTLS, "TIDEMARK_KAFKA_TLS_CA_FILE", foreign),
			check: connection, says: []string{"authority that is not trusted", "kafka.tls.ca_file"}, run: []string{silent, "authority that is not trusted", "kafka.tls.ca_file"},
		},
		{
			name: "Kafka, wrong host name", env: at(devstack.ListenerTLS, "TIDEMARK_KAFKA_TLS_SERVER_NAME", "kafka.example"),
			check: connection, says: []string{"not for the name that it is reached by", "kafka.tls.server_name"}, run: []string{silent, "kafka.example", "kafka.tls.server_name"},
		},
		{
			name: "Kafka, expired server certificate", env: at(devstack.ListenerTLS, "TIDEMARK_KAFKA_BROKERS", s.expired()),
			check: connection, says: []string{"has expired", "renew it on the server"}, run: []string{silent, "has expired", "renew it on the server"},
		},
		{
			name: "Kafka, client certificate missing", env: at(devstack.ListenerMutual),
			check: connection, says: []string{"the server wants a certificate of ours", "kafka.tls.cert_file"}, run: []string{silent, "wants a certificate of ours", "kafka.tls.cert_file"},
		},
		{
			name: "Kafka, expired client certificate", env: mutual(oldCert, oldKey),
			check: connection, says: []string{"our certificate (kafka.tls.cert_file) has expired"}, run: []string{silent, "has expired", "renew it"},
		},
		{
			name: "Kafka, client certificate of a foreign CA", env: mutual(strangeCert, strangeKey),
			check: connection, says: []string{"does not accept our certificate (kafka.tls.cert_file)"}, run: []string{silent, "does not accept our certificate"},
		},
		{
			name: "Kafka, TLS missing", env: []string{"TIDEMARK_KAFKA_BROKERS", strings.Join(s.kafka.BrokersAt(devstack.ListenerTLS), ",")},
			check: connection, says: []string{"kafka.tls.enabled"}, run: []string{silent, "kafka.tls.enabled"},
		},
		{
			name: "Kafka, TLS where there is none", env: at(devstack.ListenerPlain),
			check: connection, says: []string{"kafka.tls"}, run: []string{silent, "kafka.tls"},
		},
		{
			name: "Kafka, login missing", env: at(devstack.ListenerSASL),
			check: connection, says: []string{"kafka.sasl"}, run: []string{silent, "kafka.sasl"},
		},
		{
			name: "Kafka, login where there is none", env: at(devstack.ListenerTLS, "TIDEMARK_KAFKA_SASL_MECHANISM", scram, "TIDEMARK_KAFKA_SASL_USERNAME", "least", "TIDEMARK_KAFKA_SASL_PASSWORD", password),
			check: connection, says: []string{"kafka.sasl.mechanism"}, run: []string{silent, "kafka.sasl.mechanism"},
		},
		{name: "Kafka, PLAIN with a wrong password", env: sasl("PLAIN", "least", "guess"), check: connection, says: refused, run: append([]string{silent}, refused...)},
		{name: "Kafka, SCRAM with a wrong password", env: sasl(scram, "least", "guess"), check: connection, says: refused, run: append([]string{silent}, refused...)},
		{name: "Kafka, SCRAM with an unknown user", env: sasl(scram, "nobody", password), check: connection, says: refused, run: append([]string{silent}, refused...)},
		{
			name: "Kafka, expired token", env: bearer(s.token(s.signer, -time.Minute)),
			check: connection, says: []string{"do not accept the token of kafka.sasl", "has expired, on"}, run: []string{silent, "kafka.sasl", "has expired, on"},
		},
		{
			name: "Kafka, token signed by somebody else", env: bearer(s.token(s.otherSigner(), time.Hour)),
			check: connection, says: []string{"do not accept the token of kafka.sasl", "get another token"}, run: []string{silent, "kafka.sasl", "get another token"},
		},
		{
			name: "Kafka, wrong secret at the token endpoint", env: fetched(issuer.URL, "TIDEMARK_KAFKA_SASL_CLIENT_SECRET", "guess"),
			check: connection, says: []string{"fetch a token for kafka.sasl", "401", "invalid_client", "kafka.sasl.client_secret"},
			run: []string{silent, "401", "invalid_client", "kafka.sasl.client_secret"},
		},
		{
			name: "Kafka, wrong scope at the token endpoint", env: fetched(issuer.URL, "TIDEMARK_KAFKA_SASL_SCOPE", "everything"),
			check: connection, says: []string{"fetch a token for kafka.sasl", "400", "invalid_scope", "kafka.sasl.scope"}, run: []string{silent, "invalid_scope", "kafka.sasl.scope"},
		},
		{
			name: "Kafka, no token endpoint there", env: fetched("https://127.0.0.1:1/token"),
			check: connection, says: []string{"fetch a token for kafka.sasl from https://127.0.0.1:1/token", "connection refused", "kafka.sasl.token_url"},
			run: []string{silent, "connection refused", "kafka.sasl.token_url"},
		},
		{
			name: "Kafka, token endpoint of a foreign CA", env: fetched(issuer.URL, "TIDEMARK_KAFKA_SASL_TOKEN_CA_FILE", foreign),
			check: connection, says: []string{"fetch a token for kafka.sasl", "authority that is not trusted", "kafka.sasl.token_ca_file"},
			run: []string{silent, "authority that is not trusted", "kafka.sasl.token_ca_file"},
		},
		{
			name: "Kafka, expired tokens from the token endpoint", env: fetched(s.startTokens(s.signer, -time.Minute).URL),
			check: connection, says: []string{"do not accept the token of kafka.sasl", "has expired, on"}, run: []string{silent, "kafka.sasl", "has expired, on"},
		},
		{
			name: "Kafka, token endpoint of another issuer", env: fetched(s.startTokens(s.otherSigner(), time.Hour).URL),
			check: connection, says: []string{"do not accept the token of kafka.sasl", "kafka.sasl.token_url issues"}, run: []string{silent, "kafka.sasl.token_url issues"},
		},
		{
			name: "Kafka, no right to write", env: sasl(scram, "nowrite", password),
			there: true,
			check: "kafka.rights", says: []string{"kafka-acls", "Write"}, run: []string{"TOPIC_AUTHORIZATION_FAILED", "kafka-acls", "Write"}, ends: true,
		},
		{
			name: "Kafka, no right to create", env: sasl(scram, "nocreate", password),
			check: "kafka.topics", says: []string{"kafka-acls", "Create"}, run: []string{"AUTHORIZATION_FAILED", "kafka-acls", "Create"}, ends: true,
		},
		{
			name: "Kafka, no right to the transactional id", env: exactly(sasl(scram, "notransaction", password)),
			check: "kafka.transactions", says: []string{"transactional id", "kafka-acls"}, run: []string{"TRANSACTIONAL_ID_AUTHORIZATION_FAILED", "kafka-acls", "Write"}, ends: true,
		},
		{
			name: "Kafka, no right to the checkpoint's topic", env: exactly(sasl(scram, "nocheckpoint", password)),
			check: "kafka.topics", says: []string{"tidemark.checkpoints", "kafka-acls"}, run: []string{"AUTHORIZATION_FAILED", "tidemark.checkpoints", "kafka-acls"}, ends: true,
		},
	}
}
