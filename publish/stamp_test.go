package publish

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/decode"
)

// A row may bring along a header named id, behind the relay's own. A row from before the slot is known by its id alone, so
// whoever took the row's header for it would publish the row again after a crash.
func TestARowsOwnHeadersAreNotTakenForTheRelays(t *testing.T) {
	headers := func(pairs ...string) (out []kgo.RecordHeader) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, kgo.RecordHeader{Key: pairs[i], Value: []byte(pairs[i+1])})
		}
		return out
	}
	const position = "0000000000000000-00000003"
	for _, test := range []struct {
		what    string
		headers []kgo.RecordHeader
		want    Stamp
	}{
		{"nothing", nil, Stamp{}},
		{"another's", headers("kind", "x"), Stamp{}},
		{"ours", headers("id", "a", "tidemark-position", position, "tidemark-source", "s"), Stamp{ID: "a", Any: true, Position: position, Source: "s"}},
		{"an id of the row's", headers("id", "a", "tidemark-position", position, "tidemark-source", "s", "id", "b", "ce_id", "c"), Stamp{ID: "a", Any: true, Position: position, Source: "s"}},
		{"a CloudEvent", headers("ce_id", "a", "tidemark-source", "s", "id", "b"), Stamp{ID: "a", Any: true, Source: "s"}},
		{"repaired", headers("id", "a", "tidemark-replay", "verify"), Stamp{ID: "a", Any: true, Replayed: true}},
		{"an empty id", headers("id", "", "id", "b"), Stamp{Any: true}},
	} {
		if got := ReadStamp(test.headers); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.what, got, test.want)
		}
	}

	r := &tailReader{tail: Tail{Source: "s"}, present: newPresent(0), read: map[place]*progress{{topic: "t"}: {}}}
	r.note(&kgo.Record{Topic: "t", Headers: headers("id", "a", "tidemark-position", position, "tidemark-source", "s", "id", "b")})
	for id, want := range map[string]bool{"a": true, "b": false} {
		if got := r.present.Has(&decode.Event{Topic: "t", ID: id}); got != want {
			t.Errorf("row %s is in Kafka: %v, want %v", id, got, want)
		}
	}
}
