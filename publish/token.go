package publish

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/tidemark/tidemark/handshake"
)

// TokenEndpoint fetches tokens for OAUTHBEARER by the client credentials grant (RFC 6749, 4.4). A token is used for the
// logins of four fifths of its life: the session that it opens is not over as soon as it has begun. Any goroutine may use it.
type TokenEndpoint struct {
	URL, ClientID string
	ClientSecret  func() (string, error) // called for each fetch; what it returns may change
	Scope         string                 // with blanks between; may be empty
	CAFile        string                 // PEM, read for each fetch; "": the system's authorities

	mu      sync.Mutex // held for a fetch, which takes tokenLimit at most
	text    string     // "": there is none, or it was refused
	renewal time.Time
}

// tokenLimit bounds one fetch.
const tokenLimit = 10 * time.Second

// token returns the one that there is, or fetches another.
func (e *TokenEndpoint) token(ctx context.Context) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.text != "" && time.Now().Before(e.renewal) {
		return e.text, nil
	}
	asked := time.Now()
	got, err := e.fetch(ctx)
	if err != nil {
		return "", err
	}
	end := got.Expiry
	if at, ok := expiry(got.AccessToken); ok && (end.IsZero() || at.Before(end)) {
		end = at
	}
	e.text, e.renewal = got.AccessToken, time.Time{} // of one that does not say how long it is good, each login gets another
	if !end.IsZero() {
		e.renewal = asked.Add(end.Sub(asked) * 4 / 5)
	}
	return e.text, nil
}

// forget has the next login fetch another token than that: the brokers did not take it.
func (e *TokenEndpoint) forget(text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.text == text {
		e.text = ""
	}
}

func (e *TokenEndpoint) fetch(ctx context.Context) (*oauth2.Token, error) {
	secret, err := e.ClientSecret()
	if err != nil {
		return nil, err
	}
	trust := handshake.Client{CAFile: e.CAFile, Keys: tokenKeys()}
	config, err := trust.Config()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, DisableKeepAlives: true, ForceAttemptHTTP2: true}
	client := &http.Client{
		Transport: transport, Timeout: tokenLimit,
		// The secret is for this address alone.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	credentials := clientcredentials.Config{
		ClientID: e.ClientID, ClientSecret: secret, TokenURL: e.URL, Scopes: strings.Fields(e.Scope),
		// As Kafka's own clients do. If both ways were tried, the error would be that of the second one, whatever the first
		// had been refused for.
		AuthStyle: oauth2.AuthStyleInHeader,
	}
	got, err := credentials.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err != nil {
		return nil, e.explain(err)
	}
	return got, nil
}

func tokenKeys() handshake.Keys { return handshake.Keys{CAFile: "kafka.sasl.token_ca_file"} }

// explain says what kept us from a token. It repeats nothing of the answer but what RFC 6749, 5.2 has in it for people.
func (e *TokenEndpoint) explain(err error) error {
	problem := func(format string, args ...any) error {
		return fmt.Errorf("fetch a token for kafka.sasl from %s: "+format, append([]any{withoutPassword(e.URL)}, args...)...)
	}
	refusal, answered := errors.AsType[*oauth2.RetrieveError](err)
	if !answered {
		return e.unreachable(err, problem)
	}
	said := refusal.Response.Status
	if refusal.ErrorCode != "" {
		said += fmt.Sprintf(", %.100q", refusal.ErrorCode)
	}
	if refusal.ErrorDescription != "" {
		said += fmt.Sprintf(", %.300q", refusal.ErrorDescription)
	}
	answer := problem("it answers %s", said)
	switch code := refusal.Response.StatusCode; {
	case refusal.ErrorCode == "invalid_scope":
		return &hinted{answer, "check kafka.sasl.scope"}
	case refusal.ErrorCode == "unauthorized_client", refusal.ErrorCode == "unsupported_grant_type":
		return &hinted{answer, "let the client of kafka.sasl.client_id have tokens by the grant client_credentials"}
	case refusal.ErrorCode == "invalid_client", code == http.StatusUnauthorized, code == http.StatusForbidden:
		return &hinted{answer, "check kafka.sasl.client_id and kafka.sasl.client_secret"}
	case code >= http.StatusInternalServerError, code == http.StatusTooManyRequests:
		return &hinted{answer, "it is tried again; see that server's log if it goes on"}
	default:
		return &hinted{answer, "check that kafka.sasl.token_url is a token endpoint"}
	}
}

// unreachable explains that no answer came, or none that has a token.
func (e *TokenEndpoint) unreachable(err error, problem func(string, ...any) error) error {
	if hint := handshake.Explain(err, tokenKeys(), nil); hint != "" {
		return &hinted{problem("%w", bare(err)), hint}
	}
	_, network := errors.AsType[*net.OpError](err)
	_, name := errors.AsType[*net.DNSError](err)
	if network || name || errors.Is(err, context.DeadlineExceeded) {
		return &hinted{problem("%w", bare(err)), "check kafka.sasl.token_url, and that this host may reach it"}
	}
	return &hinted{problem("its answer has no token that can be read"), "check that kafka.sasl.token_url is a token endpoint"}
}

// bare takes the address off an error that begins with it.
func bare(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

func withoutPassword(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "kafka.sasl.token_url"
	}
	u.RawQuery = "" // somebody may have put a key there
	return u.Redacted()
}
