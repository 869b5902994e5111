package admin

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// files are the page: no build step, and nothing from elsewhere.
//
//go:embed page
var files embed.FS

// page adds the page and what it lives on.
func (s *Server) page(mux *http.ServeMux) {
	for path, file := range map[string][2]string{
		"/{$}": {"index.html", "text/html"}, "/page.css": {"page.css", "text/css"}, "/page.js": {"page.js", "text/javascript"},
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			text, err := files.ReadFile("page/" + file[0])
			if err != nil { // never: it is built in
				s.refuse(w, &Error{http.StatusInternalServerError, err})
				return
			}
			w.Header().Set("Content-Type", file[1]+"; charset=utf-8")
			w.Header().Set("Cache-Control", "no-cache") // another version of tidemark may answer next
			if _, err := w.Write(text); err != nil {
				s.options.Log.Debug().Err(err).Msg("answer not written")
			}
		})
	}
	mux.HandleFunc("GET /api/live", s.live)
}

const (
	liveEvery  = time.Second
	liveLimit  = 10 * time.Second // for one message to a viewer
	mostLive   = 16               // viewers
	reconnects = 2 * time.Second  // after which a viewer that was cut off comes back
)

// live sends what Options.Live returns, once a second, as server-sent events, until the viewer goes away.
func (s *Server) live(w http.ResponseWriter, r *http.Request) {
	if s.options.Live == nil {
		s.refuse(w, &Error{http.StatusNotImplemented, errors.New("this process does not offer that: " + r.URL.Path)})
		return
	}
	select {
	case s.viewers <- struct{}{}:
		defer func() { <-s.viewers }()
	default:
		s.refuse(w, &Error{http.StatusServiceUnavailable, fmt.Errorf("%d pages are open already: close one", mostLive)})
		return
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // nothing more is read; the server's deadline would end the request
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy that gathers would make it late
	next := s.options.Live()
	ticker := time.NewTicker(liveEvery)
	defer ticker.Stop()
	for preface := fmt.Sprintf("retry: %d\n", reconnects.Milliseconds()); ; preface = "" {
		text, err := json.Marshal(next())
		if err != nil {
			s.options.Log.Error().Err(err).Msg("what is live cannot be written as JSON")
			return
		}
		_ = control.SetWriteDeadline(time.Now().Add(liveLimit))
		if _, err = fmt.Fprintf(w, "%sdata: %s\n\n", preface, text); err == nil {
			err = control.Flush()
		}
		if err != nil { // the viewer is gone
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
	}
}

// guarded lets the page do what it has to and nothing else, and answers to names that are its own.
func (s *Server) guarded(next http.Handler) http.Handler {
	loopback := isLoopback(s.listener.Addr())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "+
			"base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if loopback && !ownName(r.Host) {
			s.refuse(w, &Error{http.StatusMisdirectedRequest, fmt.Errorf("the name %q is not answered to, so that no page of another site can read this one; "+
				"use localhost or an IP address, or set http.listen to an address that others can reach", r.Host)})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func isLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// ownName reports whether a Host header cannot be a name that somebody else has led here: an address, or localhost.
func ownName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	return net.ParseIP(strings.Trim(host, "[]")) != nil || host == "localhost" || strings.HasSuffix(host, ".localhost")
}
