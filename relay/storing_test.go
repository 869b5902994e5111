package relay

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"testing"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/checkpoint"
)

// memory is a store that can refuse.
type memory struct {
	saved checkpoint.Checkpoint
	err   error
}

func (m *memory) Load(context.Context) (*checkpoint.Checkpoint, error) { return &m.saved, nil }
func (m *memory) String() string                                       { return "memory" }

func (m *memory) Save(_ context.Context, c *checkpoint.Checkpoint, _ string) error {
	if m.err == nil {
		m.saved = *c
	}
	return m.err
}

// TestOffsetsAreThoseOfACutThatIsSafe: an event beyond the stored LSN may already be acknowledged. Storing the ends of the
// moment would put it before them, where a successor does not look.
func TestOffsetsAreThoseOfACutThatIsSafe(t *testing.T) {
	t.Parallel()
	store := &memory{}
	s := newStoring(store, checkpoint.Checkpoint{LSN: 10, Offsets: checkpoint.Offsets{"t": {0: 1, 1: 1}}}, "me")
	s.cutAt(100, checkpoint.Offsets{"t": {0: 5}})  // events up to 100 have been handed over, some are acknowledged
	s.cutAt(100, checkpoint.Offsets{"t": {0: 7}})  // the same, a little later
	s.cutAt(200, checkpoint.Offsets{"t": {0: 90}}) // and those up to 200
	steps := []struct {
		safe checkpoint.Mark
		want int64
	}{
		{checkpoint.Mark{End: 50}, 1},
		{checkpoint.Mark{End: 100}, 1}, // the transaction that commits at 100 ends later
		{checkpoint.Mark{End: 101}, 7},
		{checkpoint.Mark{End: 200}, 7},
		{checkpoint.Mark{End: 201}, 90},
	}
	for _, step := range steps {
		if err := s.advance(t.Context(), step.safe, 0); err != nil {
			t.Fatal(err)
		}
		if got := store.saved.Offsets["t"]; got[0] != step.want || got[1] != 1 {
			t.Errorf("safe at %s: offsets %v, want %d and 1", step.safe.End, got, step.want)
		}
	}
}

func TestNothingIsConfirmableThatIsNotStored(t *testing.T) {
	t.Parallel()
	store := &memory{err: errors.New("disk full")}
	s := newStoring(store, checkpoint.Checkpoint{LSN: 10}, "me")
	if err := s.advance(t.Context(), checkpoint.Mark{End: 50}, 0); err == nil || s.confirmable() != 10 {
		t.Errorf("the store refused (%v), and %s is confirmable", err, s.confirmable())
	}
	store.err = nil
	if err := s.advance(t.Context(), checkpoint.Mark{End: 50}, 0); err != nil || s.confirmable() != 50 || store.saved.LSN != 50 {
		t.Errorf("stored %s, confirmable %s (%v)", store.saved.LSN, s.confirmable(), err)
	}
	if err := s.advance(t.Context(), checkpoint.Mark{End: 40}, 0); err != nil || s.confirmable() != 50 {
		t.Errorf("it went back to %s (%v)", s.confirmable(), err)
	}
}

// TestOnlyTheEndOfTheLogCanWait: a store in the source's own cluster writes to the log, and would otherwise keep itself busy.
// Events never wait.
func TestOnlyTheEndOfTheLogCanWait(t *testing.T) {
	t.Parallel()
	s := newStoring(&memory{}, checkpoint.Checkpoint{LSN: 10}, "me")
	event := checkpoint.Mark{End: 60, Commit: 50, Events: 2}
	for _, step := range []struct {
		mark checkpoint.Mark
		wait bool
	}{
		{checkpoint.Mark{End: 20}, false}, // nothing has been stored yet
		{checkpoint.Mark{End: 30}, true},
		{event, false},
		{checkpoint.Mark{End: 70, Commit: 50, Events: 2}, true}, // the same events, and more of the log
		{checkpoint.Mark{End: 90, Commit: 80, Events: 2}, false},
	} {
		if got := s.canWait(step.mark); got != step.wait {
			t.Errorf("%+v can wait: %v, want %v", step.mark, got, step.wait)
		}
		if step.wait {
			continue
		}
		if err := s.advance(t.Context(), step.mark, 0); err != nil {
			t.Fatal(err)
		}
	}
	s.saved = s.saved.Add(-idleEvery)
	if s.canWait(checkpoint.Mark{End: 99, Commit: 80, Events: 2}) {
		t.Error("it waits for ever")
	}
}

