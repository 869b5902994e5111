package cli

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

// TestProbe asks as a container's health check does: the exit status is the answer, and the reason is the relay's own.
func TestProbe(t *testing.T) {
	relay := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == readyPath {
			http.Error(w, "hot standby: the slot is held by somebody else", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n")) // the test reads it
	}))
	defer relay.Close()
	_, port, err := net.SplitHostPort(relay.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args   []string
		listen string
		status int
		says   string
	}{
		"live":                      {[]string{"status", "--live"}, "127.0.0.1:" + port, 0, "ok"},
		"live, on every address":    {[]string{"status", "--live"}, "0.0.0.0:" + port, 0, "ok"},
		"live, without a host":      {[]string{"status", "--live"}, ":" + port, 0, "ok"},
		"not ready":                 {[]string{"status", "--ready"}, "127.0.0.1:" + port, 1, "readyz: hot standby"},
		"nobody there":              {[]string{"status", "--live"}, "127.0.0.1:1", 1, "no relay answers on http.listen"},
		"turned off":                {[]string{"status", "--live"}, "", 1, "http.listen is empty"},
		"one question after all":    {[]string{"status", "--live", "--ready"}, "127.0.0.1:" + port, 2, "live ready"},
		"no server is asked beside": {[]string{"status", "--ready", "--watch"}, "127.0.0.1:" + port, 2, "ready watch"},
	} {
		t.Run(name, func(t *testing.T) {
			defaults, err := os.ReadFile("../config.yaml")
			if err != nil {
				t.Fatal(err)
			}
			var out, stderr bytes.Buffer
			status := Main(t.Context(), defaults, c.args, &out, &stderr,
				[]string{"TIDEMARK_SOURCE_DSN=postgres://nowhere.invalid/app", "TIDEMARK_HTTP_LISTEN=" + c.listen})
			if said := out.String() + stderr.String(); status != c.status || !strings.Contains(said, c.says) {
				t.Errorf("status %d, %q; want %d and %q", status, said, c.status, c.says)
			}
		})
	}
}
