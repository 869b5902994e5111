package devstack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

const (
	// proxyDialLimit is how long a connection to upstream may take to open.
	proxyDialLimit = 10 * time.Second
	// proxyQueue is how many reads may wait for their delay, in each direction of a connection; with proxyReadBytes
	// it is the memory that a slow reader can cost.
	proxyQueue     = 128
	proxyReadBytes = 32 << 10
)

// Proxy is a TCP proxy on 127.0.0.1 that breaks what passes through it: Latency, Blackhole and Cut hold, for open and for
// new connections, until Restore undoes them all; ResetPeer happens once. Its methods may be called by any goroutine.
//
// It is our own because toxiproxy (v2.5.0), used in a process, does not survive load. When 20 busy connections are cut, some
// of their goroutines stay blocked for ever; and taking a latency away while clients come and go stalls for 5 s a chunk,
// with the lock held that every other change needs. Nor can it reset a connection that is open already.
type Proxy struct {
	port  int
	tasks sync.WaitGroup // every goroutine of the proxy

	mu       sync.Mutex
	upstream string
	listener net.Listener // nil while cut
	links    map[*link]struct{}
	latency  time.Duration
	swallow  bool
	closed   bool
}

// link is a client's connection and the one that was opened to upstream for it. Proxy.mu guards it.
type link struct {
	cancel   context.CancelFunc
	client   net.Conn
	server   net.Conn // nil until it is open
	lost     bool     // bytes of it were swallowed: what came after them would be read as something else
	finished int      // directions that have come to their orderly end
	ended    bool
}

// StartProxy listens on a port of 127.0.0.1 and passes connections on to upstream, host:port. While upstream is "", which
// Redirect can change, clients are disconnected at once; so a server that must know the proxy's port can be started after it.
// ctx limits the start alone.
func StartProxy(ctx context.Context, upstream string) (*Proxy, error) {
	p := &Proxy{upstream: upstream, links: make(map[*link]struct{})}
	var err error
	for range 10 {
		if p.port, err = freePort(ctx); err != nil {
			return nil, err
		}
		if err = p.listen(); err == nil {
			return p, nil
		}
	}
	return nil, err
}

// listen starts to accept clients. The caller holds mu, or has the only reference.
func (p *Proxy) listen() error {
	ctx := context.Background() //nolint:forbidigo // what is started here ends with Cut or Close, not with a caller
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", p.Addr())
	if err != nil {
		return fmt.Errorf("listen for the proxy's clients: %w", err)
	}
	p.listener = listener
	p.tasks.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // closed by Cut or Close; nothing else ends a listener on the loopback address
			}
			p.tasks.Go(func() { p.serve(ctx, client) })
		}
	})
	return nil
}

// serve is the life of one link.
func (p *Proxy) serve(ctx context.Context, client net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &link{cancel: cancel, client: client}
	upstream, ok := p.admit(l)
	if !ok {
		_ = client.Close()
		return
	}
	var dialer net.Dialer
	dial, stop := context.WithTimeout(ctx, proxyDialLimit)
	server, err := dialer.DialContext(dial, "tcp", upstream)
	stop()
	if err != nil {
		p.end(l, false)
		return
	}
	p.mu.Lock()
	if l.ended {
		p.mu.Unlock()
		_ = server.Close()
		return
	}
	l.server = server
	p.mu.Unlock()
	p.tasks.Go(func() { p.pump(ctx, l, server, client) })
	p.pump(ctx, l, client, server)
	<-ctx.Done() // only end cancels it
}

// admit registers the link and says where it leads to, or that the client is to be turned away.
func (p *Proxy) admit(l *link) (upstream string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.listener == nil || p.upstream == "" {
		return "", false
	}
	p.links[l] = struct{}{}
	return p.upstream, true
}

// end closes both connections of a link: with reset by RST, which a peer sees as "connection reset", not as an end.
func (p *Proxy) end(l *link, reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLocked(l, reset)
}

