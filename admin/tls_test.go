package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/handshake"
)

func TestHTTPSShowsTheCertificateThatIsInItsFile(t *testing.T) {
	t.Parallel()
	cert, key := filepath.Join(t.TempDir(), "cert"), filepath.Join(t.TempDir(), "key")
	write := func() {
		t.Helper()
		authority, err := devstack.NewAuthority("ours")
		if err != nil {
			t.Fatal(err)
		}
		certificate, private, err := authority.Issue(devstack.IssueOptions{Name: "relay", Hosts: []string{"relay.example"}})
		if err != nil {
			t.Fatal(err)
		}
		for path, text := range map[string][]byte{cert: certificate, key: private} {
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	pinned := func() *http.Client {
		t.Helper()
		config, err := handshake.Pinned(cert)
		if err != nil {
			t.Fatal(err)
		}
		return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}}
	}
	write()
	served, err := handshake.Server(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	at := "https://" + serve(t, Options{TLS: served})
	get := func(client *http.Client) error {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at+"/livez", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		return response.Body.Close()
	}
	first := pinned()
	if err := get(first); err != nil {
		t.Fatal(err)
	}
	write()
	if err := get(pinned()); err != nil {
		t.Errorf("after the renewal: %v", err)
	}
	if err := get(first); err == nil || !strings.Contains(err.Error(), "another certificate") {
		t.Errorf("a client that knows the old certificate: %v", err)
	}
	if err := os.WriteFile(key, []byte("half a k"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := get(pinned()); err != nil {
		t.Errorf("while the files are being replaced: %v", err)
	}
	if _, err := handshake.Server(cert, key); err == nil {
		t.Error("a key that is none was taken")
	}
}

// A page of another site can have a browser send forms and simple requests, with cookies, and none with our header unless
// we allow it when the browser asks.
func TestOtherSitesChangeNothing(t *testing.T) {
	t.Parallel()
	changed := func(_ context.Context, id string) error {
		t.Errorf("%s was changed", id)
		return errors.New("it was")
	}
	base := "http://" + serve(t, Options{
		Token: "s3cret", Release: changed, Discard: changed,
	})
	for _, contentType := range []string{"application/x-www-form-urlencoded", "multipart/form-data", "text/plain", "application/json"} {
		status, body, _ := ask(t, http.MethodPost, base+"/api/parked/x/discard", "token=s3cret&Authorization=Bearer+s3cret", http.Header{
			"Content-Type": {contentType}, "Origin": {"https://evil.example"}, "Cookie": {"token=s3cret; Authorization=Bearer s3cret"},
		})
		if status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", contentType, status, body)
		}
	}
	_, _, header := ask(t, http.MethodOptions, base+"/api/parked/x/discard", "", http.Header{
		"Origin": {"https://evil.example"}, "Access-Control-Request-Method": {"POST"}, "Access-Control-Request-Headers": {"authorization"},
	})
	for name := range header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("other sites are allowed: %s: %s", name, header.Get(name))
		}
	}
}

func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	address := serve(t, Options{Token: "s3cret", Replay: func(context.Context, json.RawMessage) (any, error) { t.Error("it was taken"); return nil, nil }}) //nolint:nilnil // not reached
	status, _, _ := ask(t, http.MethodPost, "http://"+address+"/api/replay", `"`+strings.Repeat("x", bodyLimit)+`"`, bearer("Bearer s3cret"))
	if status != http.StatusBadRequest {
		t.Errorf("a large body: %d", status)
	}
	status, _, _ = ask(t, http.MethodGet, "http://"+address+"/livez", "", http.Header{"X-Large": {strings.Repeat("x", 80<<10)}})
	if status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a large header: %d", status)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the server has closed it
	if _, err := conn.Write([]byte("GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	var b [1]byte
	if n, err := conn.Read(b[:]); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Errorf("a header that never ends is waited for: %d, %v", n, err)
	}
}
