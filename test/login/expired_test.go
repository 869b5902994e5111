package login_test

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"github.com/tidemark/tidemark/devstack"
)

// expiredServer begins to speak TLS, as Kafka does at once and Postgres when it is asked to, with a certificate that has expired.
type expiredServer struct {
	listener net.Listener
	config   *tls.Config
	ctx      context.Context // of the test
	all      sync.WaitGroup
}

func newExpiredServer(ctx context.Context, authority *devstack.Authority) (*expiredServer, error) {
	certificate, key, err := authority.Issue(devstack.IssueOptions{Name: "localhost", Hosts: []string{"127.0.0.1"}, For: -time.Hour})
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &expiredServer{ctx: ctx, listener: listener, config: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}}
	s.all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.all.Go(func() { s.serve(conn) })
		}
	})
	return s, nil
}

func (s *expiredServer) serve(conn net.Conn) {
	defer conn.Close() //nolint:errcheck // nothing came of it anyway
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	first := &firstByte{Conn: conn}
	if _, err := conn.Read(first.b[:]); err != nil {
		return
	}
	if first.b[0] == 0 { // the length of Postgres's SSLRequest; a handshake begins with 22
		if _, err := conn.Read(make([]byte, 7)); err != nil {
			return
		}
		if _, err := conn.Write([]byte("S")); err != nil {
			return
		}
		first.read = true
	}
	_ = tls.Server(first, s.config).HandshakeContext(s.ctx)
}

func (s *expiredServer) close() {
	_ = s.listener.Close()
	s.all.Wait()
}

// firstByte gives back a byte that was read already.
type firstByte struct {
	net.Conn
	b    [1]byte
	read bool
}

func (c *firstByte) Read(p []byte) (int, error) {
	if c.read || len(p) == 0 {
		return c.Conn.Read(p)
	}
	c.read = true
	p[0] = c.b[0]
	return 1, nil
}
