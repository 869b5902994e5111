package publish

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/handshake"
)

func nobody(*Delivery, error) {}

// Each option that is known changes the client, and only itself.
func TestSettingsReachTheClient(t *testing.T) {
	t.Parallel()
	value := func(o Options, opt any) any {
		t.Helper()
		p, err := Open(o, nobody)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		return p.client.OptValue(opt)
	}
	for name, c := range map[string]struct {
		text string
		opt  any
		want any
	}{
		"client.id":               {"outbox-7", kgo.ClientID, "outbox-7"},
		"linger.ms":               {"7", kgo.ProducerLinger, 7 * time.Millisecond},
		"request.timeout.ms":      {"7000", kgo.ProduceRequestTimeout, 7 * time.Second},
		"metadata.max.age.ms":     {"7000", kgo.MetadataMaxAge, 7 * time.Second},
		"connections.max.idle.ms": {"7000", kgo.ConnIdleTimeout, 7 * time.Second},
		"max.request.size":        {"7000000", kgo.BrokerMaxWriteBytes, int32(7000000)},
	} {
		plain := Options{Brokers: []string{"127.0.0.1:1"}}
		set := plain
		set.Settings = map[string]string{name: c.text}
		if got := value(set, c.opt); got != c.want {
			t.Errorf("%s: %s makes %v, want %v", name, c.text, got, c.want)
		}
		if got := value(plain, c.opt); got == c.want {
			t.Errorf("%s is %v without being set", name, got)
		}
	}
	plain := Options{Brokers: []string{"127.0.0.1:1"}}
	for _, c := range []struct{ opt, want any }{ // what the promises rest on
		{kgo.DisableIdempotentWrite, false},
		{kgo.RequiredAcks, kgo.AllISRAcks()},
		{kgo.StopProducerOnDataLossDetected, true},
		{kgo.ClientID, "tidemark"},
		{kgo.ProducerLinger, time.Duration(0)},
		{kgo.RecordDeliveryTimeout, time.Duration(0)},
		{kgo.UnknownTopicRetries, -1},
	} {
		if got := fmt.Sprint(value(plain, c.opt)); got != fmt.Sprint(c.want) {
			t.Errorf("%T is %v, want %v", c.opt, got, c.want)
		}
	}
}

func TestSettingsThatAreWrongAreAllNamed(t *testing.T) {
	t.Parallel()
	options := map[string]string{
		"acks": "1", "enable.idempotence": "false", "retries": "3", "delivery.timeout.ms": "1", "max.in.flight.requests.per.connection": "1",
		"partitioner.class": "x", "transactional.id": "x",
		"compression.type": "lz4", "batch.size": "1", "linger": "5", "": "",
		"linger.ms": "5ms", "request.timeout.ms": "-1", "max.request.size": "2147483648", "metadata.max.age.ms": "", "connections.max.idle.ms": "1.5",
	}
	_, err := settings(options)
	if err == nil {
		t.Fatal("all of it is let pass")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(options) {
		t.Errorf("%d problems are told, want %d:\n%v", len(lines), len(options), err)
	}
	for _, line := range lines {
		if !strings.HasPrefix(line, "kafka.options: ") {
			t.Errorf("%q does not name the key", line)
		}
	}
	for range 10 {
		if _, again := settings(options); again.Error() != err.Error() {
			t.Fatalf("the same settings are told of as\n%v\nand as\n%v", err, again)
		}
	}
	for _, want := range []string{
		"kafka.options: acks is fixed, because the delivery promises rest on it; remove it",
		"kafka.options: transactional.id is fixed",
		"kafka.options: no option linger; there are client.id, connections.max.idle.ms, linger.ms, max.request.size, metadata.max.age.ms, request.timeout.ms, transaction.timeout.ms",
		`kafka.options: linger.ms: "5ms" is no whole number in range`,
		`kafka.options: request.timeout.ms: "-1" is no whole number in range`,
		`kafka.options: max.request.size: "2147483648" is no whole number in range`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in\n%v", want, err)
		}
	}
	if _, err := Open(Options{Brokers: []string{"127.0.0.1:1"}, Settings: options}, nobody); err == nil {
		t.Error("a publisher opens with all of it")
	}
}

