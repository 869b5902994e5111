package login_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/test/trial"
)

func TestMain(m *testing.M) { stacktest.Main(m) }

//nolint:gochecknoglobals // built once for all tests, when the first one asks
var built = sync.OnceValues(func() (string, error) { return trial.Build(context.Background()) })

const password = "S3cret-of-orders"

// servers are one Postgres and one Kafka that ask who comes, with what their clients need.
type servers struct {
	t              *testing.T
	binary, dir    string
	pg             *devstack.Postgres
	kafka          *devstack.Kafka
	ours, stranger *devstack.Authority // the servers know the first alone
	signer         *ecdsa.PrivateKey   // of tokens
	admin          *kadm.Client
}

func newServers(t *testing.T) *servers {
	t.Helper()
	stacktest.Require(t, "kafka", devstack.HaveKafka())
	s := &servers{t: t, dir: t.TempDir()}
	var err error
	s.binary, err = built()
	s.must(err)
	s.ours, err = devstack.NewAuthority("ours")
	s.must(err)
	s.stranger, err = devstack.NewAuthority("stranger")
	s.must(err)
	s.signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	served, err := s.ours.ServerTLS()
	s.must(err)
	certificate, key, err := s.ours.Issue(devstack.IssueOptions{Name: "postgres", Hosts: []string{"127.0.0.1"}}) // and not localhost
	s.must(err)
	var start errgroup.Group
	start.Go(func() (err error) {
		s.pg, err = devstack.StartPostgres(t.Context(), devstack.PostgresOptions{
			Settings: map[string]string{"max_replication_slots": "100", "max_wal_senders": "50"},
			TLS:      &devstack.TLS{Certificate: certificate, Key: key, CA: served.CA},
			HBA: []string{
				"hostssl all certified 127.0.0.1/32 cert",
				"hostssl all secret,nobody 127.0.0.1/32 scram-sha-256",
				"host all postgres 127.0.0.1/32 trust",
			},
		})
		return err
	})
	start.Go(func() (err error) {
		users := map[string]string{}
		for _, name := range []string{"least", "exactly", "nowrite", "nocreate", "notransaction", "nocheckpoint"} {
			users[name] = password
		}
		s.kafka, err = devstack.StartKafka(t.Context(), devstack.KafkaOptions{
			Security: &devstack.KafkaSecurity{TLS: served, Users: users, JWKS: keySet(s.signer), ACL: true},
		})
		return err
	})
	err = start.Wait()
	t.Cleanup(func() {
		if t.Failed() && s.kafka != nil && s.pg != nil {
			t.Logf("the end of the log of Kafka:\n%s\nand of Postgres:\n%s", s.kafka.Log(0), s.pg.Log())
		}
		if s.pg != nil {
			s.must(s.pg.Close())
		}
		if s.kafka != nil {
			s.must(s.kafka.Close())
		}
	})
	s.must(err)
	client, err := kgo.NewClient(kgo.SeedBrokers(s.kafka.Brokers()...), kgo.MetadataMinAge(10*time.Millisecond))
	s.must(err)
	t.Cleanup(client.Close)
	s.admin = kadm.NewClient(client)
	s.prepare()
	return s
}

func (s *servers) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// prepare makes the outbox with one row, the roles, and the rights of the users of Kafka.
func (s *servers) prepare() {
	s.t.Helper()
	s.must(s.pg.CreateDatabase(s.t.Context(), "shop"))
	s.exec(trial.OutboxSQL,
		"insert into outbox (id, aggregatetype, aggregateid, type, payload) values (gen_random_uuid(), 'order', '1', 'Placed', '{}')",
		"create publication tidemark for table outbox with (publish = 'insert')",
		"create role secret login replication password '"+password+"'",
		"create role certified login replication",
		"grant select on outbox to secret, certified")
	rights := func(user, resource, name string, operations ...kadm.ACLOperation) {
		b := kadm.NewACLs().Allow("User:" + user).AllowHosts("*").Operations(operations...)
		switch resource {
		case "topic":
			b = b.ResourcePatternType(kadm.ACLPatternPrefixed).Topics(name)
		case "transactional id":
			b = b.ResourcePatternType(kadm.ACLPatternPrefixed).TransactionalIDs(name)
		}
		created, err := s.admin.CreateACLs(s.t.Context(), b)
		s.must(err)
		for _, c := range created {
			s.must(c.Err)
		}
	}
	const topics, checkpoints, ids = "login-", "tidemark.checkpoints", "tidemark-checkpoint-"
	for _, user := range []string{"least", "exactly", "notransaction", "nocheckpoint", "orders"} {
		rights(user, "topic", topics, kadm.OpCreate, kadm.OpWrite, kadm.OpDescribe, kadm.OpRead)
	}
	rights("nocreate", "topic", topics, kadm.OpWrite, kadm.OpDescribe, kadm.OpRead)
	rights("nowrite", "topic", topics, kadm.OpCreate, kadm.OpDescribe, kadm.OpRead)
	rights("nowrite", "topic", "elsewhere", kadm.OpWrite) // lets it be an idempotent producer
	for _, user := range []string{"exactly", "notransaction"} {
		rights(user, "topic", checkpoints, kadm.OpCreate, kadm.OpWrite, kadm.OpDescribe, kadm.OpRead)
	}
	for _, user := range []string{"exactly", "nocheckpoint"} {
		rights(user, "transactional id", ids, kadm.OpWrite, kadm.OpDescribe)
	}
}

