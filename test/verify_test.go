package test_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/test/ledger"
	"github.com/tidemark/tidemark/test/trial"
)

// verified is what `tidemark verify --json` prints, as far as it is looked at here.
type verified struct {
	Relay  string         `json:"relay"`
	Rows   int            `json:"rows"`
	Counts map[string]int `json:"counts"`
	Found  []struct {
		ID   string `json:"id"`
		Fate string `json:"fate"`
	} `json:"found"`
}

func (v *verified) ids(fate string) []string {
	var ids []string
	for _, f := range v.Found {
		if f.Fate == fate {
			ids = append(ids, f.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// toItsEnd runs a command to its end and returns what it printed.
func (a *arena) toItsEnd(status int, args ...string) string {
	a.t.Helper()
	config := a.Config
	config.Args = args
	r, err := trial.Run(a.t.Context(), config, "")
	if err != nil {
		a.t.Fatal(err)
	}
	if got, err := r.Wait(2 * time.Minute); err != nil || got != status {
		a.t.Fatalf("%v: exit status %d, %v, want %d: %s%s", args, got, err, status, r.Stdout(), end(r.Log(), 3000))
	}
	return r.Stdout()
}

// verify runs verify to its end.
func (a *arena) verify(status int, args ...string) *verified {
	a.t.Helper()
	out := a.toItsEnd(status, append([]string{"verify", "--json", "--limit", "0", "--longest-transaction", "1s"}, args...)...)
	var v verified
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		a.t.Fatalf("verify %v printed no JSON: %v: %s", args, err, end(out, 500))
	}
	a.t.Logf("verify %v: relay %s, %d rows: %v", args, v.Relay, v.Rows, v.Counts)
	return &v
}

func (a *arena) admin() *kadm.Client {
	a.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(a.Brokers...))
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

// lostIDs are the committed events that have not arrived.
func (a *arena) lostIDs() []string {
	a.t.Helper()
	if err := a.Settle(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
	if err := a.Reader.AwaitEnd(a.t.Context(), a.Topics()...); err != nil {
		a.t.Fatal(err)
	}
	ids := a.Ledger.Lost()
	slices.Sort(ids)
	return ids
}

// TestVerifyRaisesNoFalseAlarm runs verify --repair again and again beside a relay under load: nothing is missing, and
// nothing comes twice.
func TestVerifyRaisesNoFalseAlarm(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	a.startReady()
	w := a.write(trial.Load{Rate: 1500})
	for range 6 {
		v := a.verify(0, "--repair")
		if v.Counts["published"] != v.Rows || v.Relay != "published" {
			t.Errorf("%+v", v)
		}
	}
	a.mustStop(w)
	a.judge()
}

// TestVerifyBringsEveryRowOfALostSlot drops the slot under load, twice: with the relay stopped before, and killed. After
// init --recreate-slot, verify finds exactly what the ledger misses, and --repair brings exactly that, in the order of each
// key; a repair that is killed in the middle is taken up by the next.
func TestVerifyBringsEveryRowOfALostSlot(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	// The order of a table is that of the transactions that inserted, and of the rows of one.
	load := trial.Load{Rate: 500, Kinds: []trial.Kind{trial.Single, trial.EachKey}, Shared: -1}
	for _, kill := range []bool{false, true} {
		r := a.startReady()
		w := a.write(load)
		_, seen, _ := a.Ledger.Progress()
		a.await("rows arrive", time.Minute, func() bool { _, now, _ := a.Ledger.Progress(); return now > seen+1000 })
		if kill {
			if err := r.Kill(); err != nil {
				t.Fatal(err)
			}
		} else {
			a.stop(r)
		}
		before := w.Rows()
		a.await("rows are written without a relay", time.Minute, func() bool { return w.Rows() > before+200 })
		a.await("the slot is free", time.Minute, func() bool { _, pid, err := a.Confirmed(t.Context()); return err == nil && pid == 0 })
		a.exec("select pg_drop_replication_slot($1)", a.Config.Slot)
		a.await("rows are written without a slot", time.Minute, func() bool { return w.Rows() > before+800 })
		a.toItsEnd(3, "run")
		a.toItsEnd(0, "init", "--recreate-slot")
		r = a.startReady()
		a.await("rows are written behind it", time.Minute, func() bool { return w.Rows() > before+1200 })

		v := a.verify(1)
		found := v.ids("missing")
		if v.Counts["missing"] < 300 || v.Counts["undecidable"] > 0 {
			t.Errorf("%v", v.Counts)
		}
		a.mustStop(w)
		a.verify(1) // waits for the relay
		if want := a.lostIDs(); !slices.Equal(found, want) {
			t.Errorf("verify finds %d ids missing, the ledger %d", len(found), len(want))
		}

		config := a.Config
		config.Args = []string{"verify", "--repair"}
		one, err := trial.Run(t.Context(), config, "")
		if err != nil {
			t.Fatal(err)
		}
		a.await("the repair has begun", time.Minute, func() bool { return a.Ledger.Missing("") < len(found) || !one.Running() })
		if err := one.Kill(); err != nil {
			t.Fatal(err)
		}
		a.await("the killed one's connection is gone", time.Minute, func() bool {
			var n int
			err := a.Query(t.Context(), []any{&n}, "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())")
			return err == nil && n == 0
		})
		left := a.lostIDs()
		got := a.verify(0, "--repair").ids("repaired")
		if slices.ContainsFunc(got, func(id string) bool { return !slices.Contains(left, id) }) {
			t.Errorf("%d rows were repaired, and a killed repair had left %d of %d", len(got), len(left), len(found))
		}
		// What the killed one had sent last may have arrived behind the look; what is missing all the same is found now.
		if v := a.verify(0, "--repair"); v.Counts["published"] != v.Rows {
			t.Errorf("the second repair: %v", v.Counts)
		}
		a.stop(r)
	}
	a.mustHaveRepaired()
}

// mustHaveRepaired judges with the one exception that a repair makes: what was missing comes behind later events of its key.
// Among themselves the repaired ones of one repair keep their order.
func (a *arena) mustHaveRepaired() {
	a.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(a.Brokers...), kgo.ConsumeTopics(a.Topics()...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.KeepControlRecords()) // the last of a partition may be the marker of a fence
	if err != nil {
		a.t.Fatal(err)
	}
	defer client.Close()
	reading, cancel := context.WithTimeout(a.t.Context(), 2*time.Minute)
	defer cancel()
	ends, err := kadm.NewClient(client).ListEndOffsets(reading, a.Topics()...)
	if err != nil {
		a.t.Fatal(err)
	}
	left := map[string]bool{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[fmt.Sprint(o.Topic, "/", o.Partition)] = true
		}
	})
	repaired := 0
	last := map[string]ledger.Event{}
	for len(left) > 0 {
		fetches := client.PollFetches(reading)
		if err := fetches.Err(); err != nil {
			a.t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if end, _ := ends.Lookup(r.Topic, r.Partition); r.Offset == end.Offset-1 {
				delete(left, fmt.Sprint(r.Topic, "/", r.Partition))
			}
			id := ""
			replay := false
			for _, h := range r.Headers {
				if h.Key == "id" {
					id = string(h.Value)
				}
				replay = replay || h.Key == "tidemark-replay"
			}
			number, ok := a.Ledger.Number(id)
			if !replay || !ok {
				return
			}
			repaired++
			key := r.Topic + " " + string(r.Key)
			if number < last[key] {
				a.t.Errorf("event %s of key %s was repaired behind a later one", id, key)
			}
			last[key] = number
		})
	}
	if repaired == 0 {
		a.t.Error("no record of a repair is found")
	}
	ctx, cancel := context.WithTimeout(a.t.Context(), 2*time.Minute)
	defer cancel()
	v, err := a.Judge(ctx, patience)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Log(v)
	for _, finding := range []ledger.Finding{ledger.Lost, ledger.Doubled, ledger.Phantom, ledger.Damaged, ledger.Unstable, ledger.Skipped} {
		if n := v.Count(finding); n > 0 {
			a.t.Errorf("%d %s: %v", n, finding, v.Examples[finding])
		}
	}
}

// TestVerifyAfterRecordsWereDeleted deletes records of a topic, which nobody can tell from retention, and another topic as a
// whole, which is missing.
func TestVerifyAfterRecordsWereDeleted(t *testing.T) {
	t.Parallel()
	stacktest.Kafka(t) // the imitation does not lose a topic's readers as a real one does
	a := newArena(t)
	r := a.startReady()
	w := a.write(trial.Load{Rows: 6000})
	if err := w.Wait(); err != nil {
		t.Fatal(err)
	}
	a.judge()
	admin := a.admin()
	topics := a.Topics()
	ends, err := admin.ListEndOffsets(t.Context(), topics[0])
	if err != nil {
		t.Fatal(err)
	}
	half := kadm.Offsets{}
	deleted := 0
	ends.Each(func(o kadm.ListedOffset) {
		half.Add(kadm.Offset{Topic: o.Topic, Partition: o.Partition, At: o.Offset / 2, LeaderEpoch: -1})
		deleted += int(o.Offset / 2)
	})
	if _, err := admin.DeleteRecords(t.Context(), half); err != nil {
		t.Fatal(err)
	}
	v := a.verify(0)
	if v.Counts["undecidable"] != deleted || deleted == 0 {
		t.Errorf("%d records were deleted, and %d rows are not decidable: %v", deleted, v.Counts["undecidable"], v.Counts)
	}
	a.stop(r)
	var of int
	if err := a.Query(t.Context(), []any{&of}, "select count(*) from outbox where aggregatetype = $1", a.Types[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.DeleteTopics(t.Context(), topics[1]); err != nil {
		t.Fatal(err)
	}
	a.await("the topic is gone", time.Minute, func() bool {
		listed, err := admin.ListTopics(t.Context())
		return err == nil && !listed.Has(topics[1])
	})
	if v := a.verify(1, "--limit", "1"); v.Counts["missing"] != of || len(v.Found) != 1 {
		t.Errorf("a topic of %d rows is gone: %v", of, v.Counts)
	}
	if v := a.verify(0, "--repair", "--limit", "1"); v.Counts["repaired"] != of {
		t.Errorf("a topic of %d rows is repaired: %v", of, v.Counts)
	}
	ends, err = admin.ListEndOffsets(t.Context(), topics[1])
	if err != nil {
		t.Fatal(err)
	}
	records := 0
	ends.Each(func(o kadm.ListedOffset) { records += int(o.Offset) })
	if records != of {
		t.Errorf("the repaired topic has %d records, want %d", records, of)
	}
	if v := a.verify(0, "--repair"); v.Counts["repaired"] != 0 || fmt.Sprint(v.Counts["published"]+v.Counts["undecidable"]) != fmt.Sprint(v.Rows) {
		t.Errorf("the second repair: %v", v.Counts)
	}
}