// Numbers that the client does not like are an error when it is opened, never a panic, then or later.
func TestSettingsOutOfTheClientsRangeAreErrors(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"linger.ms", "request.timeout.ms", "metadata.max.age.ms", "connections.max.idle.ms", "max.request.size"} {
		for _, text := range []string{"0", "1", "99", "100", "249", "250", "1000", "60000", "3600000", "100000000", "1073741824", "2147483647"} {
			p, err := Open(Options{Brokers: []string{"127.0.0.1:1"}, Settings: map[string]string{name: text}}, nobody)
			if err == nil {
				p.Close()
			} else if !strings.Contains(err.Error(), "kafka") && !strings.Contains(err.Error(), "Kafka") {
				t.Errorf("%s: %s: the error %q does not say what it is about", name, text, err)
			}
		}
	}
}

func TestOptionsThatAreWrongNameTheKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	garbage := file("garbage", "no PEM\n")
	ca := newAuthority(t)
	cert, key := ca.issue(t, dir, "client", 1)
	_, other := ca.issue(t, dir, "other", 2)
	const password = "s3cr3t"
	for name, c := range map[string]struct {
		set  func(*Options)
		says []string
	}{
		"compression":              {func(o *Options) { o.Compression = "brotli" }, []string{"kafka.compression", "brotli", "zstd"}},
		"no CA":                    {func(o *Options) { o.TLS = &TLS{CAFile: filepath.Join(dir, "none")} }, []string{"kafka.tls.ca_file", "none"}},
		"a CA that is none":        {func(o *Options) { o.TLS = &TLS{CAFile: garbage} }, []string{"kafka.tls.ca_file", garbage}},
		"no certificate":           {func(o *Options) { o.TLS = &TLS{CertFile: filepath.Join(dir, "none"), KeyFile: key} }, []string{"kafka.tls.cert_file", "none"}},
		"a certificate that isn't": {func(o *Options) { o.TLS = &TLS{CertFile: garbage, KeyFile: key} }, []string{"kafka.tls.cert_file"}},
		"no key":                   {func(o *Options) { o.TLS = &TLS{CertFile: cert} }, []string{"kafka.tls.key_file"}},
		"the key of another":       {func(o *Options) { o.TLS = &TLS{CertFile: cert, KeyFile: other} }, []string{"kafka.tls.key_file", "match"}},
		"an unknown mechanism": {
			func(o *Options) { o.SASL = &SASL{Mechanism: "GSSAPI", Username: "u", Password: fixed(password)} },
			[]string{"kafka.sasl.mechanism", "GSSAPI", "SCRAM-SHA-512"},
		},
		"no mechanism": {func(o *Options) { o.SASL = &SASL{} }, []string{"kafka.sasl.mechanism", "PLAIN"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := Options{Brokers: []string{"127.0.0.1:1"}}
			c.set(&o)
			p, err := Open(o, nobody)
			if err == nil {
				p.Close()
				t.Fatal("a publisher opens with it")
			}
			for _, part := range c.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error %q does not say %q", err, part)
				}
			}
			if strings.Contains(err.Error(), password) {
				t.Errorf("the error %q tells the password", err)
			}
		})
	}
}