func (s *servers) exec(statements ...string) {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.pg.SocketDSN("shop"))
	s.must(err)
	defer conn.Close(context.WithoutCancel(s.t.Context())) //nolint:errcheck // everything has been said by then
	for _, sql := range statements {
		_, err := conn.Exec(s.t.Context(), sql)
		s.must(err)
	}
}

// file writes a file for clients and returns its path.
func (s *servers) file(name string, content []byte) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	s.must(os.WriteFile(path, content, 0o600))
	return path
}

// pair writes a certificate and its key.
func (s *servers) pair(file string, authority *devstack.Authority, o devstack.IssueOptions) (certificate, key string) {
	s.t.Helper()
	cert, private, err := authority.Issue(o)
	s.must(err)
	return s.file(file+".crt", cert), s.file(file+".key", private)
}

// expired is a server of either kind whose certificate has expired. Nobody gets further than that.
func (s *servers) expired() (address string) {
	s.t.Helper()
	server, err := newExpiredServer(s.t.Context(), s.ours)
	s.must(err)
	s.t.Cleanup(server.close)
	return server.listener.Addr().String()
}

// dsn is the URL of the outbox's database, with what is given in the query, key and value in turns.
func (s *servers) dsn(user, host string, query ...string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "postgres://%s@%s/shop", user, net.JoinHostPort(host, strconv.Itoa(s.pg.Port())))
	for i := 0; i < len(query); i += 2 {
		text.WriteString(map[bool]string{true: "?", false: "&"}[i == 0] + query[i] + "=" + query[i+1])
	}
	return text.String()
}

// keySet is the JSON Web Key Set with the public half of key.
func keySet(key *ecdsa.PrivateKey) []byte {
	point, err := key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		panic(err) // of a key that was just made
	}
	text, _ := json.Marshal(map[string]any{"keys": []any{map[string]string{
		"kty": "EC", "crv": "P-256", "kid": "1", "use": "sig", "alg": "ES256", "x": encode(point[1:33]), "y": encode(point[33:]),
	}}})
	return text
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// token makes one for the user least, signed by key, which is valid for as long as given.
func (s *servers) token(key *ecdsa.PrivateKey, valid time.Duration) string {
	s.t.Helper()
	text, err := sign(key, valid)
	s.must(err)
	return text
}

func sign(key *ecdsa.PrivateKey, valid time.Duration) (string, error) {
	now := time.Now()
	header, err := json.Marshal(map[string]string{"alg": "ES256", "kid": "1"})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"sub": "least", "iss": devstack.TokenIssuer, "aud": devstack.TokenAudience, "scope": "kafka",
		"iat": now.Add(-time.Hour).Unix(), "exp": now.Add(valid).Unix(),
	})
	if err != nil {
		return "", err
	}
	signed := encode(header) + "." + encode(claims)
	digest := sha256.Sum256([]byte(signed))
	r, sig, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", err
	}
	return signed + "." + encode(append(r.FillBytes(make([]byte, 32)), sig.FillBytes(make([]byte, 32))...)), nil
}

// finding is a line of `tidemark doctor --json`.
type finding struct{ Check, State, Finding, Fix string }

// doctor runs `tidemark doctor --json` and returns its lines.
func (s *servers) doctor(t *testing.T, c trial.Config) []finding {
	t.Helper()
	c.Args = []string{"doctor", "--json"}
	r, err := trial.Run(t.Context(), c, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Wait(2 * time.Minute); err != nil {
		t.Fatal(err)
	}
	var report struct{ Checks []finding }
	if err := json.Unmarshal([]byte(r.Stdout()), &report); err != nil {
		t.Fatalf("%v:\n%s\n%s", err, r.Stdout(), r.Log())
	}
	return report.Checks
}

// records counts what consumers can read in a topic, and the markers of transactions.
func (s *servers) records(t *testing.T, topic string) int64 {
	t.Helper()
	n, err := s.count(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (s *servers) count(ctx context.Context, topic string) (n int64, err error) {
	ends, err := s.admin.ListCommittedOffsets(ctx, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return 0, err
	}
	ends.Each(func(o kadm.ListedOffset) { n += o.Offset })
	return n, nil
}

func (s *servers) otherSigner() *ecdsa.PrivateKey {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	return key
}
