package login_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/test/trial"
)

// mark is in every secret here, and in nothing else.
const mark = "S3cret"

// keepSecrets runs everything with marked secrets, makes errors happen, and looks for the mark in all that comes out.
func (s *servers) keepSecrets(t *testing.T) {
	t.Helper()
	const number, httpToken = 2000, mark + "-of-http"
	bearer := s.token(s.signer, time.Hour)
	anyToken, _, _ := strings.Cut(bearer, ".") // each begins so, those of the token endpoint as well
	kafkaTLS := []string{
		"TIDEMARK_KAFKA_BROKERS", strings.Join(s.kafka.BrokersAt(devstack.ListenerSASL), ","), "TIDEMARK_KAFKA_TLS_ENABLED", "true",
		"TIDEMARK_KAFKA_TLS_CA_FILE", s.file("kept-ca.crt", s.ours.Certificate()), "TIDEMARK_HTTP_TOKEN", httpToken, "TIDEMARK_LOG_LEVEL", "debug",
	}
	dsn := func(password string) string {
		return s.dsn("secret:"+password, "127.0.0.1", "sslmode", "verify-full", "sslrootcert", s.pg.CAFile())
	}
	config := func(dsn string, more ...string) trial.Config {
		return s.config(number, &login{dsn: dsn, env: append(append([]string{}, kafkaTLS...), more...)})
	}
	plain := []string{"TIDEMARK_KAFKA_SASL_MECHANISM", "PLAIN", "TIDEMARK_KAFKA_SASL_USERNAME", "least", "TIDEMARK_KAFKA_SASL_PASSWORD", password}
	clean := func(what, text string) {
		t.Helper()
		for _, secret := range []string{mark, anyToken} {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("%s gives a secret away: %s", what, text[max(0, i-300):min(len(text), i+100)])
			}
		}
	}
	command := func(what string, c trial.Config, args ...string) {
		t.Helper()
		c.Args = args
		r, err := trial.Run(t.Context(), c, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Wait(time.Minute); err != nil {
			t.Fatal(err)
		}
		clean(what+" "+strings.Join(args, " "), r.Stdout()+r.Log())
		if r.Stdout()+r.Log() == "" {
			t.Errorf("%s says nothing", what)
		}
	}
	for _, args := range [][]string{{"config"}, {"doctor", "--json"}, {"status", "--json"}} {
		command("with everything right,", config(dsn(password), plain...), args...)
	}
	// What pgx and net/url say of a URL that they cannot read repeats it.
	for what, wrong := range map[string]string{
		"a wrong password":        dsn(password + "x"),
		"a URL that cannot be":    "postgres://secret:" + mark + "%zz@127.0.0.1:1/shop",
		"a port that cannot be":   "postgres://secret:" + mark + "@127.0.0.1:port" + "/shop",
		"a slash in the password": "postgres://secret:" + mark + "/" + mark + "@127.0.0.1:1/shop",
		"keywords with a blank":   "host=127.0.0.1 password=" + mark + " " + mark + " dbname=shop",
		"an unknown parameter":    "host=127.0.0.1 port=1 password = " + mark + " sslmode=none",
	} {
		for _, args := range [][]string{{"run", "--once"}, {"doctor", "--json"}} {
			if strings.Contains(what, "password") || args[0] == "doctor" {
				command(what+",", config(wrong, plain...), args...)
			}
		}
	}
	command("a wrong token,", config(dsn(password), "TIDEMARK_KAFKA_SASL_MECHANISM", "OAUTHBEARER", "TIDEMARK_KAFKA_SASL_TOKEN", bearer+"x"), "doctor", "--json")

	fetched := func(secret string) []string {
		return []string{
			"TIDEMARK_KAFKA_SASL_MECHANISM", "OAUTHBEARER", "TIDEMARK_KAFKA_SASL_TOKEN_URL", s.startTokens(s.signer, time.Hour).URL,
			"TIDEMARK_KAFKA_SASL_CLIENT_ID", "relay", "TIDEMARK_KAFKA_SASL_CLIENT_SECRET", secret, "TIDEMARK_KAFKA_SASL_SCOPE", "kafka",
			"TIDEMARK_KAFKA_SASL_TOKEN_CA_FILE", s.file("kept-ca.crt", s.ours.Certificate()),
		}
	}
	command("a wrong secret at the token endpoint,", config(dsn(password), fetched(password+"x")...), "doctor", "--json")
	command("a token endpoint,", config(dsn(password), fetched(password)...), "config")

	s.exec(fmt.Sprintf(`insert into outbox (id, aggregatetype, aggregateid, type, payload) values (gen_random_uuid(), 'order', '1', 'Placed', '{"card":"%s"}')`, mark))
	r, err := trial.Start(t.Context(), config(dsn(password), fetched(password)...))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Kill() //nolint:errcheck // it has ended, or the test has failed
	if err := r.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.exec("select pg_terminate_backend(pid) from pg_stat_replication where application_name = 'tidemark'")
	for _, path := range []string{"/", "/page.js", "/metrics", "/readyz", "/api/status", "/api/doctor", "/api/parked", "/api/events/x", "POST /api/replay", "POST /api/parked/1/release"} {
		method, at, ok := strings.Cut(path, " ")
		if !ok {
			method, at = http.MethodGet, path
		}
		request, err := http.NewRequestWithContext(t.Context(), method, r.URL+at, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+httpToken+"x")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close() // read to its end
		if err != nil {
			t.Fatal(err)
		}
		clean(path, string(text)+fmt.Sprint(response.Header))
	}
	http.DefaultClient.CloseIdleConnections()
	if err := r.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Wait(time.Minute); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.Log(), "goroutine ") {
		t.Errorf("no dump:\n%s", r.Log())
	}
	clean("the log, with the goroutines' dump,", r.Log())
}
