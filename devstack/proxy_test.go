package devstack_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tidemark/tidemark/devstack"
)

// echo is a server that sends back what it gets, and says when a connection of it has ended.
type echo struct {
	address string
	ended   chan error
}

func startEcho(t *testing.T) *echo {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{address: listener.Addr().String(), ended: make(chan error, 1000)}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				_, err := io.Copy(conn, conn)
				e.ended <- errors.Join(err, conn.Close())
			})
		}
	})
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		tasks.Wait() // the proxy, closed before, has ended the connections
	})
	return e
}

func startProxy(t *testing.T, upstream string) *devstack.Proxy {
	t.Helper()
	proxy, err := devstack.StartProxy(t.Context(), upstream)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(proxy.Close(), proxy.Close()); err != nil {
			t.Error(err)
		}
	})
	return proxy
}

func dial(t *testing.T, proxy *devstack.Proxy) net.Conn {
	t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", proxy.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ask sends a line and returns what comes back within the time.
func ask(conn net.Conn, within time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err
	}
	answer := make([]byte, 5)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if string(answer) != "hello" {
		return errors.New("the answer is " + string(answer))
	}
	return nil
}

const (
	patience = time.Minute            // for what happens
	silence  = 200 * time.Millisecond // for what must not
)

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestProxyPassesBytesAndTheEnd(t *testing.T) {
	t.Parallel()
	server := startEcho(t)
	conn, ok := dial(t, startProxy(t, server.address)).(*net.TCPConn)
	if !ok {
		t.Fatal("no TCP connection")
	}
	sent := make([]byte, 5<<20)
	for i := range sent {
		sent[i] = byte(rand.IntN(256))
	}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() {
		if _, err := conn.Write(sent); err != nil {
			t.Error(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes sent, %d came back, %v", len(sent), len(got), err)
	}
	if err := <-server.ended; err != nil {
		t.Error(err)
	}
}

func TestProxyDelaysBothDirections(t *testing.T) {
	t.Parallel()
	proxy := startProxy(t, startEcho(t).address)
	conn := dial(t, proxy)
	proxy.Latency(50 * time.Millisecond)
	started := time.Now()
	if err := ask(conn, patience); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took < 100*time.Millisecond {
		t.Errorf("there and back took %v", took)
	}
	if err := proxy.Restore(); err != nil {
		t.Fatal(err)
	}
	if err := ask(conn, patience); err != nil {
		t.Errorf("the connection did not survive: %v", err)
	}
}

func TestProxyCutEndsConnectionsAndRefusesNewOnes(t *testing.T) {
	t.Parallel()
	server := startEcho(t)
	proxy := startProxy(t, server.address)
	conn := dial(t, proxy)
	if err := ask(conn, patience); err != nil {
		t.Fatal(err)
	}
	proxy.Cut()
	if err := <-server.ended; err != nil {
		t.Errorf("the server saw %v", err)
	}
	if err := ask(conn, patience); err == nil || isTimeout(err) {
		t.Errorf("an open connection: %v", err)
	}
	var dialer net.Dialer
	if _, err := dialer.DialContext(t.Context(), "tcp", proxy.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a new connection: %v", err)
	}
	if err := proxy.Restore(); err != nil {
		t.Fatal(err)
	}
	if err := ask(dial(t, proxy), patience); err != nil {
		t.Error(err)
	}
}

func TestProxyBlackholeIsSilentAndRestoreEndsWhatLostBytes(t *testing.T) {
	t.Parallel()
	server := startEcho(t)
	proxy := startProxy(t, server.address)
	idle, busy := dial(t, proxy), dial(t, proxy)
	for _, conn := range []net.Conn{idle, busy} {
		if err := ask(conn, patience); err != nil {
			t.Fatal(err)
		}
	}
	proxy.Blackhole()
	fresh, gone := dial(t, proxy), dial(t, proxy)
	for _, conn := range []net.Conn{busy, fresh} {
		if err := ask(conn, silence); !isTimeout(err) {
			t.Errorf("in a black hole: %v", err)
		}
	}
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-server.ended:
		t.Errorf("the server heard of an end: %v", err)
	case <-time.After(silence):
	}
	if err := proxy.Restore(); err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{busy, fresh} {
		if err := ask(conn, patience); err == nil || isTimeout(err) {
			t.Errorf("a connection that lost bytes goes on: %v", err)
		}
	}
	if err := ask(idle, patience); err != nil {
		t.Errorf("a connection that lost nothing: %v", err)
	}
}

func TestProxyResetsOpenConnectionsOnBothSides(t *testing.T) {
	t.Parallel()
	server := startEcho(t)
	proxy := startProxy(t, server.address)
	conn := dial(t, proxy)
	if err := ask(conn, patience); err != nil {
		t.Fatal(err)
	}
	proxy.ResetPeer()
	if err := <-server.ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server saw %v", err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client saw %v", err)
	}
	if err := ask(dial(t, proxy), patience); err != nil {
		t.Errorf("a new connection: %v", err)
	}
}

func TestProxyIsRedirected(t *testing.T) {
	t.Parallel()
	proxy := startProxy(t, "")
	if err := ask(dial(t, proxy), patience); err == nil || isTimeout(err) {
		t.Errorf("without upstream: %v", err)
	}
	proxy.Redirect(startEcho(t).address)
	if err := ask(dial(t, proxy), patience); err != nil {
		t.Error(err)
	}
}

// What toxiproxy does not survive: changes under load. Goroutines that are left fail the run (goleak in TestMain).
func TestProxySurvivesChangesUnderLoad(t *testing.T) {
	t.Parallel()
	proxy := startProxy(t, startEcho(t).address)
	var clients sync.WaitGroup
	defer clients.Wait()
	stop := make(chan struct{})
	defer close(stop)
	block := make([]byte, 64<<10)
	for range 8 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var dialer net.Dialer
				conn, err := dialer.DialContext(t.Context(), "tcp", proxy.Addr())
				if err != nil {
					continue
				}
				_ = conn.SetDeadline(time.Now().Add(20 * time.Millisecond))
				var reader sync.WaitGroup
				reader.Go(func() { _, _ = io.Copy(io.Discard, conn) })
				for err == nil {
					_, err = conn.Write(block)
				}
				_ = conn.Close()
				reader.Wait()
			}
		})
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	changes := []func(){
		func() { proxy.Latency(time.Millisecond) }, proxy.Blackhole, proxy.ResetPeer, proxy.Cut,
		func() {
			if err := proxy.Restore(); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		},
	}
	tick := time.NewTicker(2 * time.Millisecond) // for data to flow between two changes
	defer tick.Stop()
	for range 300 {
		changes[random.IntN(len(changes))]()
		<-tick.C
	}
	if err := proxy.Restore(); err != nil {
		t.Fatal(err)
	}
	if err := ask(dial(t, proxy), patience); err != nil {
		t.Errorf("seed %d: afterwards: %v", seed, err)
	}
}