func TestSASLMechanismsLogIn(t *testing.T) {
	t.Parallel()
	const user, password = "tidemark", "s3cr3t"
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			cluster := newCluster(t, kfake.EnableSASL(), kfake.Superuser(mechanism, user, password))
			login := func(s *SASL) func(*Options) { return func(o *Options) { o.SASL = s } }
			out := open(t, cluster, login(&SASL{Mechanism: mechanism, Username: user, Password: fixed(password)})).prepare("t")
			out.hand(event("t", 0, 1))
			out.mustAck(1)
			for what, s := range map[string]*SASL{
				"another password": {Mechanism: mechanism, Username: user, Password: fixed("x" + password)},
				"another user":     {Mechanism: mechanism, Username: "x" + user, Password: fixed(password)},
				"no login":         nil,
			} {
				out := open(t, cluster, login(s))
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // without a login the broker just hangs up
				err := out.Ping(ctx)
				cancel()
				if err == nil || strings.Contains(err.Error(), password) {
					t.Errorf("with %s: %v", what, err)
				}
				if d, err := out.Silence(time.Now()); d <= 0 || err == nil {
					t.Errorf("with %s: Silence() = %s, %v", what, d, err)
				}
			}
		})
	}
	m, err := (&SASL{Mechanism: "OAUTHBEARER", Token: fixed("token")}).mechanism() // the imitation does not know it
	if err != nil || m.Name() != "OAUTHBEARER" {
		t.Errorf("OAUTHBEARER: %v, %v", m, err)
	}
}

func fixed(secret string) func() (string, error) {
	return func() (string, error) { return secret, nil }
}

// A password or a token is replaced in its place, while the process runs.
func TestSecretsAreAskedForAtEachLogin(t *testing.T) {
	t.Parallel()
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"} {
		asked := 0
		secret := func() (string, error) { asked++; return "secret", nil }
		m, err := (&SASL{Mechanism: mechanism, Username: "u", Password: secret, Token: secret}).mechanism()
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, _, err := m.Authenticate(t.Context(), "broker:9092"); err != nil {
				t.Errorf("%s: %v", mechanism, err)
			}
		}
		if asked != 2 {
			t.Errorf("%s: asked %d times for 2 logins", mechanism, asked)
		}
	}
}

func TestExpiryIsThatOfAToken(t *testing.T) {
	t.Parallel()
	claims := base64.RawURLEncoding.EncodeToString([]byte(`{"exp":1700000000}`))
	for token, want := range map[string]int64{
		"x." + claims + ".y": 1700000000, "": 0, "opaque": 0, "a.b.c": 0, "a." + claims: 0, "x.e30.y": 0,
	} {
		at, ok := expiry(token)
		if ok != (want != 0) || (ok && at.Unix() != want) {
			t.Errorf("%q: %v, %v", token, at, ok)
		}
	}
}

func TestTLSIsSpokenAsConfigured(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, stranger := newAuthority(t), newAuthority(t)
	server, serverKey := ca.issue(t, dir, "127.0.0.1", 1)
	pair, err := tls.LoadX509KeyPair(server, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(ca.cert)
	cluster := newCluster(t, kfake.TLS(&tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
	}))
	caFile, strangerFile := ca.file(t, dir, "ca"), stranger.file(t, dir, "stranger")
	cert, key := ca.issue(t, dir, "client", 2)
	foreign, foreignKey := stranger.issue(t, dir, "foreign", 3)
	for name, c := range map[string]struct {
		tls  *TLS
		good bool
	}{
		"as it should be":          {&TLS{CAFile: caFile, CertFile: cert, KeyFile: key}, true},
		"by the name":              {&TLS{CAFile: caFile, CertFile: cert, KeyFile: key, ServerName: "127.0.0.1"}, true},
		"another name":             {&TLS{CAFile: caFile, CertFile: cert, KeyFile: key, ServerName: "kafka.example"}, false},
		"another CA":               {&TLS{CAFile: strangerFile, CertFile: cert, KeyFile: key}, false},
		"the system's CAs":         {&TLS{CertFile: cert, KeyFile: key}, false},
		"without looking":          {&TLS{CertFile: cert, KeyFile: key, InsecureSkipVerify: true}, true},
		"without a certificate":    {&TLS{CAFile: caFile}, false},
		"another's certificate":    {&TLS{CAFile: caFile, CertFile: foreign, KeyFile: foreignKey}, false},
		"in clear":                 {nil, false},
		"with the CA, not looking": {&TLS{CAFile: strangerFile, CertFile: cert, KeyFile: key, InsecureSkipVerify: true}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := open(t, cluster, func(o *Options) { o.TLS = c.tls })
			wait := 500 * time.Millisecond
			if c.good {
				wait = limit
			}
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			if err := out.Ping(ctx); (err == nil) != c.good {
				t.Errorf("Ping: %v, want it good: %v", err, c.good)
			}
		})
	}
}

