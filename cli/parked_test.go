package cli

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/park"
)

// parkedBench is a source with parked events, and a shell.
type parkedBench struct {
	t       *testing.T
	source  string
	environ []string
}

func newParkedBench(t *testing.T) *parkedBench {
	t.Helper()
	pg := stacktest.NewPostgres(t)
	dsn := pg.DSN("postgres")
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // read only
	b := &parkedBench{t: t, environ: []string{"TIDEMARK_SOURCE_DSN=" + dsn, "TIDEMARK_SOURCE_SLOT=orders"}}
	if err := conn.QueryRow(t.Context(), "select system_identifier || '/postgres/orders' from pg_control_system()").Scan(&b.source); err != nil {
		t.Fatal(err)
	}
	return b
}

// open opens the table as the relay does.
func (b *parkedBench) open(source string) *park.Store {
	b.t.Helper()
	store, err := park.Open(b.t.Context(), b.environ[0][len("TIDEMARK_SOURCE_DSN="):], source)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(store.Close)
	return store
}

func (b *parkedBench) park(store *park.Store, events ...park.Event) {
	b.t.Helper()
	if err := store.Park(b.t.Context(), events); err != nil {
		b.t.Fatal(err)
	}
}

// run runs tidemark parked and checks the exit status and what is said, in stdout or else in stderr.
func (b *parkedBench) run(status int, args []string, says ...string) (stdout string) {
	b.t.Helper()
	stdout, stderr, got := tidemark(b.t, append([]string{"parked"}, args...), b.environ...)
	if got != status {
		b.t.Fatalf("%q: exit status %d, want %d\n%s%s", args, got, status, stdout, stderr)
	}
	text := stdout
	if status != 0 {
		text = stderr
		if stdout != "" || strings.Count(stderr, "\n") != 1 {
			b.t.Errorf("%q fails and prints %q to stdout, and to stderr not one line: %q", args, stdout, stderr)
		}
	} else if stderr != "" {
		b.t.Errorf("%q says %q", args, stderr)
	}
	for _, word := range says {
		if !strings.Contains(text, word) {
			b.t.Errorf("%q does not say %q:\n%s", args, word, text)
		}
	}
	return stdout
}

func parkedExample(n int, id, key string) park.Event {
	return park.Event{Reason: "the topic's limit is 1048588 bytes", Event: decode.Event{
		Position: decode.Position{Commit: 0x16B3748, Index: uint32(n)}, CommitTime: time.Now().Add(-time.Hour), Timestamp: time.Now(), Table: "public.outbox",
		ID: id, Topic: "outbox.event.order", Key: []byte(key), Value: []byte(`{"secret":true}`), Partition: decode.AnyPartition,
		Headers: []decode.Header{{Key: "id", Value: []byte(id)}, {Key: "raw", Value: []byte{0xff}}, {Key: "none"}},
	}}
}

func behindExample(n int, id, key string) park.Event {
	e := parkedExample(n, id, key)
	e.Reason, e.Behind = "", true
	return e
}

