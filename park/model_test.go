package park

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

// model is the table as a list, and the rules in the words of the promise: nothing fast, nothing clever.
type model struct {
	events []Event // by position
}

func sameKey(a, b *Event) bool {
	return a.Event.Key != nil && b.Event.Key != nil && string(a.Event.Key) == string(b.Event.Key) && a.Event.Topic == b.Event.Topic
}

func (m *model) at(p decode.Position) *Event {
	for i := range m.events {
		if m.events[i].Event.Position == p {
			return &m.events[i]
		}
	}
	return nil
}

func (m *model) park(events []Event) {
	for _, e := range events {
		if m.at(e.Event.Position) == nil {
			e.State = Waiting
			m.events = append(m.events, e)
		}
	}
	slices.SortFunc(m.events, func(a, b Event) int { return a.Event.Position.Compare(b.Event.Position) })
}

func (m *model) remove(p decode.Position) {
	m.events = slices.DeleteFunc(m.events, func(e Event) bool { return e.Event.Position == p })
}

// blocker returns the first event of e's key, up to e itself, that waits for a decision.
func (m *model) blocker(e *Event) *Event {
	for i := range m.events {
		b := &m.events[i]
		if (sameKey(b, e) || b == e) && b.Event.Position.Compare(e.Event.Position) <= 0 && b.State == Waiting && !b.Behind {
			return b
		}
	}
	return nil
}

func (m *model) due(limit int, most int64) []Event {
	var out []Event
	var bytes int64
	for i := range m.events {
		e := &m.events[i]
		if m.blocker(e) != nil {
			continue
		}
		bytes += int64(e.Event.Bytes())
		if len(out) == limit || len(out) > 0 && bytes > most {
			break
		}
		out = append(out, *e)
	}
	return out
}

func (m *model) keys() map[Key]bool {
	keys := map[Key]bool{}
	for i := range m.events {
		ev := &m.events[i].Event
		keys[Key{ev.Topic, string(ev.Key), ev.Key == nil}] = true
	}
	return keys
}

// line is what must agree about an event. One that is Behind may be called released as soon as nothing holds it up.
func line(e *Event) string {
	state := e.State.String()
	if e.Behind && e.State == Released {
		state = Waiting.String()
	}
	return fmt.Sprintf("%s %q %s %s behind=%v %q %v", e.Event.Position, e.Event.Key, e.Event.Topic, state, e.Behind, e.Reason, e.Floor)
}

func mustAgree(t *rapid.T, what string, got, want []Event) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = line(&got[i])
		}
		if i < len(want) {
			w = line(&want[i])
		}
		if g != w {
			t.Fatalf("%s: the %d. of %d is\n%s, want the %d. of %d\n%s", what, i+1, len(got), g, i+1, len(want), w)
		}
	}
}

