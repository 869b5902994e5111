package docs_test

import (
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// working is what a relay takes to have something to serve, as a page.
const working = `
<!-- first: TIDEMARK_SOURCE_DSN=postgres://localhost:5432/shop; tidemark init -->
<!-- run: as relay, stays -->
§sh
TIDEMARK_SOURCE_DSN=postgres://localhost:5432/shop tidemark run
§
<!-- run -->
§sh
psql -c "insert into outbox (aggregatetype, aggregateid, type, payload) values ('order', '1', 'placed', '{}')"
§
<!-- run: again -->
§sh
curl -s http://localhost:8642/metrics | grep 'tidemark_events_published_total{.*} 1'
§
`

// TestReferenceHasWhatIsServed: what a relay at work serves under /metrics is listed, with its type, its labels and its help; what is
// listed of paths that are read is served.
func TestReferenceHasWhatIsServed(t *testing.T) {
	p, err := parsePage("working", strings.ReplaceAll(working, "§", "```"))
	if err != nil {
		t.Fatal(err)
	}
	r := newReader(t, p)
	for _, b := range p.blocks {
		if err := r.run(b); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
	}

	status, text := r.get("/metrics")
	listed := reference(t, "metrics.md")
	about := regexp.MustCompile(`(?m)^# (HELP|TYPE) (tidemark_\w+) (.*)$`).FindAllStringSubmatch(text, -1)
	if status != http.StatusOK || len(about) < 50 {
		t.Fatalf("/metrics: status %d, %d lines about metrics", status, len(about))
	}
	for _, m := range about {
		what := cell(m[3])
		row := regexp.MustCompile("(?m)^\\| `" + m[2] + "` \\| (\\w+) \\| (.*?) \\| (.*) \\|$").FindStringSubmatch(listed)
		switch {
		case row == nil:
			t.Errorf("docs/reference/metrics.md has no %s", m[2])
		case m[1] == "TYPE" && row[1] != what, m[1] == "HELP" && row[3] != what:
			t.Errorf("docs/reference/metrics.md says %q of %s, and it is %s", row[0], m[2], what)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^(tidemark_\w+)\{([^}]*)\}`).FindAllStringSubmatch(text, -1) {
		row := regexp.MustCompile("(?m)^\\| `" + strings.TrimSuffix(m[1], "_bucket") + "` .*$").FindString(listed)
		for _, label := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(m[2], -1) {
			if label[1] != "le" && row != "" && !strings.Contains(row, "`"+label[1]+"`") {
				t.Errorf("docs/reference/metrics.md lacks the label %s of %s", label[1], m[1])
			}
		}
	}

	for _, route := range routes(t) {
		path, readOnly := strings.CutPrefix(route, "GET ")
		if !readOnly || path == "/api/live" { // which does not end
			continue
		}
		status, text := r.get(strings.ReplaceAll(path, "{id}", "00000000-0000-0000-0000-000000000000"))
		absent := status == http.StatusNotFound && !strings.Contains(text, "no such path") && strings.Contains(path, "{id}")
		if status != http.StatusOK && !absent {
			t.Errorf("GET %s: %d %s", path, status, text)
		}
	}
	for _, in := range r.terminals {
		if err := in.interrupt(); err != nil {
			t.Error(err)
		}
	}
}

// get asks the relay of this page.
func (r *reader) get(path string) (status int, text string) {
	r.t.Helper()
	i := slices.IndexFunc(r.env, func(v string) bool { return strings.HasPrefix(v, "TIDEMARK_HTTP_LISTEN=") })
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "http://"+strings.TrimPrefix(r.env[i], "TIDEMARK_HTTP_LISTEN=")+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	client := http.Client{Timeout: blockLimit, Transport: &http.Transport{DisableKeepAlives: true, ResponseHeaderTimeout: time.Minute}}
	response, err := client.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // read to its end
	all, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return response.StatusCode, string(all)
}
