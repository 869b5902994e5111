package publish

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark/tidemark/devstack"
)

const clientSecret = "hunter2-of-the-client"

// endpoint serves tokens as said by answer, and counts them.
type endpoint struct {
	*httptest.Server
	asked  atomic.Int64
	answer func(w http.ResponseWriter, n int64)
}

func newEndpoint(t *testing.T, answer func(w http.ResponseWriter, n int64)) *endpoint {
	t.Helper()
	e := &endpoint{answer: answer}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := e.asked.Add(1)
		id, secret, ok := r.BasicAuth()
		if err := r.ParseForm(); err != nil || !ok || id != "relay" || secret != clientSecret || r.Form.Get("grant_type") != "client_credentials" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = fmt.Fprintf(w, `{"error":"invalid_client","error_description":"unknown client"}`)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		e.answer(w, n)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) source() *TokenEndpoint {
	return &TokenEndpoint{URL: e.URL, ClientID: "relay", ClientSecret: fixed(clientSecret), Scope: "kafka write"}
}

func mustToken(t *testing.T, e *TokenEndpoint, want string) {
	t.Helper()
	if got, err := e.token(t.Context()); err != nil || got != want {
		t.Errorf("token() = %q, %v, want %q", got, err, want)
	}
}

func TestATokenIsUsedForFourFifthsOfItsLife(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, func(w http.ResponseWriter, n int64) {
		_, _ = fmt.Fprintf(w, `{"access_token":"t%d","token_type":"Bearer","expires_in":1000}`, n)
	})
	s := e.source()
	began := time.Now()
	mustToken(t, s, "t1")
	mustToken(t, s, "t1")
	if left := s.renewal.Sub(began); left < 799*time.Second || left > 800*time.Second+time.Since(began) {
		t.Errorf("it is renewed after %v", left)
	}
	s.renewal = time.Now()
	mustToken(t, s, "t2")
	s.forget("t1") // by a login that was slow
	mustToken(t, s, "t2")
	s.forget("t2")
	mustToken(t, s, "t3")
}

// What the token says counts where that is sooner, and where the endpoint says nothing.
func TestTheLifeOfATokenIsItsOwn(t *testing.T) {
	t.Parallel()
	for _, inAnswer := range []string{"", `,"expires_in":100000`} {
		claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, time.Now().Add(1000*time.Second).Unix()))
		e := newEndpoint(t, func(w http.ResponseWriter, _ int64) {
			_, _ = fmt.Fprintf(w, `{"access_token":"x.%s.y","token_type":"Bearer"%s}`, claims, inAnswer)
		})
		s := e.source()
		mustToken(t, s, "x."+claims+".y")
		if left := time.Until(s.renewal); left < 700*time.Second || left > 801*time.Second {
			t.Errorf("with %q it is renewed after %v", inAnswer, left)
		}
	}
	e := newEndpoint(t, func(w http.ResponseWriter, n int64) {
		_, _ = fmt.Fprintf(w, `{"access_token":"opaque%d","token_type":"Bearer"}`, n)
	})
	s := e.source()
	mustToken(t, s, "opaque1")
	mustToken(t, s, "opaque2")
}

