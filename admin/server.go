// Package admin serves what an operator and a monitoring system ask of a running relay over HTTP. It knows the relay
// only through the functions that it is given.
package admin

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
)

// Options are what the server answers from. The functions that return a value return what becomes the answer's JSON; an
// error of type *Error chooses the status. Several goroutines call them, with a context that ends with the request or
// after a while. One that is nil is answered with 501.
type Options struct {
	Listen string // host:port
	Token  string // what a request that changes something has to carry; "" refuses all of them
	// TLS is the server's side of HTTPS; nil: HTTP.
	TLS      *tls.Config
	Ready    func() error
	Status   func() any // what /api/status answers; asks nobody
	Gatherer prometheus.Gatherer

	Event            func(ctx context.Context, id string) (any, error) // where the event of that id is, as `receipt --json`
	Parked           func(ctx context.Context) (any, error)            // as `parked list --json`
	Release, Discard func(ctx context.Context, id string) error
	Replay           func(ctx context.Context, request json.RawMessage) (any, error)
	Doctor           func(ctx context.Context) (any, error) // as `doctor --json`
	// ParkedEvent is as `parked show --json`. The payload is for who has the token.
	ParkedEvent func(ctx context.Context, id string, payload bool) (any, error)
	// Live returns, for one viewer, a function that returns what is new for that one since its last call. It asks nobody.
	Live func() (next func() any)

	Log zerolog.Logger
}

// Server is a listening server.
type Server struct {
	options  Options
	listener net.Listener
	turns    chan struct{} // holds a token for each request that is being answered by asking others
	viewers  chan struct{} // and one for each page that is open
}

// Listen opens the address, so that a port that is taken is known before anything else begins.
func Listen(ctx context.Context, o Options) (*Server, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for HTTP: %w: set http.listen to a free address, or to \"\" for none", err)
	}
	if !isLoopback(listener.Addr()) {
		warning := "HTTP can be reached from other hosts: whoever gets there reads positions, topics, keys and metrics, and no payloads"
		if o.TLS == nil {
			warning += "; it is not encrypted, the token neither (http.tls)"
		}
		o.Log.Warn().Stringer("listen", listener.Addr()).Msg(warning)
	}
	return &Server{o, listener, make(chan struct{}, atOnce), make(chan struct{}, mostLive)}, nil
}

// Addr returns the address that is listened on.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// writeLimit is how long an answer may take that asks nobody.
const writeLimit = 30 * time.Second

// Serve answers until ctx is done, which is no error.
func (s *Server) Serve(ctx context.Context) error {
	server := &http.Server{
		Handler:           s.handler(),
		ErrorLog:          log.New(io.Discard, "", 0), // what strangers do to a handshake is no news
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: writeLimit, IdleTimeout: time.Minute,
		MaxHeaderBytes: 64 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	var err error
	if s.options.TLS != nil {
		server.TLSConfig = s.options.TLS.Clone()
		err = server.ServeTLS(s.listener, "", "")
	} else {
		err = server.Serve(s.listener)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve HTTP: %w", err)
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { s.text(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.options.Ready(); err != nil {
			s.text(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		s.text(w, http.StatusOK, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.options.Gatherer, promhttp.HandlerOpts{}))
	s.api(mux)
	s.page(mux)
	return s.guarded(mux)
}

func (s *Server) text(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	if _, err := fmt.Fprintln(w, text); err != nil {
		s.options.Log.Debug().Err(err).Msg("answer not written")
	}
}
