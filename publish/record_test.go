package publish

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/tidemark/tidemark/decode"
)

// What is null arrives as null and what is empty as empty, byte for byte.
func TestRecordIsTheEventByteForByte(t *testing.T) {
	t.Parallel()
	binary := []byte{0, 0xff, '\n', 0xc3, 0x28, 0}
	at := time.Date(2026, 11, 22, 10, 0, 0, 123_000_000, time.UTC)
	full := decode.Event{
		ID: "full", Topic: "t", Key: []byte("k"), Value: []byte(`{"a": "ä"}`), Partition: decode.AnyPartition, Timestamp: at,
		Headers: []decode.Header{
			{Key: "id", Value: []byte("1")},
			{Key: "null", Value: nil},
			{Key: "empty", Value: []byte{}},
			{Key: "", Value: binary},
			{Key: "id", Value: []byte("again")},
			{Key: "ä€", Value: []byte("x")},
		},
	}
	with := func(change func(*decode.Event)) decode.Event {
		ev := full
		change(&ev)
		return ev
	}
	sent := []decode.Event{
		full,
		with(func(ev *decode.Event) { ev.Key = nil }),
		with(func(ev *decode.Event) { ev.Key = []byte{} }),
		with(func(ev *decode.Event) { ev.Key = binary }),
		with(func(ev *decode.Event) { ev.Value = nil }),
		with(func(ev *decode.Event) { ev.Value = []byte{} }),
		with(func(ev *decode.Event) { ev.Value = binary }),
		with(func(ev *decode.Event) { ev.Headers = nil }),
		with(func(ev *decode.Event) { ev.Value = bytes.Repeat([]byte("large "), 100_000) }),
		with(func(ev *decode.Event) { ev.Timestamp = time.UnixMilli(0) }),
		with(func(ev *decode.Event) { ev.Timestamp = time.Date(2261, 12, 31, 23, 59, 59, 0, time.UTC) }),
		with(func(ev *decode.Event) { ev.Timestamp = at.Add(999 * time.Microsecond).In(time.FixedZone("", 9*3600)) }), // a record has milliseconds
		with(func(ev *decode.Event) { ev.Partition = 0 }),
		with(func(ev *decode.Event) { ev.Partition = 1 }),
		with(func(ev *decode.Event) { ev.Partition, ev.Key = 1, nil }),
	}
	for i := range sent {
		sent[i].ID = fmt.Sprint(i)
		sent[i].Headers = append(slices.Clip(sent[i].Headers), decode.Header{Key: "n", Value: []byte(sent[i].ID)})
	}
	for _, codec := range []string{"", "none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run("compression "+codec, func(t *testing.T) {
			t.Parallel()
			cluster := newCluster(t)
			out := open(t, cluster, func(o *Options) { o.Compression = codec }).prepare("t")
			out.hand(sent...)
			back := map[string]*Delivery{}
			for i, a := range out.mustAck(len(sent)) {
				if back[a.Event.ID] != nil || a.Owner == nil {
					t.Errorf("answer %d is a second one for event %s", i, a.Event.ID)
				}
				back[a.Event.ID] = a.Delivery
			}
			ends := map[int32]int64{}
			for partition, records := range log(t, cluster, "t") {
				ends[partition] = int64(len(records))
				for _, r := range records {
					id := string(r.Headers[len(r.Headers)-1].Value)
					d := back[id]
					if d == nil {
						t.Fatalf("a record of event %q, which did not come back", id)
					}
					back[id] = nil
					mustBe(t, r, d)
				}
			}
			for id, d := range back {
				if d != nil {
					t.Errorf("event %s is acknowledged and not in the topic", id)
				}
			}
			if got := out.Ends(); !reflect.DeepEqual(got, map[string]map[int32]int64{"t": ends}) {
				t.Errorf("Ends() = %v, want %v", got, ends)
			}
		})
	}
}

func mustBe(t *testing.T, r *kgo.Record, d *Delivery) {
	t.Helper()
	ev := &d.Event
	same := func(what string, got, want []byte) {
		if !bytes.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("event %s: %s is %.50q (null %v), want %.50q (null %v)", ev.ID, what, got, got == nil, want, want == nil)
		}
	}
	same("the key", r.Key, ev.Key)
	same("the value", r.Value, ev.Value)
	if !r.Timestamp.Equal(ev.Timestamp.Truncate(time.Millisecond)) {
		t.Errorf("event %s: the timestamp is %s, want %s", ev.ID, r.Timestamp, ev.Timestamp)
	}
	if len(r.Headers) != len(ev.Headers) {
		t.Fatalf("event %s: %d headers, want %d", ev.ID, len(r.Headers), len(ev.Headers))
	}
	for i, h := range r.Headers {
		if h.Key != ev.Headers[i].Key {
			t.Errorf("event %s: header %d is %q, want %q", ev.ID, i, h.Key, ev.Headers[i].Key)
		}
		same("header "+h.Key, h.Value, ev.Headers[i].Value)
	}
	if r.Partition != d.Partition || r.Offset != d.Offset {
		t.Errorf("event %s: it is at %d/%d, and was acknowledged at %d/%d", ev.ID, r.Partition, r.Offset, d.Partition, d.Offset)
	}
	if ev.Partition != decode.AnyPartition && r.Partition != ev.Partition {
		t.Errorf("event %s: it is in partition %d, and asked for %d", ev.ID, r.Partition, ev.Partition)
	}
}