// TestTheOrderOfAKeyHolds holds the table against the model through any sequence of what the relay and operators do.
func TestTheOrderOfAKeyHolds(t *testing.T) {
	t.Parallel()
	dsn := stacktest.Database(t, server())
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		ctx := context.Background()
		s, err := Open(ctx, dsn, testSource+strconv.Itoa(run))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		s.dueBytes = rapid.Int64Range(1, 6000).Draw(t, "due bytes")
		m := &model{}
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		next := 0
		anyEvent := func(t *rapid.T) *Event {
			if len(m.events) == 0 {
				t.Skip("nothing is parked")
			}
			return &m.events[rapid.IntRange(0, len(m.events)-1).Draw(t, "event")]
		}
		limits := rapid.SampledFrom([]int{1, 2, 3, 5, 100})
		t.Repeat(map[string]func(*rapid.T){
			"park": func(t *rapid.T) {
				var events []Event
				for range rapid.IntRange(1, 8).Draw(t, "n") {
					next++
					n := next
					if rapid.IntRange(0, 9).Draw(t, "again or late") == 0 {
						n = rapid.IntRange(0, next).Draw(t, "position")
					}
					e := behind(n, rapid.SampledFrom([]string{"a", "b", "", "null"}).Draw(t, "key"))
					if rapid.IntRange(0, 2).Draw(t, "kind") == 0 {
						e = poison(n, string(e.Event.Key))
					}
					if string(e.Event.Key) == "null" {
						e.Event.Key = nil
					}
					if rapid.Bool().Draw(t, "topic") {
						e.Event.Topic = "others" // as long as the other
					}
					e.Event.Value = make([]byte, rapid.IntRange(0, 2000).Draw(t, "size"))
					events = append(events, e)
				}
				ok(s.Park(ctx, events))
				m.park(events)
			},
			"release": func(t *rapid.T) {
				e := anyEvent(t)
				err := s.Release(ctx, rapid.SampledFrom([]string{e.Event.ID, e.Event.Position.String()}).Draw(t, "id"))
				blocker := m.blocker(e)
				waits := e.State == Waiting || e.State == Released && e.Behind
				if overtakes := waits && blocker != nil && blocker != e; overtakes != IsConflict(err) || !overtakes && err != nil {
					t.Fatalf("release of %s: %v", line(e), err)
				}
				if err == nil && e.State == Waiting {
					e.State = Released
				}
			},
			"release key": func(t *rapid.T) {
				key := rapid.SampledFrom([]string{"a", "b", "", "c"}).Draw(t, "key")
				got, err := s.ReleaseKey(ctx, key)
				want, there := int64(0), false
				for i := range m.events {
					e := &m.events[i]
					if e.Event.Key == nil || string(e.Event.Key) != key {
						continue
					}
					there = true
					if e.blocks() {
						e.State = Released
						want++
					}
				}
				if got != want || there == IsNotFound(err) || there && err != nil {
					t.Fatalf("release of key %s: %d, %v, want %d of them", key, got, err, want)
				}
			},
			"release all": func(t *rapid.T) {
				got, err := s.ReleaseAll(ctx)
				ok(err)
				want := int64(0)
				for i := range m.events {
					if m.events[i].blocks() {
						m.events[i].State = Released
						want++
					}
				}
				if got != want {
					t.Fatalf("released %d, want %d", got, want)
				}
			},
			"discard": func(t *rapid.T) {
				e := anyEvent(t)
				err := s.Discard(ctx, e.Event.ID)
				if (e.State == Publishing) != IsConflict(err) || e.State != Publishing && err != nil {
					t.Fatalf("discard of %s: %v", line(e), err)
				}
				if err == nil {
					m.remove(e.Event.Position)
				}
			},
			"publish": func(t *rapid.T) { // what the relay does, up to some point
				limit := limits.Draw(t, "limit")
				events, err := s.Due(ctx, limit)
				ok(err)
				mustAgree(t, "due", events, m.due(limit, s.dueBytes))
				if len(events) == 0 || rapid.IntRange(0, 4).Draw(t, "no further") == 0 {
					return
				}
				for i := range events {
					events[i].Floor = map[int32]int64{int32(i): rapid.Int64Range(0, 1<<40).Draw(t, "floor")}
				}
				if rapid.IntRange(0, 4).Draw(t, "discarded meanwhile") == 0 && events[0].State != Publishing {
					ok(s.Discard(ctx, events[0].Event.ID))
					m.remove(events[0].Event.Position)
					if err := s.Publishing(ctx, events); !IsConflict(err) {
						t.Fatalf("a discarded event is handed over: %v", err)
					}
					return
				}
				ok(s.Publishing(ctx, events))
				for i := range events {
					e := m.at(events[i].Event.Position)
					e.State, e.Floor = Publishing, events[i].Floor
				}
				var done []decode.Position
				rejected := map[Key]bool{}
				for i := range events {
					ev := &events[i].Event
					key := Key{ev.Topic, string(ev.Key), ev.Key == nil}
					switch outcome := rapid.SampledFrom([]string{"published", "published", "rejected", "unknown"}).Draw(t, "outcome"); {
					case outcome == "rejected":
						rejected[key] = true
						ok(s.Rejected(ctx, ev.Position, "still"))
						e := m.at(ev.Position)
						e.State, e.Behind, e.Reason, e.Floor = Waiting, false, "still", nil
					case outcome == "published" && !rejected[key]:
						done = append(done, ev.Position)
						m.remove(ev.Position)
					}
				}
				ok(s.Published(ctx, done))
				ok(s.Published(ctx, done)) // again, as after a lost answer
			},
			"reconnect": func(*rapid.T) { s.disconnect() },
			"": func(t *rapid.T) {
				limit := limits.Draw(t, "limit")
				events, err := s.Due(ctx, limit)
				ok(err)
				mustAgree(t, "due", events, m.due(limit, s.dueBytes))
			},
			"look": func(t *rapid.T) {
				listed, err := s.List(ctx, 0)
				ok(err)
				first := slices.Clone(m.events)
				slices.SortStableFunc(first, func(a, b Event) int { return btoi(b.blocks()) - btoi(a.blocks()) })
				mustAgree(t, "list", listed, first)
				keys, err := s.Keys(ctx)
				ok(err)
				want := m.keys()
				for _, key := range keys {
					if !want[key] {
						t.Fatalf("key %+v has no parked event, or comes twice", key)
					}
					delete(want, key)
				}
				if len(want) > 0 {
					t.Fatalf("no word of the keys %v", want)
				}
				if n, err := s.Count(ctx); err != nil || n != int64(len(m.events)) {
					t.Fatalf("%d are parked, %v, want %d", n, err, len(m.events))
				}
				var last decode.Position
				if len(m.events) > 0 {
					last = m.events[len(m.events)-1].Event.Position
				}
				if newest, err := s.Newest(ctx); err != nil || newest != last {
					t.Fatalf("the newest is %s, %v, want %s", newest, err, last)
				}
			},
		})
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
