package admin

import (
	"bufio"
	"context"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

func TestThePageMayLoadNothingFromElsewhere(t *testing.T) {
	addr := serve(t, Options{})
	for path, want := range map[string]string{"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript"} {
		status, body, header := ask(t, http.MethodGet, "http://"+addr+path, "", nil)
		if status != 200 || !strings.HasPrefix(header.Get("Content-Type"), want) {
			t.Errorf("%s: %d, %v", path, status, header)
		}
		policy := header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "frame-ancestors 'none'") {
			t.Errorf("%s: the policy is %q", path, policy)
		}
		if header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", path, header)
		}
		for _, foreign := range []string{"http://", "https://", " style=", "<style", " onclick=", "innerHTML"} {
			text := strings.ReplaceAll(body, "http://www.w3.org/2000/svg", "") // a name, not an address
			if strings.Contains(text, foreign) {
				t.Errorf("%s has %q", path, foreign)
			}
		}
	}
	if status, body, _ := ask(t, http.MethodGet, "http://"+addr+"/elsewhere", "", nil); status != 404 {
		t.Errorf("/elsewhere: %d %s", status, body)
	}
}

func TestANameThatIsNotItsOwnIsNotAnsweredTo(t *testing.T) {
	addr := serve(t, Options{})
	_, port, _ := strings.Cut(addr, ":")
	for host, status := range map[string]int{
		"127.0.0.1:" + port: 200, "localhost:" + port: 200, "LOCALHOST": 200, "[::1]:80": 200, "relay.localhost:1": 200, "10.0.0.7": 200,
		"evil.example:" + port: 421, "localhost.evil.example": 421, "evil.example.": 421, "127.0.0.1.evil.example": 421, "127.0.0.1evil": 421,
	} {
		if got, body, _ := ask(t, http.MethodGet, "http://"+addr+"/api/status", "", http.Header{"Host": {host}}); got != status {
			t.Errorf("%s: %d %s, want %d", host, got, body, status)
		}
	}
}

func TestViewersAreBoundedAndGetWhatIsNew(t *testing.T) {
	addr := serve(t, Options{Live: func() func() any {
		n := 0
		return func() any { n++; return n }
	}})
	open := func() (*http.Response, context.CancelFunc) {
		ctx, cancel := context.WithCancel(t.Context())
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/api/live", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cancel(); _ = response.Body.Close() })
		return response, cancel
	}
	var last context.CancelFunc
	for range mostLive {
		response, cancel := open()
		last = cancel
		lines := bufio.NewScanner(response.Body)
		for want := 1; want <= 1 && lines.Scan(); {
			if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if text != strconv.Itoa(want) {
					t.Fatalf("%q, want %d", text, want)
				}
				want++
			}
		}
	}
	if response, _ := open(); response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one more than may be: %s", response.Status)
	}
	last()
	for { // until the server has noticed
		if response, _ := open(); response.StatusCode == http.StatusOK {
			return
		}
	}
}
