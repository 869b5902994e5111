package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// elsewhere are names that look like ours and are other ones.
func elsewhere() map[string]string {
	return map[string]string{
		"tidemark_checkpoint":   "the table of checkpoints",
		"tidemark_parked":       "the table of parked events",
		"tidemark_bench_":       "what bench makes begins so",
		"tidemark-":             "a prefix",
		"tidemark-checkpoint-":  "transactional ids begin so",
		"log.retention.bytes":   "Kafka's",
		"log.retention.ms":      "Kafka's",
		"log.segment.bytes":     "Kafka's",
		"TIDEMARK_CACHE":        "devstack's",
		"TIDEMARK_TEST_REQUIRE": "stacktest's",
	}
}

var (
	fenced       = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	span         = regexp.MustCompile("`([^`]+)`")
	metricName   = regexp.MustCompile(`(?:^|[^.\w])(tidemark_[a-z0-9_]+)`)
	variableName = regexp.MustCompile(`\bTIDEMARK_[A-Z0-9_]+`)
	keyName      = regexp.MustCompile(`^((?:source|outbox|messages|kafka|delivery|checkpoint|http|reconcile|prune|log|columns|cloudevents)(?:\[\d*\])?(?:\.(?:[a-z_]+|\*)(?:\[\d*\])?)+)(?:$|[:= ])`)
	headerName   = regexp.MustCompile(`^tidemark-[a-z-]+$`)
	routeName    = regexp.MustCompile(`^(?:(GET|POST) )?(/(?:livez|readyz|metrics|api/)[^? ]*)(?:$|[? ])`)
	flagName     = regexp.MustCompile(`(?:^| )(--[a-z][a-z-]*)`)
	exitStatus   = regexp.MustCompile(`(?i)exit status (\d+)`)
	commandLine  = regexp.MustCompile(`(?m)(?:^ *|\| *|; *|&& *|\$\(|[A-Z_]+=\S+ +)(?:\./)?(?:go run \.|tidemark) +([a-z][^|;&#)\n]*)`)
)

// everythingExists: what documents mention as a command, flag, key, variable, metric, header or path of tidemark is one.
func everythingExists(t *testing.T, p *program) {
	t.Helper()
	mentioned := 0
	for _, name := range documents(t) {
		content, err := os.ReadFile(filepath.Join(root, name)) //nolint:gosec // ours
		if err != nil {
			t.Fatal(err)
		}
		say := func(what string) {
			if what != "" {
				t.Errorf("%s: %s", name, what)
			}
		}
		for _, m := range exitStatus.FindAllSubmatch(content, -1) {
			if !exits(t)[string(m[1])] {
				say("there is no exit status " + string(m[1]))
			}
		}
		for paragraph := range strings.SplitSeq(fenced.ReplaceAllString(string(content), "\n\n"), "\n\n") {
			for _, m := range span.FindAllStringSubmatch(paragraph, -1) {
				mentioned++
				say(p.missing(strings.Join(strings.Fields(m[1]), " ")))
			}
		}
		for _, b := range readPage(t, name).blocks {
			if b.lang != "sh" {
				continue
			}
			for _, m := range commandLine.FindAllStringSubmatch(strings.ReplaceAll(b.text, "\\\n", " "), -1) {
				mentioned++
				say(p.missing("tidemark " + m[1]))
			}
		}
	}
	if mentioned < 500 {
		t.Errorf("%d mentions were found, which cannot be all", mentioned)
	}
}

// missing returns what is wrong with something that a document mentions, "" if nothing is.
func (p *program) missing(mention string) string {
	for _, m := range metricName.FindAllStringSubmatch(mention, -1) {
		name := regexp.MustCompile(`_(bucket|count|sum)$`).ReplaceAllString(m[1], "")
		begins := slices.ContainsFunc(p.metrics, func(m metric) bool { return strings.HasSuffix(name, "_") && strings.HasPrefix(m.name, name) })
		if p.metric(m[1]) == nil && p.metric(name) == nil && !begins && elsewhere()[m[1]] == "" {
			return "there is no metric " + m[1]
		}
	}
	for _, name := range variableName.FindAllString(mention, -1) {
		if !p.hasVariable(name) {
			return "there is no variable " + name
		}
	}
	if m := keyName.FindStringSubmatch(mention); m != nil && !p.hasKey(m[1]) {
		return "there is no key " + m[1]
	}
	if headerName.MatchString(mention) && !p.headers[mention] && elsewhere()[mention] == "" {
		return "there is no header " + mention
	}
	if m := routeName.FindStringSubmatch(mention); m != nil && !p.hasRoute(m[1], m[2]) {
		return "there is no " + mention + " over HTTP"
	}
	return p.wrongUse(mention)
}