func (p *Proxy) endLocked(l *link, reset bool) {
	if l.ended {
		return
	}
	l.ended = true
	delete(p.links, l)
	l.cancel()
	for _, conn := range []net.Conn{l.client, l.server} {
		if conn == nil {
			continue
		}
		if tcp, ok := conn.(*net.TCPConn); ok && reset {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}

// chunk is what one read returned, and when it is to go on. Its last one has no bytes.
type chunk struct {
	bytes []byte
	due   time.Time
}

// pump passes on one direction of a link until ctx or the sender ends it.
func (p *Proxy) pump(ctx context.Context, l *link, from, to net.Conn) {
	queue := make(chan chunk, proxyQueue)
	p.tasks.Go(func() { p.receive(ctx, l, from, queue) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var next chunk
		select {
		case next = <-queue:
		case <-ctx.Done():
			return
		}
		if wait := time.Until(next.due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		}
		if p.swallows(l) {
			if len(next.bytes) == 0 {
				return // the other side is not to hear of the end either
			}
			continue
		}
		if len(next.bytes) == 0 {
			p.finish(l, to)
			return
		}
		if _, err := to.Write(next.bytes); err != nil {
			p.end(l, true)
			return
		}
	}
}

// receive reads what pump passes on.
func (p *Proxy) receive(ctx context.Context, l *link, from net.Conn, queue chan<- chunk) {
	buffer := make([]byte, proxyReadBytes)
	for {
		n, err := from.Read(buffer)
		if err != nil && !errors.Is(err, io.EOF) {
			if !p.swallows(l) {
				p.end(l, true)
			}
			return
		}
		select {
		case queue <- chunk{bytes: bytes.Clone(buffer[:n]), due: time.Now().Add(p.delay())}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) delay() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.latency
}

// swallows says whether what arrives on l is to be dropped, and marks l if so.
func (p *Proxy) swallows(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.lost = l.lost || p.swallow
	return p.swallow
}

// finish passes on the orderly end of one direction. The other one may go on.
func (p *Proxy) finish(l *link, to net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if tcp, ok := to.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	if l.finished++; l.finished == 2 {
		p.endLocked(l, false)
	}
}

// Addr is where the proxy listens, host:port. It stays the same.
func (p *Proxy) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)) }

// Port is the port of Addr.
func (p *Proxy) Port() int { return p.port }

// Redirect leads new connections to another upstream; open ones stay.
func (p *Proxy) Redirect(upstream string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.upstream = upstream
}

// Latency delays what passes by d, in each direction. What is under way keeps its delay.
func (p *Proxy) Latency(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latency = d
}

// Blackhole lets connections stay open, and new ones be opened, and swallows what is sent on them in both directions, their
// end too: the peer looks idle, as when its machine has lost power. Restore ends the connections that have lost something.
func (p *Proxy) Blackhole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swallow = true
}

// ResetPeer ends all open connections by RST, on both sides. New ones are not affected.
func (p *Proxy) ResetPeer() { p.endAll(true) }

// Cut ends all open connections in order and refuses new ones.
func (p *Proxy) Cut() {
	p.mu.Lock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	p.mu.Unlock()
	p.endAll(false)
}

func (p *Proxy) endAll(reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		p.endLocked(l, reset)
	}
}

// Restore undoes Latency, Blackhole and Cut. An error means that the port has been taken meanwhile.
func (p *Proxy) Restore() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("restore proxy: %w", ErrClosed)
	}
	p.latency, p.swallow = 0, false
	for l := range p.links {
		if l.lost {
			p.endLocked(l, true)
		}
	}
	if p.listener == nil {
		return p.listen()
	}
	return nil
}

// Close ends all connections and waits until nothing of the proxy runs. It may be called twice; the error is always nil.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Cut()
	p.tasks.Wait()
	return nil
}