// TestCutsAreFewHoweverLongATransactionWaits: what is stored is never beyond the cut that has been passed, and is close to it.
func TestCutsAreFewHoweverLongATransactionWaits(t *testing.T) {
	t.Parallel()
	const cuts = 1000
	for safe := pglogrepl.LSN(1); safe <= cuts+1; safe += 50 {
		store := &memory{}
		s := newStoring(store, checkpoint.Checkpoint{}, "me")
		for i := range int64(cuts) {
			partition := int32(i % 10)                                         //nolint:gosec // small
			s.cutAt(pglogrepl.LSN(i), checkpoint.Offsets{"t": {partition: i}}) //nolint:gosec // small
			if len(s.cuts) > maxCuts {
				t.Fatalf("%d cuts are kept", len(s.cuts))
			}
		}
		if err := s.advance(t.Context(), checkpoint.Mark{End: safe}, 0); err != nil {
			t.Fatal(err)
		}
		for partition, offset := range store.saved.Offsets["t"] {
			if offset >= int64(safe) { //nolint:gosec // small
				t.Errorf("safe at %d: the offset of partition %d is %d", safe, partition, offset)
			}
		}
		if end := store.saved.Offsets["t"][9]; safe == cuts+1 && end != cuts-1 {
			t.Errorf("everything is safe, and partition 9 is stored with %d", end)
		}
		if err := s.advance(t.Context(), checkpoint.Mark{End: cuts + 1}, 0); err != nil || len(s.cuts) != 0 {
			t.Fatalf("%d cuts are left, %v", len(s.cuts), err)
		}
		for partition := range int32(10) {
			if got, want := store.saved.Offsets["t"][partition], int64(cuts-10+partition); got != want {
				t.Errorf("the offset of partition %d is %d, want %d", partition, got, want)
			}
		}
	}
}

func TestCutsOutliveAStoreThatFails(t *testing.T) {
	t.Parallel()
	store := &memory{err: errors.New("disk full")}
	s := newStoring(store, checkpoint.Checkpoint{}, "me")
	s.cutAt(5, checkpoint.Offsets{"t": {0: 5}})
	s.cutAt(5, checkpoint.Offsets{"t": {1: 9}}) // what has changed meanwhile
	if err := s.advance(t.Context(), checkpoint.Mark{End: 6, Count: 1}, 0); err == nil || s.count.Load() != 0 {
		t.Errorf("%v, %d transactions are stored", err, s.count.Load())
	}
	store.err = nil
	if err := s.advance(t.Context(), checkpoint.Mark{End: 7, Count: 2}, 0); err != nil || s.count.Load() != 2 || !maps.Equal(store.saved.Offsets["t"], map[int32]int64{0: 5, 1: 9}) {
		t.Errorf("%v, %d transactions are stored, with %v", err, s.count.Load(), store.saved.Offsets)
	}
}

// A fork is noted with the ends of the moment of the takeover, and kept until the LSN has reached it.
func TestForkIsKeptUntilItIsPassed(t *testing.T) {
	t.Parallel()
	store := &memory{}
	s := newStoring(store, checkpoint.Checkpoint{
		Timeline: 1, LSN: 10, Offsets: checkpoint.Offsets{"t": {0: 1, 1: 8}, "u": {0: 2}}, Forks: []checkpoint.Fork{{LSN: 100}},
	}, "me")
	ends := checkpoint.Offsets{"t": {0: 5, 1: 6}, "u": {0: 4}}
	if err := s.claim(t.Context(), 4711, "", 2, ends); err != nil {
		t.Fatal(err)
	}
	if c := store.saved; c.Timeline != 2 || !reflect.DeepEqual(c.Forks, []checkpoint.Fork{{LSN: 100, Offsets: ends}}) || c.Offsets["t"][0] != 1 {
		t.Errorf("after the takeover: %+v", c)
	}
	if err := s.claim(t.Context(), 4712, "", 2, checkpoint.Offsets{"t": {0: 50}}); err != nil {
		t.Fatal(err)
	}
	if c := store.saved; !reflect.DeepEqual(c.Forks, []checkpoint.Fork{{LSN: 100, Offsets: ends}}) {
		t.Errorf("the next takeover moves it: %+v", c.Forks)
	}
	if err := s.cover(t.Context(), map[string]topicBase{"u": {"new", map[int32]int64{0: 0}}}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		end  pglogrepl.LSN
		left int
		want checkpoint.Offsets
	}{
		{99, 1, checkpoint.Offsets{"t": {0: 1, 1: 8}, "u": {0: 0}}},
		{100, 0, checkpoint.Offsets{"t": {0: 5, 1: 8}, "u": {0: 0}}},
	} {
		if err := s.advance(t.Context(), checkpoint.Mark{End: step.end}, 2); err != nil {
			t.Fatal(err)
		}
		if c := store.saved; len(c.Forks) != step.left || !reflect.DeepEqual(c.Offsets, step.want) {
			t.Errorf("at %s: forks %+v, offsets %v; want %d and %v", step.end, c.Forks, c.Offsets, step.left, step.want)
		}
	}
	if ends["u"][0] != 4 {
		t.Error("a map that was stored before has changed")
	}
}

// What is safe was read from the timeline that was asked for afterwards, and is stored with it, also if nothing is new.
func TestTimelineIsStoredWithWhatWasReadFromIt(t *testing.T) {
	t.Parallel()
	store := &memory{}
	s := newStoring(store, checkpoint.Checkpoint{Timeline: 1, LSN: 10}, "me")
	if err := s.advance(t.Context(), checkpoint.Mark{End: 10}, 2); err != nil || store.saved.Timeline != 2 || store.saved.LSN != 10 {
		t.Errorf("stored %+v, %v", store.saved, err)
	}
}