func (p *program) hasVariable(name string) bool {
	if elsewhere()[name] != "" || strings.HasPrefix(name, "TIDEMARK_TEST_") {
		return true
	}
	name = regexp.MustCompile(`_\d+_`).ReplaceAllString(name, "_0_")
	return slices.ContainsFunc(p.keys, func(k key) bool { return variableOf(k) == name })
}

func (p *program) hasKey(name string) bool {
	if elsewhere()[name] != "" || strings.HasPrefix(name, "outbox.") { // topics begin with outbox.event
		return true
	}
	name = regexp.MustCompile(`\[\d+\]`).ReplaceAllString(name, "[]")
	if strings.HasPrefix(name, "columns.") || strings.HasPrefix(name, "cloudevents.") {
		name = "outbox[]." + name
	}
	all, below := strings.CutSuffix(name, ".*")
	return slices.ContainsFunc(p.keys, func(k key) bool {
		return k.path == name || k.path+"[]" == name || below && strings.HasPrefix(k.path, all+".")
	})
}

// hasRoute reports whether a path is served, in which a document writes an id as ID, {id} or an example.
func (p *program) hasRoute(method, path string) bool {
	return slices.ContainsFunc(p.routes, func(route string) bool {
		with, pattern, _ := strings.Cut(route, " ")
		if method != "" && method != with {
			return false
		}
		want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
		return len(want) == len(got) && !slices.ContainsFunc(want, func(part string) bool {
			i := slices.Index(want, part)
			return part != got[i] && !strings.HasPrefix(part, "{")
		})
	})
}

// wrongUse looks at a command, with or without "tidemark" before it, and at its flags.
func (p *program) wrongUse(mention string) string {
	words, ours := strings.CutPrefix(mention, "tidemark ")
	var at *command
	path := ""
	for word := range strings.SplitSeq(words, " ") {
		next := p.command(strings.TrimSpace(path + " " + word))
		if word == "" || next == nil {
			break
		}
		at, path = next, next.path
	}
	flags := flagName.FindAllStringSubmatch(words, -1)
	switch {
	case at == nil && ours && regexp.MustCompile(`^[a-z]`).MatchString(words):
		return "there is no command " + mention
	case at == nil && !ours && !strings.HasPrefix(mention, "--"):
		return "" // another program's
	case at != nil && !ours && at.path == words:
		return ""
	}
	for _, f := range flags {
		known := at != nil && at.takes(f[1])
		if at == nil {
			known = slices.ContainsFunc(p.commands, func(c *command) bool { return c.takes(f[1]) })
		}
		if !known {
			return "no command takes " + f[1] + " in " + mention
		}
	}
	return ""
}

func TestMentionsAreJudged(t *testing.T) {
	t.Parallel()
	run, parked := &command{path: "run", flags: []commandFlag{{name: "--once"}, {name: "--help"}}}, &command{path: "parked"}
	p := &program{
		commands: []*command{run, parked, {path: "parked list", parent: parked}},
		keys:     []key{{path: "kafka.tls.enabled"}, {path: "outbox[].columns.id"}},
		metrics:  []metric{{name: "tidemark_leader"}},
		headers:  map[string]bool{"tidemark-source": true},
		routes:   []string{"GET /api/parked/{id}"},
	}
	for _, right := range []string{
		"tidemark run --once", "run --once", "--once", "tidemark parked list", "kafka.tls.*", "kafka.tls.enabled: true", "columns.id", "outbox[0].columns.id",
		"tidemark_leader", "TIDEMARK_OUTBOX_3_COLUMNS_ID=x", "tidemark-source", "GET /api/parked/ID", "/api/parked/4711", "go test -run x", "outbox.event.order", "tidemark COMMAND --help",
	} {
		if wrong := p.missing(right); wrong != "" {
			t.Errorf("%s: %s", right, wrong)
		}
	}
	for _, wrong := range []string{
		"tidemark rum", "tidemark run --twice", "run --twice", "--twice", "kafka.tls.enable", "kafka.ssl.*", "columns.di", "tidemark_leaders", "TIDEMARK_KAFKA_TLS",
		"tidemark-sauce", "POST /api/parked/ID", "/api/parked", "tidemark_leader{x=\"y\"} > tidemark_follower",
	} {
		if p.missing(wrong) == "" {
			t.Errorf("%s is taken for something that there is", wrong)
		}
	}
}
