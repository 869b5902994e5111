package checkpoint_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidemark/tidemark/checkpoint"
)

// Store is what every store offers. Relay needs Load and Save, the commands the rest.
type Store interface {
	Load(ctx context.Context) (*checkpoint.Checkpoint, error)
	Save(ctx context.Context, c *checkpoint.Checkpoint, holder string) error
	Replace(ctx context.Context, c *checkpoint.Checkpoint, now time.Time) (kept string, err error)
	Close()
	String() string
}

// save stores c, whoever holds the checkpoint.
func save(t rapid.TB, s Store, c *checkpoint.Checkpoint) {
	t.Helper()
	stored, err := s.Load(context.Background())
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	if err := s.Save(context.Background(), c, writer(stored)); err != nil {
		t.Fatalf("Save: %v", err)
	}
}

func writer(c *checkpoint.Checkpoint) string {
	if c == nil {
		return ""
	}
	return c.Writer
}

// place is where a checkpoint can be, with nothing stored at first.
type place struct {
	open  func() Store             // another store of this place, closed with the test
	plant func(contents string)    // puts contents there, as somebody might who is no store
	kept  func(mark string) string // returns what Replace has kept
}

// conformance holds a kind of store against what relay relies on. newPlace returns another place at each call.
func conformance(t *testing.T, newPlace func(t *testing.T) place) {
	t.Helper()
	newStore := func(t *testing.T) Store {
		t.Helper()
		return newPlace(t).open()
	}
	t.Run("what is no whole checkpoint is refused", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		for name, contents := range damaged(t) {
			p.plant(contents)
			s := p.open()
			c, err := s.Load(t.Context())
			if !checkpoint.IsCorrupt(err) || c != nil {
				t.Fatalf("%s: Load() = %+v, %v, want an error that is corrupt", name, c, err)
			}
			if newer := name == "a newer version"; checkpoint.IsNewer(err) != newer {
				t.Errorf("%s: %v: newer is %v", name, err, !newer)
			}
			for _, holder := range []string{"", "somebody"} {
				if err := s.Save(t.Context(), example(1), holder); !checkpoint.IsCorrupt(err) {
					t.Fatalf("%s: Save over it as %q: %v, want an error that is corrupt", name, holder, err)
				}
			}
		}
		p.plant(string(encode(t, example(3)))) // so that it was not the planting
		mustLoad(t, p.open(), example(3))
	})
	t.Run("what an earlier version has stored is loaded and replaced", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		for _, f := range before(t) {
			p.plant(string(f.text))
			s := p.open()
			mustLoad(t, s, f.means)
			next := example(1)
			if err := s.Save(t.Context(), next, f.means.Writer); err != nil {
				t.Fatal(err)
			}
			mustLoad(t, p.open(), next)
		}
	})
	t.Run("what is saved here is loaded there", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		here, there := p.open(), p.open()
		for n := range uint64(3) {
			save(t, here, example(2*n))
			mustLoad(t, there, example(2*n))
			save(t, there, example(2*n+1))
			mustLoad(t, here, example(2*n+1))
		}
	})
	t.Run("whoever was taken over from saves no more", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		by := func(n uint64, writer string) *checkpoint.Checkpoint {
			c := example(n)
			c.Writer = writer
			return c
		}
		zombie, successor := p.open(), p.open()
		save(t, zombie, by(1, "zombie"))
		save(t, zombie, by(2, "zombie"))
		save(t, successor, by(2, "successor"))
		for n := range uint64(3) {
			for _, holder := range []string{"zombie", ""} {
				if err := zombie.Save(t.Context(), by(9, "zombie"), holder); !checkpoint.IsTakenOver(err) {
					t.Fatalf("Save after the takeover, as %q: %v, want taken over", holder, err)
				}
			}
			if err := successor.Save(t.Context(), by(3+n, "successor"), "successor"); err != nil {
				t.Fatalf("Save of the successor: %v", err)
			}
			mustLoad(t, zombie, by(3+n, "successor"))
		}
		save(t, zombie, by(7, "zombie")) // having loaded what is stored, it may take over in its turn
		mustLoad(t, successor, by(7, "zombie"))
	})
	t.Run("what is there can be replaced, and is kept", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		s := p.open()
		now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
		if kept, err := s.Replace(t.Context(), example(1), now); kept != "" || err != nil {
			t.Fatalf("Replace nothing: %q, %v", kept, err)
		}
		mustLoad(t, p.open(), example(1))
		zombie := p.open()
		save(t, zombie, example(2))
		next := example(3)
		next.Writer = ""
		for i, contents := range []string{"", `{"torn": true}`} {
			if contents != "" {
				p.plant(contents)
			}
			kept, err := s.Replace(t.Context(), next, now.Add(time.Duration(i)*time.Second))
			if err != nil || !strings.Contains(kept, fmt.Sprintf(".before-20261122T10000%d.000000Z", i)) {
				t.Fatalf("Replace: %q, %v", kept, err)
			}
			mustLoad(t, p.open(), next)
		}
		if err := zombie.Save(t.Context(), example(9), example(2).Writer); !checkpoint.IsTakenOver(err) {
			t.Errorf("Save of what was replaced: %v, want taken over", err)
		}
		save(t, s, example(4))
		mustLoad(t, p.open(), example(4))
		if kept := p.kept("before-20261122T100000.000000Z"); kept != string(encode(t, example(2))) {
			t.Errorf("kept is %q", kept)
		}
		if kept := p.kept("before-20261122T100001.000000Z"); kept != `{"torn": true}` {
			t.Errorf("kept is %q", kept)
		}
	})
	// A save may arrive and its answer may not: whoever tries again then is not to be told that it has been taken over
	// from, by itself.
	t.Run("a takeover can be repeated", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		save(t, p.open(), example(1))
		next := example(2)
		next.Writer = "next"
		s := p.open()
		for range 2 {
			if err := s.Save(t.Context(), next, example(1).Writer); err != nil {
				t.Fatal(err)
			}
		}
		mustLoad(t, p.open(), next)
	})
	t.Run("of two who take over one does", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		save(t, p.open(), example(0))
		for round := range 5 {
			seen, err := p.open().Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var work sync.WaitGroup
			errs := make([]error, 3)
			for i := range errs {
				s, c := p.open(), example(uint64(round)) //nolint:gosec // small
				c.Writer = fmt.Sprintf("%d-%d", round, i)
				work.Go(func() { errs[i] = s.Save(t.Context(), c, seen.Writer) })
			}
			work.Wait()
			stored, err := p.open().Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for i, err := range errs {
				if won := stored.Writer == fmt.Sprintf("%d-%d", round, i); won != (err == nil) || (!won && !checkpoint.IsTakenOver(err)) {
					t.Errorf("round %d: Save of %d: %v, and stored is %s", round, i, err, stored.Writer)
				}
			}
		}
	})
	t.Run("nothing stored is nil and no error", func(t *testing.T) {
		t.Parallel()
		if c, err := newStore(t).Load(t.Context()); c != nil || err != nil {
			t.Errorf("Load() = %+v, %v", c, err)
		}
	})
	t.Run("it names itself", func(t *testing.T) {
		t.Parallel()
		if s := newStore(t); s.String() == "" {
			t.Error("String() is empty")
		}
	})
	t.Run("what was saved is loaded", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		seed := rand.IntN(1e6) //nolint:gosec // no secret
		t.Logf("seed %d", seed)
		for i := range 20 { // each waits for a disk
			want := anyCheckpoint().Example(seed + i)
			save(t, s, want)
			mustLoad(t, s, want)
		}
	})
	t.Run("the smaller replaces the larger", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		large := example(1)
		large.Offsets = checkpoint.Offsets{}
		for i := range 100 {
			large.Offsets[fmt.Sprintf("topic-%d", i)] = map[int32]int64{0: math.MaxInt64, math.MaxInt32: 1}
		}
		for _, c := range []*checkpoint.Checkpoint{large, example(2)} {
			save(t, s, c)
			mustLoad(t, s, c)
		}
	})
	t.Run("what is stored and what is held are apart", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		c := example(1)
		save(t, s, c)
		c.LSN, c.Offsets["a"][0] = 999, 999
		loaded, err := s.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		loaded.LSN, loaded.Offsets["a"][0] = 998, 998
		mustLoad(t, s, example(1))
	})
	t.Run("a save that is cancelled leaves the old or the new", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		save(t, s, example(1))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		want := example(1)
		if s.Save(ctx, example(2), example(1).Writer) == nil {
			want = example(2)
		}
		mustLoad(t, s, want)
	})
	t.Run("only the holder saves", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		by := func(n uint64, writer string) *checkpoint.Checkpoint {
			c := example(n)
			c.Writer = writer
			return c
		}
		for _, step := range []struct {
			holder string
			save   *checkpoint.Checkpoint
			taken  bool
			stored *checkpoint.Checkpoint
		}{
			{"somebody", by(1, "a"), true, nil}, // nothing is stored, so nobody holds it
			{"", by(1, "a"), false, by(1, "a")},
			{"", by(2, "b"), true, by(1, "a")},
			{"b", by(2, "b"), true, by(1, "a")},
			{"a", by(2, "a"), false, by(2, "a")},
			{"a", by(3, "b"), false, by(3, "b")}, // b takes over
			{"a", by(9, "a"), true, by(3, "b")},  // and a, which was stopped for a while, is too late
			{"b", by(4, ""), false, by(4, "")},
			{"b", by(5, "b"), true, by(4, "")},
			{"", by(5, "c"), false, by(5, "c")},
		} {
			err := s.Save(t.Context(), step.save, step.holder)
			if step.taken != checkpoint.IsTakenOver(err) || (err == nil) == step.taken || checkpoint.IsCorrupt(err) {
				t.Fatalf("Save as %q: %v, want taken over: %v", step.holder, err, step.taken)
			}
			if step.stored != nil {
				mustLoad(t, s, step.stored)
			} else if c, err := s.Load(t.Context()); c != nil || err != nil {
				t.Fatalf("Load() = %+v, %v, want nothing", c, err)
			}
		}
	})
	// However many want it at once, each save builds on the one that its holder has seen, and none is lost. Whoever
	// loads meanwhile finds a whole one.
	t.Run("of savers at once one wins", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		first := example(0)
		first.Writer = ""
		save(t, s, first)
		const savers, attempts = 4, 10
		var work sync.WaitGroup
		var won atomic.Int64
		for saver := range savers {
			work.Go(func() {
				for i := range attempts {
					c, err := s.Load(t.Context())
					if err != nil || c == nil {
						t.Errorf("Load() = %v, %v beside savers", c, err)
						return
					}
					seen := c.Writer
					c.LSN++
					c.Writer = fmt.Sprintf("%d-%d", saver, i)
					c.Offsets = checkpoint.Offsets{}
					for n := range saver * 50 { // of different lengths
						c.Offsets[fmt.Sprint(n)] = map[int32]int64{0: int64(n)}
					}
					switch err := s.Save(t.Context(), c, seen); {
					case err == nil:
						won.Add(1)
					case !checkpoint.IsTakenOver(err):
						t.Errorf("save beside others: %v", err)
						return
					}
				}
			})
		}
		work.Wait()
		last, err := s.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := int64(last.LSN - first.LSN); got != won.Load() || got == 0 { //nolint:gosec // small
			t.Errorf("%d saves succeeded, and %d are in what is stored", won.Load(), got)
		}
	})
}

