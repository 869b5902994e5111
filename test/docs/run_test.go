package docs_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

// TestCommandBlocks runs each page as a reader would: block after block, from an empty directory, with the servers where
// the text has them.
//
// The pages share a Postgres, and their slots have the same name, so that one waits for the other.
func TestCommandBlocks(t *testing.T) {
	for _, name := range documents(t) {
		p := readPage(t, name)
		if !slices.ContainsFunc(p.blocks, func(b *block) bool { return b.kind == "run" }) {
			continue
		}
		t.Run(name, func(t *testing.T) { newReader(t, p).read() })
	}
}

// reader does what one page says.
type reader struct {
	t         *testing.T
	page      *page
	dir       string
	states    string
	env       []string
	addresses *strings.Replacer // from those of the text to those of the test
	terminals map[string]*terminal
	postgres  *devstack.Postgres
}

var database = regexp.MustCompile(`localhost:5432/(\w+)`)

func newReader(t *testing.T, p *page) *reader {
	t.Helper()
	r := &reader{t: t, page: p, dir: t.TempDir(), states: t.TempDir(), terminals: map[string]*terminal{}}
	pg := stacktest.Postgres(t)
	r.postgres = pg
	names := r.databases()
	for _, name := range names {
		if name == "postgres" {
			continue
		}
		if err := pg.CreateDatabase(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(r.cleanUp)
	kafka := r.brokers()
	page := pageAddress(t)
	r.addresses = strings.NewReplacer(
		"localhost:5432", net.JoinHostPort("127.0.0.1", strconv.Itoa(pg.Port())),
		"localhost:9092", kafka,
		"localhost:8642", page, "127.0.0.1:8642", page,
	)
	bin := programs(t)
	clone, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	r.env = environment(
		"CLONE="+clone,
		"PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"),
		"PGHOST=127.0.0.1", "PGPORT="+strconv.Itoa(pg.Port()), "PGUSER=postgres", "PGDATABASE="+names[0], "PGSSLMODE=disable",
		"TIDEMARK_HTTP_LISTEN="+page, "TIDEMARK_KAFKA_BROKERS="+kafka,
	)
	return r
}

// databases are those that the page names, of which the first is what psql uses when it is told none.
func (r *reader) databases() []string {
	var names []string
	for _, b := range r.page.blocks {
		for _, m := range database.FindAllStringSubmatch(b.text, -1) {
			if b.kind != "" && b.kind != "not run" && !slices.Contains(names, m[1]) {
				names = append(names, m[1])
			}
		}
	}
	if names == nil {
		names = []string{"shop"}
	}
	return names
}

// brokers is the address of a Kafka of this page's own, or of the real one, if a block needs that.
func (r *reader) brokers() string {
	for _, b := range r.page.blocks {
		if b.kind == "run" && parseOptions(r.t, b).needs == "kafka" {
			return stacktest.Kafka(r.t)[0]
		}
	}
	return stacktest.FakeKafka(r.t)[0]
}

func (r *reader) read() {
	for _, b := range r.page.blocks {
		if b.kind == "file" {
			path := filepath.Join(r.dir, filepath.FromSlash(b.rest))
			if err := os.WriteFile(path, []byte(r.addresses.Replace(b.text)), 0o600); err != nil {
				r.t.Fatal(err)
			}
		}
		if b.kind != "run" {
			continue
		}
		if err := r.run(b); err != nil {
			r.t.Fatalf("%s: %v", b, err)
		}
	}
	for name, terminal := range r.terminals {
		if err := terminal.interrupt(); err != nil {
			r.t.Errorf("terminal %s: %v", name, err)
		}
	}
}

// run runs a block, and once more as long as it is not as it should be, if it says so.
func (r *reader) run(b *block) error {
	o := parseOptions(r.t, b)
	in := r.terminals[o.terminal]
	if in == nil {
		in = newTerminal(o.terminal, r.dir, r.states, r.env)
		r.terminals[o.terminal] = in
	}
	commands := b.text
	if b.lang == "sql" {
		commands = "psql -v ON_ERROR_STOP=1 <<'END OF THE BLOCK'\n" + commands + "END OF THE BLOCK\n"
	}
	limit := time.Now().Add(blockLimit)
	for {
		err := r.once(in, b, o, r.addresses.Replace(commands))
		if err == nil || !o.again || time.Now().After(limit) {
			return err
		}
		select {
		case <-r.t.Context().Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (r *reader) once(in *terminal, b *block, o options, commands string) error {
	running, err := in.start(r.t.Context(), commands)
	if err != nil {
		return err
	}
	check := func(printed string) error {
		var errs []error
		for _, shown := range b.outputs {
			errs = append(errs, matches(r.addresses.Replace(shown.text), printed))
		}
		return errors.Join(errs...)
	}
	if o.stays {
		in.stays = running
		return running.prints(check)
	}
	status, err := running.status()
	if err == nil && status != o.status {
		err = fmt.Errorf("exit status %d, want %d", status, o.status)
	}
	if err != nil {
		return fmt.Errorf("%w:\n%s", err, running.output)
	}
	return check(running.output.String())
}

// options are what a comment says behind "run:", with commas between.
type options struct {
	terminal string // as NAME
	stays    bool   // it ends at Ctrl-C, which the next block of that terminal gives it, or the end of the page
	again    bool   // until it ends well and prints what is shown
	status   int    // status N
	needs    string // needs kafka
}

func parseOptions(t *testing.T, b *block) options {
	t.Helper()
	o := options{terminal: "first"}
	for word := range strings.SplitSeq(b.rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(word), " ")
		var err error
		switch name {
		case "":
		case "as":
			o.terminal = value
		case "stays":
			o.stays = true
		case "again":
			o.again = true
		case "status":
			o.status, err = strconv.Atoi(value)
		case "needs":
			o.needs = value
		default:
			err = errors.New("CONTRIBUTING.md says what there is")
		}
		if err != nil {
			t.Fatalf("%s: %q: %v", b, word, err)
		}
	}
	return o
}

// cleanUp ends what the page has left running, and takes away its databases, slots and roles.
func (r *reader) cleanUp() {
	for _, terminal := range r.terminals {
		if terminal.stays != nil {
			<-terminal.stays.ended // killed with the test's context
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, r.postgres.DSN("postgres"))
	if err != nil {
		r.t.Error(err)
		return
	}
	defer conn.Close(ctx) //nolint:errcheck // everything has been said by then
	all := func(query string) []string {
		rows, err := conn.Query(ctx, query)
		if err != nil {
			r.t.Error(err)
			return nil
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			r.t.Error(err)
		}
		return names
	}
	do := func(sql string) {
		if _, err := conn.Exec(ctx, sql); err != nil {
			r.t.Errorf("%s: %v", sql, err)
		}
	}
	do("select pg_terminate_backend(pid, 10000) from pg_stat_activity where backend_type in ('client backend', 'walsender') and pid <> pg_backend_pid()")
	do("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
	for _, name := range all("select datname::text from pg_database where not datistemplate and datname <> 'postgres'") {
		do("drop database " + pgx.Identifier{name}.Sanitize() + " with (force)")
	}
	for _, name := range all(`select rolname::text from pg_roles where rolname <> 'postgres' and rolname not like 'pg\_%'`) {
		do("drop role " + pgx.Identifier{name}.Sanitize())
	}
}

// programs is a directory with tidemark and the stand-ins of what a reader has besides.
func programs(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	links := map[string]string{"tidemark": binary(t)}
	for name := range standIns() {
		links[name] = self
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, needed := range []string{"bash", "curl"} {
		_, err := exec.LookPath(needed)
		stacktest.Require(t, needed, err)
	}
	return bin
}

// pageAddress is an address for the relay's HTTP that nobody else takes, although nobody holds it while no relay runs: on Linux one
// of loopback's many hosts.
func pageAddress(t *testing.T) string {
	t.Helper()
	host := "127.0.0.1"
	if runtime.GOOS == "linux" {
		host = fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	}
	for range 100 {
		at := net.JoinHostPort(host, strconv.Itoa(15000+rand.IntN(17000))) // below what outgoing connections take
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", at)
		if err != nil {
			continue
		}
		if err := listener.Close(); err != nil {
			t.Fatal(err)
		}
		return at
	}
	t.Fatalf("no free port was found on %s", host)
	return ""
}