// The vectors are those of Kafka's own UtilsTest.testMurmur2, and of librdkafka for the empty key. A Java producer puts a
// key into the partition (hash & 0x7fffffff) % partitions.
func TestKeysGoWhereJavaPutsThem(t *testing.T) {
	t.Parallel()
	vectors := map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107, "": 275646681,
	}
	for _, partitions := range []int32{1, 7, 12} {
		cluster := newCluster(t)
		out := open(t, cluster, func(o *Options) { o.Topics.Partitions = partitions }).prepare("t")
		var sent []decode.Event
		for key := range vectors {
			sent = append(sent, decode.Event{ID: key, Topic: "t", Key: []byte(key), Partition: decode.AnyPartition})
		}
		out.hand(sent...)
		for _, a := range out.mustAck(len(sent)) {
			if want := (vectors[string(a.Event.Key)] & 0x7fffffff) % partitions; a.Partition != want {
				t.Errorf("of %d partitions %q goes to %d, and Java puts it into %d", partitions, a.Event.Key, a.Partition, want)
			}
		}
	}
}

// An event without a key has no order to keep, but it has to go somewhere, and not always to the same place.
func TestEventsWithoutKeyAreSpread(t *testing.T) {
	t.Parallel()
	out := open(t, newCluster(t), func(o *Options) { o.Topics.Partitions = 4 }).prepare("t")
	seen := map[int32]bool{}
	for n := 1; len(seen) < 2; n++ {
		if n > 200 {
			t.Fatal("200 batches went to one partition")
		}
		out.hand(decode.Event{ID: fmt.Sprint(n), Topic: "t", Value: []byte("v"), Partition: decode.AnyPartition})
		back := out.mustAck(n)
		seen[back[n-1].Partition] = true
	}
}

// A partition that the topic lacks is found before the event is handed over. Should it slip through, because the topic was
// made anew with fewer, the client rejects the event and IsPoison knows what it means.
func TestPartitionThatDoesNotExistIsPoison(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	out := open(t, cluster).prepare("t")
	batch := make([]Delivery, 1)
	batch[0].Event = event("t", 2, 1)
	err := out.Check(&batch[0])
	if err == nil || !strings.Contains(err.Error(), "partition 2 is asked for, and topic t has 2") {
		t.Errorf("Check: %v", err)
	}
	out.Publish(batch)
	if err := out.answers(1)[0].err; !IsPoison(err) || IsFenced(err) {
		t.Errorf("the answer is %v, want poison", err)
	}
	out.hand(event("t", 1, 2))
	if a := out.answers(2)[1]; a.err != nil || a.Partition != 1 {
		t.Errorf("the next event: %v, in partition %d", a.err, a.Partition)
	}
}

// Check must not let pass what the client or the broker refuses: by then the events behind it are under way.
func TestCheckLetsNothingPassThatIsTooLarge(t *testing.T) {
	t.Parallel()
	const most = 2000
	cluster := newCluster(t)
	out := open(t, cluster, func(o *Options) {
		o.Topics.Partitions = 1
		o.Topics.Configs = map[string]string{"max.message.bytes": fmt.Sprint(most)}
	}).prepare("t")
	n := 0
	passed, refused := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		ev := decode.Event{Topic: "t", Partition: decode.AnyPartition, Timestamp: time.UnixMilli(rapid.Int64Range(0, 1<<42).Draw(rt, "at"))}
		if rapid.Bool().Draw(rt, "with key") {
			ev.Key = []byte(rapid.StringN(0, 100, 200).Draw(rt, "key"))
		}
		for range rapid.IntRange(0, 8).Draw(rt, "headers") {
			ev.Headers = append(ev.Headers, decode.Header{Key: rapid.StringN(0, 20, 40).Draw(rt, "name"), Value: make([]byte, rapid.IntRange(0, 150).Draw(rt, "header bytes"))})
		}
		ev.Value = nil
		// Around the limit: what Check takes it for is the limit, and a bit more or less.
		if room := most - recordBytes(&ev); room > 0 {
			ev.Value = bytes.Repeat([]byte("v"), max(0, room+rapid.IntRange(-40, 5).Draw(rt, "difference")))
		}
		batch := []Delivery{{Event: ev}}
		if err := out.Check(&batch[0]); err != nil {
			refused++
			if recordBytes(&ev) <= most || !strings.Contains(err.Error(), "max.message.bytes of topic t is 2000") {
				rt.Fatalf("an event of %d bytes is refused: %v", recordBytes(&ev), err)
			}
			return
		}
		passed++
		out.Publish(batch)
		n++
		if err := out.answers(n)[n-1].err; err != nil {
			rt.Fatalf("an event of %d bytes passed, and then: %v", recordBytes(&ev), err)
		}
	})
	if passed == 0 || refused == 0 {
		t.Errorf("%d events passed and %d were refused: nothing was tried", passed, refused)
	}
}

func TestCheckRefusesWhatIsKnownToFail(t *testing.T) {
	t.Parallel()
	out := open(t, newCluster(t)).prepare("t")
	poison := errors.New("no topic")
	if err := out.Check(&Delivery{Event: decode.Event{Poison: poison}}); !errors.Is(err, poison) {
		t.Errorf("Check: %v, want what decode said", err)
	}
	for at, good := range map[time.Time]bool{
		{}: true, time.UnixMilli(0): true, time.UnixMilli(-1): false, time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC): false,
		time.Date(2261, 12, 31, 23, 59, 59, 999999999, time.UTC): true, time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC): false,
		time.Date(2262, 1, 1, 1, 0, 0, 0, time.FixedZone("", 2*3600)): true, time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC): false,
	} {
		ev := event("t", 0, 1)
		ev.Timestamp = at
		if err := out.Check(&Delivery{Event: ev}); (err == nil) != good || (err != nil && !strings.Contains(err.Error(), "1970 to 2261")) {
			t.Errorf("Check of the timestamp %s: %v, want it good: %v", at, err, good)
		}
	}
}
