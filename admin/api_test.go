package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// serve starts a server of these options and returns its address.
func serve(t *testing.T, o Options) string {
	t.Helper()
	o.Listen, o.Log = "127.0.0.1:0", zerolog.Nop()
	if o.Gatherer == nil {
		o.Gatherer = prometheus.NewRegistry()
	}
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
	if o.Status == nil {
		o.Status = func() any { return struct{}{} }
	}
	server, err := Listen(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return server.Addr()
}

// ask sends a request and returns the status and the body.
func ask(t *testing.T, method, url, body string, header http.Header) (int, string, http.Header) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header
	if host := header.Get("Host"); host != "" {
		request.Host = host
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // read to its end
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, strings.TrimSpace(string(text)), response.Header
}

func bearer(token string) http.Header { return http.Header{"Authorization": {token}} }

func TestNothingIsChangedWithoutTheToken(t *testing.T) {
	var changed []string
	change := func(_ context.Context, id string) error { changed = append(changed, id); return nil }
	options := Options{
		Token: "s3cret", Release: change, Discard: change,
		Replay: func(_ context.Context, request json.RawMessage) (any, error) {
			changed = append(changed, string(request))
			return request, nil
		},
	}
	closed := options
	closed.Token = ""
	addr, closedAddr := serve(t, options), serve(t, closed)
	for _, path := range []string{"/api/parked/5f2c/release", "/api/parked/5f2c/discard", "/api/replay"} {
		tests := map[string]struct {
			addr   string
			header http.Header
			status int
			says   string
		}{
			"no token":             {addr, nil, 401, "http.token"},
			"wrong token":          {addr, bearer("Bearer secret"), 401, "http.token"},
			"empty token":          {addr, bearer("Bearer "), 401, "http.token"},
			"another scheme":       {addr, bearer("Basic s3cret"), 401, "http.token"},
			"none configured":      {closedAddr, bearer("Bearer s3cret"), 403, "set http.token"},
			"none, none given":     {closedAddr, nil, 403, "set http.token"},
			"none, an empty given": {closedAddr, bearer("Bearer "), 403, "set http.token"},
		}
		for name, test := range tests {
			status, body, _ := ask(t, http.MethodPost, "http://"+test.addr+path, "{}", test.header)
			if status != test.status || !strings.Contains(body, test.says) {
				t.Errorf("%s, %s: %d %s, want %d with %q", path, name, status, body, test.status, test.says)
			}
		}
		if status, body, _ := ask(t, http.MethodGet, "http://"+addr+path, "", bearer("Bearer s3cret")); status < 400 {
			t.Errorf("GET %s: %d %s", path, status, body)
		}
	}
	if changed != nil {
		t.Fatalf("changed without the token: %q", changed)
	}
	for _, path := range []string{"/api/parked/a%2Fb%20c/release", "/api/parked/5f2c/discard", "/api/replay"} {
		if status, body, _ := ask(t, http.MethodPost, "http://"+addr+path, `{"id":1}`, bearer("Bearer s3cret")); status != 200 {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if got := strings.Join(changed, " "); got != `a/b c 5f2c {"id":1}` {
		t.Errorf("changed with the token: %q", got)
	}
}

func TestAnErrorChoosesItsStatus(t *testing.T) {
	addr := serve(t, Options{
		Token: "s3cret",
		Event: func(_ context.Context, id string) (any, error) {
			switch id {
			case "unknown":
				return nil, &Error{404, errors.New("no such event")}
			case "broken":
				return nil, errors.New("Kafka does not answer")
			default:
				return map[string]string{"id": id}, nil
			}
		},
	})
	for _, test := range []struct {
		path   string
		status int
		body   string
	}{
		{"/api/events/5f2c", 200, `{"id":"5f2c"}`},
		{"/api/events/unknown", 404, `{"error":"no such event"}`},
		{"/api/events/broken", 502, `{"error":"Kafka does not answer"}`},
		{"/api/doctor", 501, `{"error":"this process does not offer that: /api/doctor"}`},
		{"/api/nothing", 404, `{"error":"no such path: GET /api/nothing"}`},
	} {
		status, body, header := ask(t, http.MethodGet, "http://"+addr+test.path, "", nil)
		if status != test.status || body != test.body || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s %s, want %d %s", test.path, status, body, header, test.status, test.body)
		}
	}
	if status, body, _ := ask(t, http.MethodPost, "http://"+addr+"/api/replay", "{", bearer("Bearer s3cret")); status != 501 {
		t.Errorf("replay where there is none: %d %s", status, body)
	}
}
