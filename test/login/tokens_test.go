package login_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/test/trial"
)

// tokens is an OAuth 2 token endpoint with one client, relay, which may have the scope kafka.
type tokens struct {
	*httptest.Server
	given atomic.Int64
}

// startTokens starts one whose tokens are signed by key and valid for as long as given.
func (s *servers) startTokens(key *ecdsa.PrivateKey, valid time.Duration) *tokens {
	s.t.Helper()
	served, err := s.ours.ServerTLS()
	s.must(err)
	pair, err := tls.X509KeyPair(served.Certificate, served.Key)
	s.must(err)
	e := &tokens{}
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := func(status int, body map[string]any) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(body) // the client says what it has not got
		}
		id, secret, _ := r.BasicAuth()
		switch {
		case r.ParseForm() != nil || r.PostForm.Get("grant_type") != "client_credentials":
			answer(http.StatusBadRequest, map[string]any{"error": "unsupported_grant_type"})
		case id != "relay" || secret != password:
			answer(http.StatusUnauthorized, map[string]any{"error": "invalid_client", "error_description": "not one of our clients"})
		case r.PostForm.Get("scope") != "kafka":
			answer(http.StatusBadRequest, map[string]any{"error": "invalid_scope"})
		default:
			token, err := sign(key, valid)
			if err != nil {
				answer(http.StatusInternalServerError, map[string]any{"error": err.Error()})
				return
			}
			e.given.Add(1)
			answer(http.StatusOK, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": int(valid.Seconds())})
		}
	}))
	e.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	e.StartTLS()
	s.t.Cleanup(e.Close)
	return e
}

// renewTokens has a relay whose sessions end with tokens that are soon over: it goes on publishing with the next ones.
func (s *servers) renewTokens(t *testing.T) {
	t.Helper()
	const number = 3000
	const valid = 5 * time.Second
	endpoint := s.startTokens(s.signer, valid)
	ca := s.file("tokens-ca.crt", s.ours.Certificate())
	c := s.config(number, &login{env: []string{
		"TIDEMARK_KAFKA_BROKERS", strings.Join(s.kafka.BrokersAt(devstack.ListenerSASL), ","), "TIDEMARK_KAFKA_TLS_ENABLED", "true", "TIDEMARK_KAFKA_TLS_CA_FILE", ca,
		"TIDEMARK_KAFKA_SASL_MECHANISM", "OAUTHBEARER", "TIDEMARK_KAFKA_SASL_TOKEN_URL", endpoint.URL, "TIDEMARK_KAFKA_SASL_CLIENT_ID", "relay",
		"TIDEMARK_KAFKA_SASL_CLIENT_SECRET", password, "TIDEMARK_KAFKA_SASL_SCOPE", "kafka", "TIDEMARK_KAFKA_SASL_TOKEN_CA_FILE", ca,
	}})
	r, err := trial.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Kill() //nolint:errcheck // it has ended, or the test has failed
	if err := r.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := endpoint.given.Load()
	written := 0
	await := func(what string, ok func() bool) {
		t.Helper()
		if err := trial.Await(t.Context(), what, 2*time.Minute, func() (bool, error) { return ok(), nil }); err != nil {
			t.Fatalf("%v; its log:\n%s", err, r.Log())
		}
	}
	await("the third token more is given", func() bool {
		s.exec("insert into outbox (id, aggregatetype, aggregateid, type, payload) values (gen_random_uuid(), 'renewed', '1', 'Placed', '{}')")
		written++
		return endpoint.given.Load() >= first+3
	})
	await("what was written meanwhile arrives", func() bool { return s.records(t, prefix(number)+"renewed") >= int64(written) })
	if status, err := r.Stop(time.Minute); err != nil || status != 0 {
		t.Errorf("exit status %d, %v", status, err)
	}
	if strings.Contains(r.Log(), `"level":"error"`) {
		t.Errorf("its log:\n%s", r.Log())
	}
}
