package park

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tidemark/tidemark/decode"
)

// mustSay checks that err is of that kind and tells a person what he has to know.
func mustSay(t *testing.T, err error, is func(error) bool, words ...string) {
	t.Helper()
	if !is(err) {
		t.Fatalf("not that kind of error: %v", err)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("does not say %q: %v", word, err)
		}
	}
}

func TestReleaseIsRefusedWhileAnEarlierEventOfTheKeyWaits(t *testing.T) {
	t.Parallel()
	s, _ := openNew(t)
	ctx := t.Context()
	mustPark(t, s, poison(1, "a"), behind(2, "a"), poison(3, "a"), behind(4, "a"), poison(5, "b"))
	for _, id := range []string{"id-2", "id-3", "id-4", at(3).String()} {
		mustSay(t, s.Release(ctx, id), IsConflict, `"id-1"`, at(1).String(), "reason 1", "tidemark parked release "+at(1).String(), "discard "+at(1).String(), "--key")
	}
	mustBeDue(t, s)
	must(t, s.Release(ctx, "id-5")) // another key
	must(t, s.Release(ctx, "id-1"))
	must(t, s.Release(ctx, "id-1"))
	mustBeDue(t, s, 1, 2, 5)
	mustSay(t, s.Release(ctx, "id-4"), IsConflict, `"id-3"`)
	must(t, s.Release(ctx, at(3).String()))
	mustBeDue(t, s, 1, 2, 3, 4, 5)

	// Handed over, and then released again: it stays handed over.
	must(t, s.Publishing(ctx, due(t, s, 1)))
	must(t, s.Release(ctx, "id-1"))
	if e := show(t, s, "id-1"); e.State != Publishing {
		t.Errorf("after a release it is %s", e.State)
	}
}

func TestReleaseIsRefusedWhereAnEarlierEventWasParkedLater(t *testing.T) {
	t.Parallel()
	s, _ := openNew(t)
	mustPark(t, s, behind(2, "a")) // leads its key, so it is let go
	mustBeDue(t, s, 2)
	mustPark(t, s, poison(1, "a"))
	mustBeDue(t, s)
	mustSay(t, s.Release(t.Context(), "id-2"), IsConflict, "id-1")
	must(t, s.Release(t.Context(), "id-1"))
	must(t, s.Release(t.Context(), "id-2"))
	mustBeDue(t, s, 1, 2)
}

func TestAnAmbiguousIDChangesNothing(t *testing.T) {
	t.Parallel()
	s, _ := openNew(t)
	ctx := t.Context()
	first, second, third := poison(1, "a"), poison(2, "b"), poison(3, "c")
	second.Event.ID, second.Event.Table = first.Event.ID, "public.other"
	third.Event.ID = at(1).String() // an id that looks like the position of another
	mustPark(t, s, first, second, third)

	events, err := s.Show(ctx, "id-1")
	must(t, err)
	if len(events) != 2 || events[0].Event.Table != "public.outbox" || events[1].Event.Table != "public.other" {
		t.Errorf("shown: %+v", events)
	}
	for _, change := range []func(string) error{
		func(id string) error { return s.Release(ctx, id) }, func(id string) error { return s.Discard(ctx, id) },
	} {
		mustSay(t, change("id-1"), IsConflict, "2 parked events", at(1).String(), "public.outbox", at(2).String(), "public.other")
		mustSay(t, change("id-9"), IsNotFound)
		mustSay(t, change(at(9).String()), IsNotFound)
	}
	mustBeDue(t, s)
	must(t, s.Release(ctx, at(2).String()))
	mustBeDue(t, s, 2)
	must(t, s.Discard(ctx, at(1).String())) // the event there, not the one with such an id
	if n := count(t, s); n != 2 {
		t.Errorf("%d are parked", n)
	}
	must(t, s.Release(ctx, at(1).String())) // now there is only the id
	mustBeDue(t, s, 2, 3)
	if _, err := s.Show(ctx, "id-9"); !IsNotFound(err) {
		t.Errorf("show of nothing: %v", err)
	}
}

func TestReleaseKeyMeansThatKeyInEveryTopic(t *testing.T) {
	t.Parallel()
	s, _ := openNew(t)
	ctx := t.Context()
	elsewhere := poison(3, "a")
	elsewhere.Event.Topic = "payments"
	null := poison(6, "")
	null.Event.Key = nil
	mustPark(t, s, poison(1, "a"), poison(2, "a"), elsewhere, poison(4, "A"), poison(5, ""), null, poison(7, "\x00\xff"), poison(8, `\x61`), poison(9, `\xyz`))
	for _, test := range []struct {
		key  string
		n    int64
		want []int
	}{
		{"a", 3, []int{1, 2, 3}},
		{"a", 0, []int{1, 2, 3}},
		{"", 1, []int{1, 2, 3, 5}},
		{`\x00FF`, 1, []int{1, 2, 3, 5, 7}},
		{`\x41`, 1, []int{1, 2, 3, 4, 5, 7}},          // A
		{`\x5c783631`, 1, []int{1, 2, 3, 4, 5, 7, 8}}, // the text \x61
		{`\xyz`, 1, []int{1, 2, 3, 4, 5, 7, 8, 9}},    // no hex, so text
	} {
		n, err := s.ReleaseKey(ctx, test.key)
		if n != test.n || err != nil {
			t.Errorf("released %d of %s, %v, want %d", n, test.key, err, test.n)
		}
		mustBeDue(t, s, test.want...)
	}
	_, err := s.ReleaseKey(ctx, "nobody's")
	mustSay(t, err, IsNotFound)
}

