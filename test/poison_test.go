package test_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/test/ledger"
	"github.com/tidemark/tidemark/test/trial"
)

// TestPoison has rows above the topic's limit among good ones, and kills tidemark among them. What becomes of them is what
// the policy says, and of the others what always does. The fault suite (poison_stop, poison_dead_letter, poison_park) does
// the same for longer and at random moments.
func TestPoison(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"stop", "dead_letter", "park"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			a := newArena(t)
			a.Config = a.Config.With("TIDEMARK_DELIVERY_ON_POISON", policy)
			admin := a.limitTopics()
			load := trial.Load{Rate: 500, Oversize: 0.01}
			if policy == "dead_letter" {
				load.Place = func(_ string, size int) ledger.Place {
					if size > 20_000 {
						return ledger.InDeadLetters
					}
					return ledger.InTopic
				}
			}
			r := a.startReady()
			w := a.write(load)
			switch policy {
			case "stop":
				a.stopsAgainAndAgain(r)
			default:
				for range 3 {
					_, arrived, _ := a.Ledger.Progress()
					a.await("rows arrive", time.Minute, func() bool { _, now, _ := a.Ledger.Progress(); return now > arrived+300 })
					if err := r.Kill(); err != nil {
						t.Fatal(err)
					}
					r = a.start()
				}
			}
			switch policy { // rows of this kind are few
			case "park":
				a.await("an event is parked", time.Minute, func() bool { return a.parked() > 0 })
			case "dead_letter":
				a.await("an event is dead-lettered", time.Minute, func() bool { return a.Ledger.Verdict().Dead > 0 })
			}
			a.mustStop(w)
			if policy != "dead_letter" {
				a.setLimit(admin, "8000000")
			}
			if policy == "stop" {
				r = a.start()
			}
			if policy == "park" {
				a.await("what is parked has been released and is gone", 2*time.Minute, func() bool {
					if _, err := trial.Command(t.Context(), a.Config, "parked", "release", "--all"); err != nil {
						t.Fatal(err)
					}
					return a.parked() == 0
				})
			}
			a.judgeBut(ledger.Backward) // a parked event comes behind later ones of other keys
			a.stop(r)
			v := a.judgeBut(ledger.Backward)
			if (v.Dead > 0) != (policy == "dead_letter") || v.Count(ledger.Backward) > 0 && policy != "park" {
				t.Error(v)
			}
		})
	}
}

// limitTopics creates the topics with a limit that oversize rows exceed.
func (a *arena) limitTopics() *kadm.Client {
	a.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(a.Brokers...))
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(client.Close)
	admin := kadm.NewClient(client)
	limit := "20000"
	created, err := admin.CreateTopics(a.t.Context(), 3, 1, map[string]*string{"max.message.bytes": &limit}, a.Topics()...)
	if err == nil {
		err = created.Error()
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return admin
}

func (a *arena) setLimit(admin *kadm.Client, limit string) {
	a.t.Helper()
	_, err := admin.AlterTopicConfigs(a.t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &limit}}, a.Topics()...)
	if err != nil {
		a.t.Fatal(err)
	}
}

// stopsAgainAndAgain waits until tidemark has stopped at the first such row, and has it meet that row again.
func (a *arena) stopsAgainAndAgain(r *trial.Relay) {
	a.t.Helper()
	met := ""
	for i := range 4 {
		if i == 2 { // killed at some moment of its start
			if err := r.Kill(); err != nil {
				a.t.Fatal(err)
			}
			r = a.start()
		}
		status, err := r.Wait(2 * time.Minute)
		if err != nil || status != 1 {
			a.t.Fatalf("exit status %d, %v, want 1", status, err)
		}
		lines := strings.Split(strings.TrimSpace(r.Log()), "\n")
		last := lines[len(lines)-1]
		for _, word := range []string{"cannot be published", "max.message.bytes", "Mend the cause and start again"} {
			if !strings.Contains(last, word) {
				a.t.Errorf("its last word does not say %q: %s", word, last)
			}
		}
		_, event, _ := strings.Cut(last, "event ")
		event, _, _ = strings.Cut(event, " ")
		if event == "" || met != "" && event != met {
			a.t.Errorf("it stopped at event %q, and then at %q", met, event)
		}
		met = event
		r = a.start()
	}
	if _, err := r.Wait(2 * time.Minute); err != nil {
		a.t.Fatal(err)
	}
}

// parked is how many events are parked.
func (a *arena) parked() (total int) {
	a.t.Helper()
	text, err := trial.Command(a.t.Context(), a.Config, "parked", "list", "--json")
	if err != nil {
		a.t.Fatal(err)
	}
	list := struct{ Total *int }{&total}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		a.t.Fatal(fmt.Errorf("%s: %w", text, err))
	}
	return total
}
