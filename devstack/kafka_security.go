package devstack

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// KafkaSecurity adds listeners to a broker for clients that encrypt, or log in; the one without either stays, for who sets up
// and looks on.
type KafkaSecurity struct {
	TLS   *TLS              // the brokers' certificate, and whose clients ListenerMutual takes
	Users map[string]string // names with passwords, for PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512 at ListenerSASL
	// JWKS holds the public keys of who signs the tokens for OAUTHBEARER, as a JSON Web Key Set; nil: no OAUTHBEARER.
	JWKS []byte
	// ACL has the brokers do for a client that has logged in only what an ACL allows. Who has not may do everything.
	ACL bool
}

// Listener is one of the addresses of a broker.
type Listener string

const (
	ListenerPlain  Listener = "CLIENT" // neither encrypted nor asking who it is: Brokers
	ListenerTLS    Listener = "TLS"    // encrypted
	ListenerMutual Listener = "MUTUAL" // the client shows a certificate; its common name is the user
	ListenerSASL   Listener = "SASL"   // encrypted, the client logs in with SASL
)

// TokenAudience and TokenIssuer are what a token for OAUTHBEARER must be for and from.
const (
	TokenAudience = "kafka"
	TokenIssuer   = "tidemark-devstack"
)

func secureListeners() []Listener { return []Listener{ListenerTLS, ListenerMutual, ListenerSASL} }

// BrokersAt are the addresses of that listener of the brokers, host:port. The certificate is for 127.0.0.1 and for localhost;
// brokers send clients to 127.0.0.1.
func (k *Kafka) BrokersAt(l Listener) []string {
	if l == ListenerPlain {
		return k.Brokers()
	}
	addresses := make([]string, len(k.nodes))
	for i, n := range k.nodes {
		addresses[i] = net.JoinHostPort("127.0.0.1", strconv.Itoa(n.secure[l]))
	}
	return addresses
}

// SetTLS gives the brokers another certificate from their next start on.
func (k *Kafka) SetTLS(t *TLS) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, n := range k.nodes {
		if err := n.writeTLS(t); err != nil {
			return err
		}
	}
	return nil
}

func (n *kafkaNode) keystore() string   { return filepath.Join(n.dir, "keystore.pem") }
func (n *kafkaNode) truststore() string { return filepath.Join(n.dir, "truststore.pem") }
func (n *kafkaNode) jwks() string       { return filepath.Join(n.dir, "jwks.json") }

func (n *kafkaNode) writeTLS(t *TLS) error {
	for path, content := range map[string][]byte{
		n.keystore():   slices.Concat(t.Key, t.Certificate),
		n.truststore(): t.CA,
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return fmt.Errorf("write the certificates of a broker: %w", err)
		}
	}
	return nil
}

// secureSettings returns the settings of the listeners that security adds.
func (n *kafkaNode) secureSettings(s *KafkaSecurity) (map[string]string, error) {
	if err := n.writeTLS(s.TLS); err != nil {
		return nil, err
	}
	settings := map[string]string{
		"ssl.keystore.type":                    "PEM",
		"ssl.keystore.location":                n.keystore(),
		"ssl.truststore.type":                  "PEM",
		"ssl.truststore.location":              n.truststore(),
		"listener.name.mutual.ssl.client.auth": "required",
		// CN=orders is the user orders.
		"ssl.principal.mapping.rules": "RULE:^CN=([^,]*).*$/$1/,DEFAULT",
	}
	mechanisms := []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}
	const jaas = "listener.name.sasl.%s.sasl.jaas.config"
	var users strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.Users)) {
		fmt.Fprintf(&users, " user_%s=%q", name, s.Users[name])
	}
	const module = "org.apache.kafka.common.security."
	settings[fmt.Sprintf(jaas, "plain")] = module + "plain.PlainLoginModule required" + users.String() + ";"
	for _, mechanism := range []string{"scram-sha-256", "scram-sha-512"} {
		settings[fmt.Sprintf(jaas, mechanism)] = module + "scram.ScramLoginModule required;"
	}
	if s.JWKS != nil {
		if err := os.WriteFile(n.jwks(), s.JWKS, 0o600); err != nil {
			return nil, fmt.Errorf("write the keys of tokens: %w", err)
		}
		mechanisms = append(mechanisms, "OAUTHBEARER")
		maps.Copy(settings, map[string]string{
			fmt.Sprintf(jaas, "oauthbearer"):                                     module + "oauthbearer.OAuthBearerLoginModule required;",
			"listener.name.sasl.oauthbearer.sasl.server.callback.handler.class":  module + "oauthbearer.OAuthBearerValidatorCallbackHandler",
			"listener.name.sasl.oauthbearer.sasl.oauthbearer.jwks.endpoint.url":  "file://" + n.jwks(),
			"listener.name.sasl.oauthbearer.sasl.oauthbearer.expected.audience":  TokenAudience,
			"listener.name.sasl.oauthbearer.sasl.oauthbearer.expected.issuer":    TokenIssuer,
			"listener.name.sasl.oauthbearer.sasl.oauthbearer.clock.skew.seconds": "0",
			// A session ends with its token.
			"listener.name.sasl.oauthbearer.connections.max.reauth.ms":                       "3600000",
			"listener.name.sasl.oauthbearer.sasl.oauthbearer.jwks.endpoint.refresh.ms":       "3600000",
			"listener.name.sasl.oauthbearer.sasl.oauthbearer.jwks.endpoint.retry.backoff.ms": "100",
		})
	}
	settings["listener.name.sasl.sasl.enabled.mechanisms"] = strings.Join(mechanisms, ",")
	if s.ACL {
		settings["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
		settings["super.users"] = "User:ANONYMOUS"
	}
	return settings, nil
}

// scramArguments are what makes the format tool create the users.
func (s *KafkaSecurity) scramArguments() []string {
	var args []string
	for _, name := range slices.Sorted(maps.Keys(s.Users)) {
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,iterations=4096,password=%s]", mechanism, name, s.Users[name]))
		}
	}
	return args
}

// flags are those of the virtual machine. Keys of tokens may be fetched from addresses that it is told, and from no others.
func (s *KafkaSecurity) flags(n *kafkaNode) []string {
	if s == nil || s.JWKS == nil {
		return nil
	}
	return []string{"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://" + n.jwks()}
}