// damaged are contents that are no checkpoint, or none that this build may take for one. All of them are JSON objects,
// which is what every store can be made to hold.
func damaged(t *testing.T) map[string]string {
	t.Helper()
	whole := string(encode(t, example(0)))
	newer := example(0)
	newer.Version = checkpoint.Version + 1
	without := func(field string) string {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal([]byte(whole), &fields); err != nil {
			t.Fatal(err)
		}
		delete(fields, field)
		b, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	return map[string]string{
		"an empty object":    "{}",
		"somebody else's":    `{"version": 1, "offset": 17, "writer": "somebody"}`,
		"a newer version":    string(encode(t, newer)),
		"without a position": without("lsn"),
		"without offsets":    without("offsets"),
		"an unknown field":   strings.Replace(whole, "{", `{"more": 1, `, 1),
		"a slip in the LSN":  strings.Replace(whole, `"lsn": "`, `"lsn": "x`, 1),
	}
}

// mustLoad fails the test unless s holds want.
func mustLoad(t rapid.TB, s Store, want *checkpoint.Checkpoint) {
	t.Helper()
	got, err := s.Load(context.Background())
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	if got == nil {
		t.Fatalf("nothing is stored, want %+v", want)
	}
	if !got.WrittenAt.Equal(want.WrittenAt) {
		t.Errorf("written at %s, want %s", got.WrittenAt, want.WrittenAt)
	}
	g, w := *got, *want
	g.WrittenAt, w.WrittenAt = time.Time{}, time.Time{}
	if !reflect.DeepEqual(g, w) {
		t.Fatalf("Load() = %+v\nwant     %+v", g, w)
	}
}

// example returns a checkpoint in which every field is set, at a position of its own.
func example(n uint64) *checkpoint.Checkpoint {
	return &checkpoint.Checkpoint{
		Version: checkpoint.Version, SystemIdentifier: "7325476235476523874", Timeline: 3, Database: "app", Slot: "tidemark",
		LSN: checkpoint.LSN(0x16B3748 + n), Position: "00000000016B3700-00000002",
		Offsets:   checkpoint.Offsets{"a": {0: 17, 1: 4}, "b": {2: 0}},
		TopicIDs:  map[string]string{"a": "AAAAAAAAAAAAAAAAAAAAAQ=="},
		Producers: []int64{4711, 4712},
		Publication: &checkpoint.Publication{
			Row: "16394:742", Tables: map[string]string{"public.outbox": "16395:742 16399:750"},
			LSN: checkpoint.LSN(0x16B3700 + n), SeenAt: time.Date(2026, 11, 22, 9, 59, 30, 0, time.UTC),
		},
		Writer: "somebody", WrittenAt: time.Date(2026, 11, 22, 10, 0, 0, 123456789, time.UTC),
	}
}

// anyCheckpoint generates what a relay might store, and a bit more.
func anyCheckpoint() *rapid.Generator[*checkpoint.Checkpoint] {
	name := rapid.StringMatching(`[ -~äß€\n]{1,12}`)
	return rapid.Custom(func(t *rapid.T) *checkpoint.Checkpoint {
		c := &checkpoint.Checkpoint{
			Version:          checkpoint.Version,
			SystemIdentifier: rapid.StringMatching(`[1-9][0-9]{18}`).Draw(t, "system"),
			Timeline:         rapid.Int32Range(1, math.MaxInt32).Draw(t, "timeline"),
			Database:         name.Draw(t, "database"),
			Slot:             rapid.StringMatching(`[a-z0-9_]{1,63}`).Draw(t, "slot"),
			LSN:              checkpoint.LSN(rapid.Uint64Range(1, math.MaxUint64).Draw(t, "lsn")),
			Position:         rapid.SampledFrom([]string{"", "FFFFFFFFFFFFFFFF-FFFFFFFF"}).Draw(t, "position"),
			Offsets:          checkpoint.Offsets{},
			Writer:           rapid.SampledFrom([]string{"", "ABCDEF"}).Draw(t, "writer"),
			WrittenAt:        time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "at"), rapid.Int64Range(0, 999999999).Draw(t, "ns")).UTC(),
		}
		if rapid.Bool().Draw(t, "existing") {
			c.State = checkpoint.ExistingRows
			c.LSN = 0
		}
		for range rapid.IntRange(0, 5).Draw(t, "topics") {
			topic := name.Draw(t, "topic")
			if rapid.Bool().Draw(t, "with its id") {
				if c.TopicIDs == nil {
					c.TopicIDs = map[string]string{}
				}
				c.TopicIDs[topic] = rapid.StringMatching(`[A-Za-z0-9+/]{22}==`).Draw(t, "id")
			}
			partitions := map[int32]int64{}
			for range rapid.IntRange(1, 3).Draw(t, "partitions") {
				partitions[rapid.Int32Range(0, math.MaxInt32).Draw(t, "partition")] = rapid.Int64Range(0, math.MaxInt64).Draw(t, "offset")
			}
			c.Offsets[topic] = partitions
		}
		if rapid.Bool().Draw(t, "publication") {
			c.Publication = &checkpoint.Publication{
				Row: rapid.StringMatching(`[0-9]{1,10}:[0-9]{1,10}`).Draw(t, "row"), Tables: map[string]string{name.Draw(t, "table"): "1:2"},
				LSN: checkpoint.LSN(rapid.Uint64().Draw(t, "seen")), SeenAt: time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "seen at"), 0).UTC(),
			}
		}
		if rapid.Bool().Draw(t, "producers") {
			c.Producers = rapid.SliceOfN(rapid.Int64Range(0, math.MaxInt64), 1, 4).Draw(t, "ids")
		}
		return c
	})
}
