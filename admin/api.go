package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
)

// Error is an error that says which HTTP status stands for it. A function of Options that returns another one has failed:
// status 502, because what it asks are other servers.
type Error struct {
	Status int
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

const (
	readLimit   = 25 * time.Second // for an answer that changes nothing
	changeLimit = 5 * time.Minute  // for one that does: a replay reads tables and writes to Kafka
	bodyLimit   = 1 << 20          // bytes of a request
	atOnce      = 4                // requests that ask other servers; the next ones wait for their turn
)

// api adds the routes that answer in JSON.
func (s *Server) api(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/status", func(w http.ResponseWriter, _ *http.Request) { s.json(w, http.StatusOK, s.options.Status()) })
	mux.HandleFunc("GET /api/events/{id}", s.answer(s.options.Event != nil, func(r *http.Request) (any, error) {
		return s.options.Event(r.Context(), r.PathValue("id"))
	}))
	mux.HandleFunc("GET /api/parked", s.answer(s.options.Parked != nil, func(r *http.Request) (any, error) { return s.options.Parked(r.Context()) }))
	show := func(payload bool) func(*http.Request) (any, error) {
		return func(r *http.Request) (any, error) {
			return s.options.ParkedEvent(r.Context(), r.PathValue("id"), payload)
		}
	}
	open, closed := s.answer(s.options.ParkedEvent != nil, show(false)), s.change(s.options.ParkedEvent != nil, show(true))
	mux.HandleFunc("GET /api/parked/{id}", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("payload") == "true" {
			closed(w, r)
			return
		}
		open(w, r)
	})
	mux.HandleFunc("GET /api/doctor", s.answer(s.options.Doctor != nil, func(r *http.Request) (any, error) { return s.options.Doctor(r.Context()) }))
	mux.HandleFunc("POST /api/parked/{id}/release", s.change(s.options.Release != nil, func(r *http.Request) (any, error) {
		return map[string]string{"released": r.PathValue("id")}, s.options.Release(r.Context(), r.PathValue("id"))
	}))
	mux.HandleFunc("POST /api/parked/{id}/discard", s.change(s.options.Discard != nil, func(r *http.Request) (any, error) {
		return map[string]string{"discarded": r.PathValue("id")}, s.options.Discard(r.Context(), r.PathValue("id"))
	}))
	mux.HandleFunc("POST /api/replay", s.change(s.options.Replay != nil, func(r *http.Request) (any, error) {
		body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, bodyLimit))
		if err != nil {
			return nil, &Error{http.StatusBadRequest, err}
		}
		if !json.Valid(body) {
			return nil, &Error{http.StatusBadRequest, errors.New("the request's body is no JSON")}
		}
		return s.options.Replay(r.Context(), body)
	}))
	mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, &Error{http.StatusNotFound, errors.New("no such path: " + r.Method + " " + r.URL.Path)})
	})
}

// answer serves what work returns. Where it is not there (nil), a relay of this configuration cannot do that.
func (s *Server) answer(there bool, work func(*http.Request) (any, error)) http.HandlerFunc {
	return s.serve(there, readLimit, work)
}

// change serves what only the holder of the token may do.
func (s *Server) change(there bool, work func(*http.Request) (any, error)) http.HandlerFunc {
	do := s.serve(there, changeLimit, work)
	return func(w http.ResponseWriter, r *http.Request) {
		if err := s.authorize(r); err != nil {
			s.refuse(w, err)
			return
		}
		do(w, r)
	}
}

func (s *Server) serve(there bool, limit time.Duration, work func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !there {
			s.refuse(w, &Error{http.StatusNotImplemented, errors.New("this process does not offer that: " + r.URL.Path)})
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		control := http.NewResponseController(w)
		_ = control.SetWriteDeadline(time.Now().Add(limit + writeLimit))
		_ = control.SetReadDeadline(time.Now().Add(limit + writeLimit)) // the server's would end ctx
		select {
		case s.turns <- struct{}{}:
			defer func() { <-s.turns }()
		case <-ctx.Done():
			s.refuse(w, &Error{http.StatusServiceUnavailable, errors.New("too many requests are under way, try again")})
			return
		}
		value, err := work(r.WithContext(ctx))
		if err != nil {
			s.refuse(w, err)
			return
		}
		s.json(w, http.StatusOK, value)
	}
}

// authorize returns nil if the request carries the token, and otherwise what to do.
func (s *Server) authorize(r *http.Request) error {
	if s.options.Token == "" {
		return &Error{http.StatusForbidden, errors.New("changes over HTTP are off: set http.token in the relay's configuration, and send it as Authorization: Bearer TOKEN")}
	}
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	// Of hashes, so that neither the text nor its length shows in the time that it takes.
	want, got := sha256.Sum256([]byte(s.options.Token)), sha256.Sum256([]byte(strings.TrimSpace(given)))
	if same := subtle.ConstantTimeCompare(want[:], got[:]) == 1; !same || !strings.EqualFold(scheme, "Bearer") {
		return &Error{http.StatusUnauthorized, errors.New("the token is missing or wrong: send http.token as Authorization: Bearer TOKEN")}
	}
	return nil
}

// refuse answers with an error, as {"error": TEXT}.
func (s *Server) refuse(w http.ResponseWriter, err error) {
	status := http.StatusBadGateway
	if known, ok := errors.AsType[*Error](err); ok {
		status = known.Status
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="tidemark"`)
	}
	s.json(w, status, map[string]string{"error": err.Error()})
}

func (s *Server) json(w http.ResponseWriter, status int, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		status, text = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be written as JSON"}`)
		s.options.Log.Error().Err(err).Msg("an answer cannot be written as JSON")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if _, err := w.Write(append(text, '\n')); err != nil {
		s.options.Log.Debug().Err(err).Msg("answer not written")
	}
}