// TestWhyThereIsNoToken has each cause named with what to do, and nothing secret in it.
func TestWhyThereIsNoToken(t *testing.T) {
	t.Parallel()
	answers := func(status int, body string) func(t *testing.T) *TokenEndpoint {
		return func(t *testing.T) *TokenEndpoint {
			t.Helper()
			return newEndpoint(t, func(w http.ResponseWriter, _ int64) {
				w.WriteHeader(status)
				_, _ = w.Write([]byte(body))
			}).source()
		}
	}
	for name, test := range map[string]struct {
		source func(t *testing.T) *TokenEndpoint
		says   []string
	}{
		"nobody listens": {func(t *testing.T) *TokenEndpoint {
			t.Helper()
			e := newEndpoint(t, nil)
			e.Close()
			return e.source()
		}, []string{"connection refused", "check kafka.sasl.token_url"}},
		"no such host": {func(*testing.T) *TokenEndpoint {
			return &TokenEndpoint{URL: "https://nowhere.invalid/token", ClientID: "relay", ClientSecret: fixed(clientSecret)}
		}, []string{"nowhere.invalid", "check kafka.sasl.token_url"}},
		"a wrong secret": {func(t *testing.T) *TokenEndpoint {
			t.Helper()
			s := newEndpoint(t, nil).source()
			s.ClientSecret = fixed("guess")
			return s
		}, []string{"401", "invalid_client", "unknown client", "kafka.sasl.client_secret"}},
		"a secret that cannot be read": {func(t *testing.T) *TokenEndpoint {
			t.Helper()
			s := newEndpoint(t, nil).source()
			s.ClientSecret = func() (string, error) { return "", os.ErrNotExist }
			return s
		}, []string{"does not exist"}},
		"a wrong scope": {answers(400, `{"error":"invalid_scope"}`), []string{"400", "invalid_scope", "kafka.sasl.scope"}},
		"no such grant": {answers(400, `{"error":"unauthorized_client"}`), []string{"unauthorized_client", "client_credentials"}},
		"no endpoint":   {answers(404, `<html>`), []string{"404", "kafka.sasl.token_url is a token endpoint"}},
		"a redirect":    {answers(302, ``), []string{"302", "kafka.sasl.token_url is a token endpoint"}},
		"it is down":    {answers(503, `try later `+clientSecret), []string{"503", "tried again"}},
		"no JSON":       {answers(200, `<html>`+clientSecret), []string{"no token that can be read", "kafka.sasl.token_url is a token endpoint"}},
		"no token":      {answers(200, `{"refresh_token":"`+clientSecret+`"}`), []string{"no token that can be read", "kafka.sasl.token_url"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.source(t)
			got, err := s.token(t.Context())
			if err == nil || got != "" {
				t.Fatalf("token() = %q, %v", got, err)
			}
			for _, word := range test.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("it does not say %q: %v", word, err)
				}
			}
			if strings.Contains(err.Error(), clientSecret) || strings.Contains(err.Error(), "guess") {
				t.Errorf("it gives the secret away: %v", err)
			}
			if problem, hint := ConnectHint(err); hint == "" || problem == "" {
				t.Errorf("problem %q, hint %q", problem, hint)
			}
		})
	}
}

func TestTheTokenEndpointIsTrustedByItsAuthority(t *testing.T) {
	t.Parallel()
	ours, err := devstack.NewAuthority("ours")
	if err != nil {
		t.Fatal(err)
	}
	e := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token":"t","token_type":"Bearer","expires_in":60}`))
	}))
	defer e.Close()
	s := &TokenEndpoint{URL: e.URL, ClientID: "relay", ClientSecret: fixed(clientSecret), CAFile: filepath.Join(t.TempDir(), "ca.crt")}
	for _, test := range []struct {
		ca   []byte
		says string
	}{{ours.Certificate(), "kafka.sasl.token_ca_file"}, {[]byte("none"), "no certificate in"}} {
		if err := os.WriteFile(s.CAFile, test.ca, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.token(t.Context()); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%v does not say %q", err, test.says)
		}
	}
	if err := os.WriteFile(s.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	mustToken(t, s, "t")
}

// A token that the brokers refuse is not shown to them again, and nobody waits for an endpoint for ever.
func TestARefusedTokenIsForgotten(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, func(w http.ResponseWriter, n int64) {
		_, _ = fmt.Fprintf(w, `{"access_token":"t%d","token_type":"Bearer","expires_in":1000}`, n)
	})
	m, err := (&SASL{Mechanism: "OAUTHBEARER", Endpoint: e.source(), Extensions: map[string]string{"logicalCluster": "lkc-1"}}).mechanism()
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		session, first, err := m.Authenticate(t.Context(), "broker:9092")
		if err != nil || !strings.Contains(string(first), fmt.Sprintf("Bearer t%d\x01", max(n, 1))) || !strings.Contains(string(first), "logicalCluster=lkc-1") {
			t.Fatalf("login %d begins with %q, %v", n, first, err)
		}
		if n == 0 {
			if done, _, err := session.Challenge(nil); !done || err != nil {
				t.Errorf("taken: %v, %v", done, err)
			}
			continue
		}
		if _, _, err := session.Challenge([]byte(`{"status":"invalid_token"}`)); err == nil || !strings.Contains(err.Error(), "kafka.sasl.token_url issues") {
			t.Errorf("refused: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newEndpoint(t, nil).source().token(ctx); err == nil {
		t.Error("a token without a context")
	}
}
