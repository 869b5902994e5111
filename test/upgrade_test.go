package test_test

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/test/trial"
)

// TestUpgradeFromTheFirstFormats goes on from what the first versions have stored: the first checkpoint, after it was
// stopped in order, the first one with which a killed relay's records are known again, and the first table of parked
// events.
func TestUpgradeFromTheFirstFormats(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	a.Config = a.Config.With("TIDEMARK_DELIVERY_ON_POISON", "park")
	a.runBefore(t)
	a.rewrite("../checkpoint/testdata/first.json")
	if err := a.write(trial.Load{Rows: 300}).Wait(); err != nil {
		t.Fatal(err)
	}
	r := a.startReady()
	a.judge()

	w := a.write(trial.Load{Rate: 500})
	_, before, _ := a.Ledger.Progress()
	a.await("rows arrive", time.Minute, func() bool { _, now, _ := a.Ledger.Progress(); return now > before+300 })
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	a.rewrite("../checkpoint/testdata/with_topics.json")
	// What the first version has parked lies before the checkpoint, since the relay has gone on.
	a.plantParked()
	r = a.startReady()
	a.mustStop(w)
	a.judge()

	a.await("what was released is gone", time.Minute, func() bool { return a.parked() == 2 })
	const waiting = "00000000-0000-0000-0000-000000000001"
	if shown := a.tidemark("parked", "show", waiting, "--payload"); !strings.HasPrefix(shown, `{"pad": "0123456789`) {
		t.Errorf("shown: %s", shown)
	}
	a.tidemark("parked", "release", waiting)
	a.await("nothing is parked", time.Minute, func() bool { return a.parked() == 0 })
	a.stop(r)
	got := a.arrivedOf("outbox.event.order", "00000000-0000-0000-0000-00000000000")
	for key, want := range map[string]string{"a": "1 2", "b": "3 4", "c": "6"} { // the first of c was discarded
		if strings.Join(got[key], " ") != want {
			t.Errorf("of key %s arrived %v, want %s", key, got[key], want)
		}
	}
	a.judge()
}

// rewrite leaves of the checkpoint what an earlier version has written: its fields, as they are now.
func (a *arena) rewrite(file string) {
	a.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		a.t.Fatal(err)
	}
	var first, now map[string]json.RawMessage
	if err := json.Unmarshal(text, &first); err != nil {
		a.t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(a.checkpoint(a.t)), &now); err != nil {
		a.t.Fatal(err)
	}
	for name, value := range first {
		switch {
		case string(value) == "{}": // the first version knew of no topics
		case now[name] == nil:
			a.t.Fatalf("%s is not in the checkpoint any more", name)
		default:
			first[name] = now[name]
		}
	}
	if text, err = json.MarshalIndent(first, "", "  "); err != nil {
		a.t.Fatal(err)
	}
	a.setCheckpoint(a.t, string(text))
}

// plantParked puts the table of the first version, and what it had parked, in the place of ours, as if that had been in
// this database.
func (a *arena) plantParked() {
	a.t.Helper()
	table, err := os.ReadFile("../park/testdata/first.sql")
	if err != nil {
		a.t.Fatal(err)
	}
	var stored struct {
		System   string `json:"system_identifier"`
		Database string
		Slot     string
		Position string
	}
	if err := json.Unmarshal([]byte(a.checkpoint(a.t)), &stored); err != nil {
		a.t.Fatal(err)
	}
	a.exec("drop table tidemark_parked")
	conn := connect(a.t, a.DSN)
	if _, err := conn.Exec(a.t.Context(), string(table)); err != nil {
		a.t.Fatal(err)
	}
	commit, _, _ := strings.Cut(stored.Position, "-")
	a.exec(`update tidemark_parked p set source = $1, position = $2 || '-' || lpad(to_hex(n + 1000000), 8, '0')
		from (select position, row_number() over (order by position) n from tidemark_parked) o where o.position = p.position`,
		stored.System+"/"+stored.Database+"/"+stored.Slot, commit)
	a.exec("update tidemark_parked set headers = jsonb_set(headers, '{3,value}', to_jsonb(replace(encode(convert_to(source, 'UTF8'), 'base64'), chr(10), '')))")
}

// arrivedOf reads a topic to its end, and returns the rest of the ids that begin so, by key. They must be this source's.
func (a *arena) arrivedOf(topic, begins string) map[string][]string {
	a.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(a.Brokers...), kgo.ConsumeTopics(topic), kgo.KeepControlRecords())
	if err != nil {
		a.t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(a.t.Context(), topic)
	if err != nil {
		a.t.Fatal(err)
	}
	left := 0
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left++
		}
	})
	ids := make(map[string][]string)
	ctx, cancel := context.WithTimeout(a.t.Context(), time.Minute)
	defer cancel()
	for left > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			a.t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if end, _ := ends.Lookup(topic, r.Partition); r.Offset == end.Offset-1 {
				left--
			}
			headers := make(map[string]string)
			for _, h := range r.Headers {
				headers[h.Key] = string(h.Value)
			}
			if id, ours := strings.CutPrefix(headers["id"], begins); ours && strings.HasSuffix(headers["tidemark-source"], "/"+a.Config.Slot) {
				ids[string(r.Key)] = append(ids[string(r.Key)], id)
			}
		})
	}
	return ids
}

func (a *arena) tidemark(args ...string) string {
	a.t.Helper()
	out, err := trial.Command(a.t.Context(), a.Config, args...)
	if err != nil {
		a.t.Fatal(err)
	}
	return out
}