func TestParkedCommands(t *testing.T) {
	b := newParkedBench(t)
	pos := func(n int) string { return fmt.Sprintf("00000000016b3748-%08x", n) }

	// Nothing is there, not even a table, and looking makes none.
	for range 2 {
		if got := b.run(0, []string{"list"}); got != "Nothing is parked.\n" {
			t.Errorf("an empty list: %q", got)
		}
	}
	b.run(0, []string{"release", "--all"}, "Nothing is parked.")
	b.run(1, []string{"show", "a"}, "does not exist, so nothing is parked")
	b.run(1, []string{"discard", "a", "--yes"}, "does not exist, so nothing is parked")

	store := b.open(b.source)
	null := parkedExample(6, "six", "")
	null.Event.Key, null.Event.Value = nil, nil
	null.Reason = "line\nbreak\ttab\x1b[31m" + strings.Repeat(" very long", 50)
	b.park(store, parkedExample(1, "one", "order-17"), behindExample(2, "two", "order-17"), parkedExample(3, "three", "order-17"),
		parkedExample(4, "twin", "order 18"), parkedExample(5, "twin", "\xff\x00"), null)

	t.Run("list", func(t *testing.T) {
		b.t = t
		out := b.run(0, []string{"list"}, "6 events parked: 5 wait for a decision, 1 wait behind an earlier event of their key, 0 are released, 0 are handed over", "tidemark parked release", `"order 18"`, `\xff00`, "(null)")
		lines := strings.Split(out, "\n")
		if !strings.HasPrefix(lines[0], "POSITION") || !strings.HasPrefix(lines[1], pos(1)+"  one ") || !strings.HasSuffix(lines[1], "limit is 1048588 bytes") || !strings.HasPrefix(lines[6], pos(2)) || !strings.Contains(lines[6], " behind ") {
			t.Errorf("listed:\n%s", out)
		}
		if strings.ContainsAny(out, "\x1b\t") || !utf8.ValidString(out) || strings.Contains(out, "secret") {
			t.Errorf("listed:\n%q", out)
		}
		b.run(0, []string{"list", "--limit", "2"}, pos(1), pos(3), "… and 4 more")
		b.run(2, []string{"list", "--limit", "-1"}, "--limit")
		b.run(2, []string{"list", "x"}, "unexpected argument")

		var report struct {
			Source string
			Total  int
			Tally  map[string]int
			Events []map[string]any
		}
		out = b.run(0, []string{"list", "--json"})
		if err := json.Unmarshal([]byte(out), &report); err != nil || strings.Contains(out, "secret") {
			t.Fatalf("%v\n%s", err, out)
		}
		if report.Source != b.source || report.Total != 6 || report.Tally["waiting"] != 5 || len(report.Events) != 6 {
			t.Errorf("%s", out)
		}
		first, binary, keyless, last := report.Events[0], report.Events[3], report.Events[4], report.Events[5]
		if first["position"] != pos(1) || first["id"] != "one" || first["table"] != "public.outbox" || first["topic"] != "outbox.event.order" || first["key"] != "order-17" ||
			first["state"] != "waiting" || first["behind"] != false || first["payload_bytes"] != 15.0 || first["reason"] != "the topic's limit is 1048588 bytes" || first["parked_at"] == "" {
			t.Errorf("%v", first)
		}
		if binary["key"] != `\xff00` || keyless["key"] != nil || keyless["payload_bytes"] != nil || keyless["reason"] != null.Reason || last["behind"] != true {
			t.Errorf("%v %v %v", binary, keyless, last)
		}
	})

	t.Run("show", func(t *testing.T) {
		b.t = t
		out := b.run(0, []string{"show", "one"}, pos(1), "order-17", "15 B (--payload prints it)", "header id", `\xff`, "(null)", "by the key", "tidemark parked release "+pos(1))
		if strings.Contains(out, "secret") {
			t.Errorf("shows the payload: %s", out)
		}
		if out := b.run(0, []string{"show", "one", "--payload"}); out != `{"secret":true}` {
			t.Errorf("payload %q", out)
		}
		b.run(1, []string{"show", "six", "--payload"}, "null")
		if out := b.run(0, []string{"show", "twin"}); strings.Count(out, "position ") != 2 {
			t.Errorf("shown:\n%s", out)
		}
		b.run(1, []string{"show", "twin", "--payload"}, "2 parked events", "position")
		b.run(1, []string{"show", "nobody"}, "no such event is parked", "tidemark parked list")
		b.run(2, []string{"show"}, "give the ID")
		b.run(2, []string{"show", "a", "b"}, "unexpected argument")

		type shown []struct {
			Position string
			Details  struct {
				Partition *int
				Headers   []struct {
					Key   string
					Value *string
				}
				Payload *struct {
					Text   *string
					Base64 []byte
				}
			}
		}
		var s shown
		if err := json.Unmarshal([]byte(b.run(0, []string{"show", pos(1), "--json"})), &s); err != nil || len(s) != 1 || s[0].Details.Payload != nil ||
			s[0].Details.Partition != nil || len(s[0].Details.Headers) != 3 || *s[0].Details.Headers[1].Value != `\xff` || s[0].Details.Headers[2].Value != nil {
			t.Errorf("%+v, %v", s, err)
		}
		s = nil
		if err := json.Unmarshal([]byte(b.run(0, []string{"show", pos(1), "--json", "--payload"})), &s); err != nil || *s[0].Details.Payload.Text != `{"secret":true}` {
			t.Errorf("%+v, %v", s, err)
		}
	})

	t.Run("release", func(t *testing.T) {
		b.t = t
		b.run(2, []string{"release"}, "give one of ID, --key KEY and --all")
		b.run(2, []string{"release", "one", "--all"}, "give one of")
		b.run(2, []string{"release", "--key", "a", "--all"}, "give one of")
		b.run(2, []string{"release", ""}, "empty")
		b.run(1, []string{"release", "three"}, pos(1), "tidemark parked release "+pos(1), "--key")
		b.run(1, []string{"release", "twin"}, pos(4), pos(5))
		b.run(1, []string{"release", "--key", "nobody's"}, "no event of this key is parked")
		b.run(0, []string{"release", "one"}, "Released: one", "within about a second", "tidemark run")
		mustBeDue(t, store, "one", "two")
		b.run(0, []string{"release", "--key", `\xff00`}, "Released: 1 event of key")
		mustBeDue(t, store, "one", "two", "twin")
		b.run(0, []string{"release", "--all"}, "Released: 3 events")
		mustBeDue(t, store, "one", "two", "three", "twin", "twin", "six")
		b.run(0, []string{"release", "--all"}, "Released: 0 events")
		b.run(0, []string{"list"}, "0 wait for a decision", "1 wait behind an earlier event of their key, 5 are released")
	})

	t.Run("discard", func(t *testing.T) {
		b.t = t
		b.run(2, []string{"discard"}, "give the ID")
		b.run(3, []string{"discard", "one"}, "never published", "event one of public.outbox at position "+pos(1), "order-17", "15 B", "limit is 1048588", "Nothing is changed", "--yes")
		b.run(3, []string{"discard", "twin"}, "give the position")
		b.run(1, []string{"discard", "twin", "--yes"}, pos(4), pos(5))
		b.run(1, []string{"discard", "nobody", "--yes"}, "no such event")
		mustBeDue(t, store, "one", "two", "three", "twin", "twin", "six")
		b.run(0, []string{"discard", pos(4), "--yes"}, "Discarded for good: "+pos(4))
		b.run(0, []string{"discard", "one", "--yes"}, "Discarded for good: one")
		mustBeDue(t, store, "two", "three", "twin", "six")
		events, err := store.Due(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		events[0].Floor = map[int32]int64{2: 40}
		if err := store.Publishing(t.Context(), events); err != nil {
			t.Fatal(err)
		}
		b.run(1, []string{"discard", "two", "--yes"}, "handed over to Kafka")
		b.run(0, []string{"show", "two"}, "publishing", "partition 2 ended at 40")
	})

	t.Run("discard before it is stored", func(t *testing.T) {
		b.t = t
		b.park(store, parkedExample(9, "nine", "order-19"))
		system, _, _ := strings.Cut(b.source, "/")
		kept := checkpoint.NewFile(filepath.Join(t.TempDir(), "checkpoint"))
		save := func(lsn checkpoint.LSN) {
			t.Helper()
			err := kept.Save(t.Context(), &checkpoint.Checkpoint{Version: checkpoint.Version, SystemIdentifier: system, Timeline: 1, Database: "postgres", Slot: "orders", LSN: lsn}, "")
			if err != nil {
				t.Fatal(err)
			}
		}
		environ := b.environ
		b.environ = append(b.environ, "TIDEMARK_CHECKPOINT_PATH="+strings.TrimPrefix(kept.String(), "file "))
		defer func() { b.environ = environ }()
		save(0x16B3748) // the commit, which ends behind that
		b.run(1, []string{"discard", "nine", "--yes"}, "0/16B3748", pos(9), "park it again", "tidemark status")
		b.run(0, []string{"show", "nine"}, "waiting")
		save(0x16B3778)
		b.run(0, []string{"discard", "nine", "--yes"}, "Discarded for good: nine")
	})

	t.Run("other sources", func(t *testing.T) {
		b.t = t
		b.park(b.open("old/cluster/slot"), parkedExample(1, "lost", "a"))
		b.run(0, []string{"list"}, "1 event of old/cluster/slot", "--source")
		b.run(1, []string{"show", "lost"}, "no such event")
		b.run(0, []string{"show", "lost", "--source", "old/cluster/slot"}, pos(1))
		b.run(0, []string{"discard", "lost", "--yes", "--source", "old/cluster/slot"}, "Discarded")
		if out := b.run(0, []string{"list"}); strings.Contains(out, "old/cluster") {
			t.Errorf("listed:\n%s", out)
		}
		b.run(0, []string{"list", "--source", "old/cluster/slot"}, "Nothing is parked.", b.source)
	})

	t.Run("no server", func(t *testing.T) {
		b.t = t
		stdout, stderr, status := tidemark(t, []string{"parked", "list"}, "TIDEMARK_SOURCE_DSN=postgres://u:hunter2@127.0.0.1:1/shop?sslmode=disable")
		if status != 1 || stdout != "" || strings.Contains(stderr, "hunter2") || !strings.Contains(stderr, "--source") {
			t.Errorf("exit status %d, %q %q", status, stdout, stderr)
		}
	})
}

func mustBeDue(t *testing.T, store *park.Store, want ...string) {
	t.Helper()
	events, err := store.Due(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]string, len(events))
	for i := range events {
		got[i] = events[i].Event.ID
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("due are %q, want %q", got, want)
	}
}

func TestCellsCannotBeTakenForOthers(t *testing.T) {
	for in, want := range map[string]string{
		"": `""`, "a": "a", "ä€": "ä€", "a b": `"a b"`, "(null)": `"(null)"`, `"a"`: `"\"a\""`, "a\nb": `"a\nb"`, "\x1b[31m": `"\x1b[31m"`, "\u202e": `"\u202e"`,
	} {
		if got := cell(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	for _, test := range []struct {
		in   []byte
		want string
	}{{nil, "(null)"}, {[]byte{}, `""`}, {[]byte{0xff}, `\xff`}, {[]byte(`\xff`), `\x5c786666`}} {
		if got := keyCell(test.in); got != test.want {
			t.Errorf("%q: %s, want %s", test.in, got, test.want)
		}
	}
}

func TestAgeText(t *testing.T) {
	for age, want := range map[time.Duration]string{
		-time.Hour: "0s", 59 * time.Second: "59s", time.Minute: "1m", 59*time.Minute + time.Second: "59m", 47 * time.Hour: "47h", 72 * time.Hour: "3d",
	} {
		if got := ageText(time.Now().Add(-age - time.Millisecond)); got != want {
			t.Errorf("%s: %s, want %s", age, got, want)
		}
	}
}
