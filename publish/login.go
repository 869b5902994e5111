package publish

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
)

// hinted is an error that says what to do about it.
type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() + ": " + h.hint }
func (h *hinted) Unwrap() error { return h.err }

// Hint is what to do about it, the end of its text.
func (h *hinted) Hint() string { return h.hint }

// ConnectHint takes apart what kept us from a broker: what happened, and what a person can do about it, which is never "".
func ConnectHint(err error) (problem, hint string) {
	problem = err.Error()
	if h, ok := errors.AsType[*hinted](err); ok {
		return strings.TrimSuffix(problem, ": "+h.hint), h.hint
	}
	says := func(text string) bool { return strings.Contains(problem, text) }
	_, cutOff := errors.AsType[*kgo.ErrFirstReadEOF](err)
	switch {
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return problem, "check kafka.sasl: mechanism, username and password"
	case errors.Is(err, kerr.UnsupportedSaslMechanism):
		return problem, "the brokers do not offer this kafka.sasl.mechanism on this port; set one that they do"
	case errors.Is(err, kerr.IllegalSaslState):
		return problem, "this port of the brokers takes no SASL: clear kafka.sasl.mechanism, or use the port that does"
	case says("a tls alert record"):
		return problem, "this port speaks TLS: set kafka.tls.enabled: true"
	case says("certificate"), says("tls:"):
		return problem, "check kafka.tls"
	case says("no such host"):
		return problem, "check the host names in kafka.brokers"
	case says("invalid large response size"):
		return problem, "what answers there is no Kafka broker: check the ports in kafka.brokers"
	case cutOff, says("EOF"):
		return problem, "the port hangs up at once: check whether it wants TLS (kafka.tls.enabled), none, or a login (kafka.sasl)"
	default:
		return problem, "check kafka.brokers, that the brokers are up, and that no firewall is between"
	}
}

// bearer logs in with a token, and says why the brokers do not take it.
type bearer struct {
	sasl.Mechanism
	token      func(context.Context) (string, error)
	extensions map[string]string
	refused    func(token string) (hint string) // called where the brokers did not take that
}

func newBearer(s *SASL) *bearer {
	b := &bearer{
		token:      func(context.Context) (string, error) { return s.Token() },
		extensions: s.Extensions,
		refused: func(string) string {
			return "get another token: one that has not expired, of an issuer and for an audience that the brokers accept"
		},
	}
	if e := s.Endpoint; e != nil {
		b.token = e.token
		b.refused = func(token string) string {
			e.forget(token)
			return "have the brokers accept what kafka.sasl.token_url issues (issuer, audience, keys), or ask it for another scope with kafka.sasl.scope"
		}
	}
	b.Mechanism = oauth.Oauth(b.login)
	return b
}

// login returns what is sent to the brokers.
func (b *bearer) login(ctx context.Context) (oauth.Auth, error) {
	text, err := b.token(ctx)
	return oauth.Auth{Token: text, Extensions: b.extensions}, err
}

// Authenticate begins a login.
func (b *bearer) Authenticate(ctx context.Context, host string) (sasl.Session, []byte, error) {
	auth, err := b.login(ctx)
	if err != nil {
		return nil, nil, err
	}
	session, first, err := auth.AsMechanism().Authenticate(ctx, host)
	if err != nil {
		return nil, nil, err
	}
	return bearerSession{session, auth.Token, b.refused}, first, nil
}

type bearerSession struct {
	sasl.Session
	token   string
	refused func(token string) (hint string)
}

// Challenge takes the brokers' answer, which is empty if they take the token (RFC 7628, 3.2.3).
func (s bearerSession) Challenge(answer []byte) (bool, []byte, error) {
	if len(answer) == 0 {
		return s.Session.Challenge(answer)
	}
	hint := s.refused(s.token)
	if at, ok := expiry(s.token); ok && time.Now().After(at) {
		hint = fmt.Sprintf("the token has expired, on %s: get another one", at.UTC().Format(time.RFC3339))
	}
	return false, nil, &hinted{fmt.Errorf("the brokers do not accept the token of kafka.sasl: %q", answer), hint}
}

// expiry is when a JSON Web Token expires; ok is false for another kind of token, or one that does not say.
func expiry(token string) (at time.Time, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	claims, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return time.Time{}, false
	}
	var c struct {
		Exp float64 `json:"exp"`
	}
	if json.Unmarshal(claims, &c) != nil || c.Exp <= 0 {
		return time.Time{}, false
	}
	return time.Unix(int64(c.Exp), 0), true
}

// forbidden adds to the answer of a broker what would allow it.
func forbidden(err error, topic string) error {
	if !errors.Is(err, kerr.TopicAuthorizationFailed) {
		return err
	}
	return &hinted{err, "let the Kafka user write and describe it: kafka-acls --add --operation Write --operation Describe --topic " + topic + " --allow-principal User:NAME"}
}

// mayNotCreate does the same for a topic that is to be created.
func mayNotCreate(err error, topic string) error {
	if !errors.Is(err, kerr.TopicAuthorizationFailed) && !errors.Is(err, kerr.ClusterAuthorizationFailed) {
		return err
	}
	return &hinted{err, "create it, or let the Kafka user: kafka-acls --add --operation Create --topic " + topic + " --allow-principal User:NAME"}
}