func TestReleaseAllFreesAllButReleasesNothingTwice(t *testing.T) {
	t.Parallel()
	s, _ := openNew(t)
	events := make([]Event, 0, releaseBatch+100)
	for n := range cap(events) {
		events = append(events, poison(n, "a"))
	}
	mustPark(t, s, events...)
	n, err := s.ReleaseAll(t.Context())
	if n != int64(len(events)) || err != nil {
		t.Errorf("released %d of %d, %v", n, len(events), err)
	}
	tally, err := s.Tally(t.Context())
	if want := (Tally{Released: int64(len(events))}); tally != want || err != nil {
		t.Errorf("then there are %+v, %v", tally, err)
	}
}

func TestReleaseAllEndsWhateverTheRelayRejectsMeanwhile(t *testing.T) {
	t.Parallel()
	s, dsn := openNew(t)
	mustPark(t, s, poison(1, "a"), poison(2, "b"), poison(3, "c"))
	sql(t, dsn, "create function reject() returns trigger language plpgsql as $$ begin new.state := 'waiting'; return new; end $$",
		"create trigger reject before update on tidemark_parked for each row execute function reject()")
	ctx, cancel := contextFor(t, time.Minute)
	defer cancel()
	if n, err := s.ReleaseAll(ctx); n != 3 || err != nil {
		t.Errorf("released %d, %v, want 3", n, err)
	}
}

func TestDiscardLetsGoWhatWaitedBehind(t *testing.T) {
	t.Parallel()
	s, _ := openNew(t)
	ctx := t.Context()
	mustPark(t, s, poison(1, "a"), behind(2, "a"), poison(3, "a"), behind(4, "a"), behind(5, "b"))
	must(t, s.Discard(ctx, "id-1"))
	mustBeDue(t, s, 2, 5)
	if tally, err := s.Tally(ctx); err != nil || tally != (Tally{Waiting: 1, Behind: 1, Released: 2}) {
		t.Errorf("%+v, %v", tally, err)
	}
	must(t, s.Publishing(ctx, due(t, s, 1)))
	mustSay(t, s.Discard(ctx, "id-2"), IsConflict, "Kafka")
	must(t, s.Discard(ctx, "id-4")) // from behind another
	must(t, s.Discard(ctx, "id-3"))
	must(t, s.Published(ctx, []decode.Position{at(2)}))
	mustHaveKeys(t, s, Key{"orders", "b", false})
	mustSay(t, s.Discard(ctx, "id-1"), IsNotFound)
}

func TestADiscardedEventIsNotHandedOver(t *testing.T) {
	t.Parallel()
	s, dsn := openNew(t)
	ctx := t.Context()
	operator := openAt(t, dsn, testSource)
	mustPark(t, s, poison(1, "a"), behind(2, "a"), poison(3, "b"))
	must(t, s.Release(ctx, "id-1"))
	events := due(t, s, 10)
	must(t, operator.Discard(ctx, "id-1"))
	mustSay(t, s.Publishing(ctx, events), IsConflict)
	if e := show(t, s, "id-2"); e.State != Released || e.Floor != nil {
		t.Errorf("it is %s, %v, although nothing was to be noted", e.State, e.Floor)
	}
	mustBeDue(t, s, 2)
	mustSay(t, s.Publishing(ctx, []Event{poison(3, "b")}), IsConflict) // waits for a decision
	must(t, s.Publishing(ctx, nil))
	must(t, s.Published(ctx, nil))
}

func TestRejectedWaitsAgainAndSoDoesWhatIsBehind(t *testing.T) {
	t.Parallel()
	s, _ := openNew(t)
	ctx := t.Context()
	mustPark(t, s, poison(1, "a"), behind(2, "a"), behind(3, "a"))
	must(t, s.Release(ctx, "id-1"))
	events := due(t, s, 2)
	floor := map[int32]int64{0: 17, 11: 1 << 60}
	events[0].Floor, events[1].Floor = floor, map[int32]int64{}
	must(t, s.Publishing(ctx, events))
	got := due(t, s, 10)
	if len(got) != 3 || got[0].State != Publishing || !reflect.DeepEqual(got[0].Floor, floor) || got[1].Floor == nil || len(got[1].Floor) != 0 || got[2].State != Waiting || got[2].Floor != nil {
		t.Errorf("due are %+v", got)
	}
	must(t, s.Published(ctx, []decode.Position{at(1)}))
	must(t, s.Rejected(ctx, at(2), "too\x00 large "+strings.Repeat("é", maxReason)))
	e := show(t, s, "id-2")
	if e.State != Waiting || e.Behind || e.Floor != nil || !strings.HasPrefix(e.Reason, "too\x00 large é") || len(e.Reason) > maxReason+10 || !strings.HasSuffix(e.Reason, "é…") {
		t.Errorf("rejected it is %+v", e)
	}
	mustBeDue(t, s)
	must(t, s.Rejected(ctx, at(9), "gone"))
	must(t, s.Release(ctx, "id-2"))
	mustBeDue(t, s, 2, 3)
}

func TestListShowsFirstWhatIsToBeDone(t *testing.T) {
	t.Parallel()
	s, _ := openNew(t)
	mustPark(t, s, poison(1, "a"), behind(2, "a"), behind(3, "a"), poison(4, "b"), poison(5, "c"))
	must(t, s.Release(t.Context(), "id-1"))
	for limit, want := range map[int]string{0: "45123", 1: "4", 2: "45", 3: "451", 9: "45123"} {
		events, err := s.List(t.Context(), limit)
		must(t, err)
		got := ""
		for _, e := range events {
			got += strings.TrimPrefix(e.Event.ID, "id-")
			if e.Event.Value != nil || e.ValueBytes != len("value") {
				t.Errorf("listed with %d bytes of value", len(e.Event.Value))
			}
		}
		if got != want {
			t.Errorf("a list of %d: %s, want %s", limit, got, want)
		}
	}
}