// kafka.brokers with the port of the database is a likely mistake.
func TestAPostgresIsNoBroker(t *testing.T) {
	t.Parallel()
	postgres, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer postgres.Close() //nolint:errcheck // read to its end
	go func() {            // ends with the listener
		for {
			conn, err := postgres.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("E\x00\x00\x00\x85SFATAL\x00VFATAL\x00C0A000\x00Munsupported frontend protocol 0.18")) // to a request of Kafka's
			_ = conn.Close()
		}
	}()
	client, err := (&Options{Brokers: []string{postgres.Addr().String()}}).Client(kgo.RequestRetries(0))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	err = client.Ping(t.Context())
	if err == nil {
		t.Fatal("it answers as a broker")
	}
	if problem, hint := ConnectHint(err); !strings.Contains(hint, "no Kafka broker") {
		t.Errorf("%s: %s", problem, hint)
	}
}

// A certificate is renewed in its place, while the process runs.
func TestTLSCertificateIsReadAnewForEachConnection(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t)
	cert, key := ca.issue(t, dir, "client", 7)
	files := (&TLS{CertFile: cert, KeyFile: key}).client()
	serial := func() int64 {
		config, err := files.Config()
		if err != nil {
			t.Fatal(err)
		}
		return handshake.Own(config).SerialNumber.Int64()
	}
	if n := serial(); n != 7 {
		t.Errorf("certificate %d is shown, want 7", n)
	}
	ca.issue(t, dir, "client", 8)
	if n := serial(); n != 8 {
		t.Errorf("certificate %d is shown, want 8", n)
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if _, err := files.Config(); err == nil || !strings.Contains(err.Error(), "kafka.tls.key_file") {
		t.Errorf("without the key: %v", err)
	}
}

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	der  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, der}
}

func (a *authority) file(t *testing.T, dir, name string) string {
	t.Helper()
	return writePEM(t, filepath.Join(dir, name+".crt"), "CERTIFICATE", a.der)
}

// issue writes a certificate for name, which may be an address, and its key.
func (a *authority) issue(t *testing.T, dir, name string, serial int64) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.DNSNames, template.IPAddresses = nil, []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, filepath.Join(dir, name+".crt"), "CERTIFICATE", der), writePEM(t, filepath.Join(dir, name+".key"), "PRIVATE KEY", pkcs8)
}

func writePEM(t *testing.T, path, kind string, der []byte) string {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The authority is renewed in its place, too: each connection trusts whom the file names by then.
func TestEachConnectionReadsTheAuthority(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, second := newAuthority(t), newAuthority(t)
	served := first
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert, key := served.issue(t, dir, "127.0.0.1", 1)
			pair, err := tls.LoadX509KeyPair(cert, key)
			return &pair, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // nothing is left to be lost
	dial := (&TLS{CAFile: first.file(t, dir, "ca")}).dialer(limit)
	try := func() error {
		t.Helper()
		done := make(chan struct{})
		go func() { // ends with the connection
			defer close(done)
			if conn, err := listener.Accept(); err == nil {
				_, _ = conn.Read(make([]byte, 1)) // shakes hands, and waits for the end
				_ = conn.Close()
			}
		}()
		conn, err := dial(t.Context(), "tcp", listener.Addr().String())
		if err == nil {
			_ = conn.Close()
		}
		<-done
		return err
	}
	if err := try(); err != nil {
		t.Fatal(err)
	}
	served = second
	if err := try(); err == nil || !strings.Contains(err.Error(), "kafka.tls.ca_file") {
		t.Errorf("the server of another authority: %v", err)
	}
	second.file(t, dir, "ca")
	if err := try(); err != nil {
		t.Errorf("with its authority in the file: %v", err)
	}
}
