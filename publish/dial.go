package publish

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"time"

	"github.com/tidemark/tidemark/handshake"
)

// dialTimeout is how long a connection, with its handshake, may take.
const dialTimeout = 10 * time.Second

func (t *TLS) client() *handshake.Client {
	return &handshake.Client{
		CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile, ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify,
		Keys: handshake.Keys{CAFile: "kafka.tls.ca_file", CertFile: "kafka.tls.cert_file", KeyFile: "kafka.tls.key_file", ServerName: "kafka.tls.server_name"},
	}
}

// dialer returns what connects to a broker. It reads the certificates for each connection.
func (t *TLS) dialer(timeout time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
	files := t.client()
	plain := &net.Dialer{Timeout: cmp.Or(timeout, dialTimeout)}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		config, err := files.Config()
		if err != nil {
			return nil, err
		}
		dialer := tls.Dialer{NetDialer: plain, Config: config}
		conn, err := dialer.DialContext(ctx, network, address)
		secure := &secureConn{Conn: conn, keys: files.Keys, own: handshake.Own(config)}
		if err != nil {
			return nil, secure.explain(err)
		}
		return secure, nil
	}
}

// secureConn says what a refusal means. With TLS 1.3 a client learns what the server thinks of its certificate only when it
// reads the first answer.
type secureConn struct {
	net.Conn
	keys handshake.Keys
	own  *x509.Certificate // that we have shown; nil: none
}

func (c *secureConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		err = c.explain(err)
	}
	return n, err
}

func (c *secureConn) explain(err error) error {
	if text := handshake.Explain(err, c.keys, c.own); text != "" {
		return &hinted{err, text}
	}
	return err
}
