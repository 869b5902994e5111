package ledger_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/test/ledger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const topic = "outbox.event.order"

// account is a ledger with a table and a topic made by hand.
type account struct {
	*ledger.Ledger
	t       *testing.T
	payload map[ledger.Event]string
	keys    map[ledger.Event]string
	table   []string
	offsets map[int32]int64
}

func newAccount(t *testing.T) *account {
	t.Helper()
	l := ledger.New(7)
	l.DeadLetters("dead")
	return &account{
		Ledger: l, t: t, payload: make(map[ledger.Event]string), keys: make(map[ledger.Event]string),
		offsets: make(map[int32]int64),
	}
}

// write registers an event and writes it into the table unless it is rolled back.
func (a *account) write(key string, fate ledger.Fate) ledger.Event {
	payload := fmt.Sprintf(`{"n": %d}`, a.Registered())
	e := a.Register(a.Key(topic, key), []byte(payload))
	a.payload[e], a.keys[e] = payload, key
	a.Tell(fate, e)
	if fate == ledger.Committed {
		a.table = append(a.table, a.ID(e))
	}
	return e
}

// record is the record of an event at the next offset of a partition. Its position is its number, as if every event
// were a transaction.
func (a *account) record(partition int32, e ledger.Event) ledger.Record {
	r := ledger.Record{
		Topic: topic, Partition: partition, Offset: a.offsets[partition], Key: []byte(a.keys[e]), Value: []byte(a.payload[e]),
		ID: a.ID(e), Position: fmt.Sprintf("%016x-%08x", uint64(e)+1, 0),
	}
	a.offsets[partition]++
	return r
}

func (a *account) arrive(partition int32, events ...ledger.Event) {
	for _, e := range events {
		a.Arrive(a.record(partition, e))
	}
}

// letter is the dead letter of an event, at the next offset of their topic.
func (a *account) letter(e ledger.Event) ledger.Record {
	r := a.record(deadLetters, e)
	r.Topic, r.From, r.Error = "dead", topic, "it cannot be published"
	return r
}

// deadLetters is where offsets has those of the dead letter topic.
const deadLetters int32 = 99

func (a *account) die(events ...ledger.Event) {
	for _, e := range events {
		a.Arrive(a.letter(e))
	}
}

func (a *account) settle() error {
	return a.Settle(func(yield func(string) error) error {
		for _, id := range a.table {
			if err := yield(id); err != nil {
				return err
			}
		}
		return nil
	})
}

// want checks that the verdict has exactly these findings, and that each breaks it.
func (a *account) want(counts map[ledger.Finding]int) {
	a.t.Helper()
	v := a.Verdict()
	for _, f := range []ledger.Finding{
		ledger.Lost, ledger.Doubled, ledger.Misordered, ledger.Phantom, ledger.Astray, ledger.Damaged, ledger.Backward, ledger.Unstable, ledger.Torn, ledger.Skipped,
	} {
		if v.Count(f) != counts[f] {
			a.t.Errorf("%d %s, want %d\n%v", v.Count(f), f, counts[f], v.Err())
		}
		if err := v.Err(); counts[f] > 0 && (err == nil || !strings.Contains(err.Error(), string(f)) || !strings.Contains(v.String(), fmt.Sprintf("%d %s", counts[f], f))) {
			a.t.Errorf("the verdict keeps %s to itself: %s: %v", f, v, err)
		}
	}
	if err := v.Err(); len(counts) == 0 && err != nil {
		a.t.Error(err)
	}
	var tolerated []ledger.Finding
	for f := range counts {
		tolerated = append(tolerated, f)
	}
	if err := v.Err(tolerated...); err != nil {
		a.t.Errorf("with all of that tolerated: %v", err)
	}
}

func TestAFaultlessRunPasses(t *testing.T) {
	a := newAccount(t)
	var sent []ledger.Event
	for i := range 1000 {
		fate := ledger.Committed
		if i%20 == 0 {
			fate = ledger.RolledBack
		}
		if e := a.write(fmt.Sprint("key-", i%7), fate); fate == ledger.Committed {
			sent = append(sent, e)
		}
	}
	for _, e := range sent {
		a.arrive(int32(e%3), e)
	}
	if err := a.settle(); err != nil {
		t.Fatal(err)
	}
	a.want(nil)
	if v := a.Verdict(); v.Committed != 950 || v.Arrived != 950 || v.RolledBack != 50 || v.Records != 950 {
		t.Errorf("%+v", v)
	}
}

func TestEachFindingIsFound(t *testing.T) {
	// Three committed events of one key, and one of it that was rolled back between them.
	tests := []struct {
		name   string
		arrive func(a *account, first, second, rolledBack, third ledger.Event)
		want   map[ledger.Finding]int
	}{
		{"nothing", func(a *account, first, second, _, third ledger.Event) {
			a.arrive(0, first, second, third)
		}, nil},
		{"one lost", func(a *account, first, _, _, third ledger.Event) {
			a.arrive(0, first, third)
		}, map[ledger.Finding]int{ledger.Lost: 1}},
		{"one doubled", func(a *account, first, second, _, third ledger.Event) {
			a.arrive(0, first, second, second, third)
		}, map[ledger.Finding]int{ledger.Doubled: 1}},
		{"a stretch replayed", func(a *account, first, second, _, third ledger.Event) {
			a.arrive(0, first, second, first, second, third)
		}, map[ledger.Finding]int{ledger.Doubled: 2}},
		{"misordered", func(a *account, first, second, _, third ledger.Event) {
			a.arrive(0, first, third, second)
		}, map[ledger.Finding]int{ledger.Misordered: 1, ledger.Backward: 1}},
		{"a rolled back one", func(a *account, first, second, rolledBack, third ledger.Event) {
			a.arrive(0, first, second, rolledBack, third)
		}, map[ledger.Finding]int{ledger.Phantom: 1}},
		{"one of another ledger", func(a *account, first, second, _, third ledger.Event) {
			a.arrive(0, first, second)
			r := a.record(0, third)
			r.ID = ledger.New(8).ID(third)
			a.Arrive(r)
			a.arrive(0, third)
		}, map[ledger.Finding]int{ledger.Phantom: 1}},
		{"ids that are none", func(a *account, first, second, _, third ledger.Event) {
			a.arrive(0, first, second, third)
			for _, id := range []string{"", "7", strings.Repeat("-", 36), strings.Repeat("z", 36), strings.Repeat("0", 36), a.ID(third + 1)} {
				r := a.record(0, third)
				r.ID = id
				a.Arrive(r)
			}
		}, map[ledger.Finding]int{ledger.Phantom: 6}},
		{"a swapped key, topic, payload", func(a *account, first, second, _, third ledger.Event) {
			r := a.record(0, first)
			r.Key = []byte("other")
			a.Arrive(r)
			r = a.record(0, second)
			r.Value = r.Value[:len(r.Value)-1]
			a.Arrive(r)
			r = a.record(0, third)
			r.Topic, r.Offset = "other", 0
			a.Arrive(r)
		}, map[ledger.Finding]int{ledger.Damaged: 3}},
		{"no position", func(a *account, first, second, _, third ledger.Event) {
			a.arrive(0, first, second)
			r := a.record(0, third)
			r.Position = ""
			a.Arrive(r)
		}, map[ledger.Finding]int{ledger.Damaged: 1, ledger.Backward: 1}},
		{"positions that stand still", func(a *account, first, second, _, third ledger.Event) {
			a.arrive(0, first, second)
			r := a.record(0, third)
			r.Position = a.record(0, second).Position
			a.Arrive(r)
		}, map[ledger.Finding]int{ledger.Backward: 1}},
		{"another position in the replay", func(a *account, first, second, _, third ledger.Event) {
			a.arrive(0, first, second, third)
			r := a.record(0, third)
			r.Position = fmt.Sprintf("%016x-%08x", uint64(third)+1, 1)
			a.Arrive(r)
		}, map[ledger.Finding]int{ledger.Doubled: 1, ledger.Unstable: 1}},
		{"offsets that were not shown", func(a *account, first, second, _, third ledger.Event) {
			a.arrive(0, first, second)
			a.offsets[0] += 2
			a.arrive(0, third)
		}, map[ledger.Finding]int{ledger.Skipped: 2}},
		{"a record shown twice to the reader", func(a *account, first, second, _, third ledger.Event) {
			a.arrive(0, first)
			r := a.record(0, second)
			a.Arrive(r)
			a.Arrive(r)
			a.arrive(0, third)
		}, nil},
		{"a transaction marker", func(a *account, first, second, _, third ledger.Event) {
			a.arrive(0, first, second)
			a.Pass(topic, 0, a.offsets[0])
			a.offsets[0]++
			a.arrive(0, third)
		}, nil},
		{"a topic that began anew", func(a *account, first, second, _, third ledger.Event) {
			a.arrive(0, first, second)
			a.Forget(topic)
			a.offsets[0] = 0
			a.arrive(0, third)
		}, nil},
		{"what had arrived before arrives in the new topic, too", func(a *account, first, second, _, third ledger.Event) {
			a.arrive(0, first, second)
			a.Forget(topic)
			a.offsets[0] = 0
			a.arrive(0, first, second, second, third)
		}, map[ledger.Finding]int{ledger.Doubled: 1}},
		{"a dead letter", func(a *account, first, second, _, third ledger.Event) {
			a.Expect(ledger.InDeadLetters, second)
			a.arrive(0, first, third)
			a.die(second)
		}, nil},
		{"a dead letter twice", func(a *account, first, second, _, third ledger.Event) {
			a.Expect(ledger.InDeadLetters, second)
			a.arrive(0, first, third)
			a.die(second, second)
		}, map[ledger.Finding]int{ledger.Doubled: 1}},
		{"a dead letter that is in its topic, too", func(a *account, first, second, _, third ledger.Event) {
			a.Expect(ledger.InEither, second)
			a.arrive(0, first, second, third)
			a.die(second)
		}, map[ledger.Finding]int{ledger.Doubled: 1}},
		{"dead letters out of order", func(a *account, first, second, _, third ledger.Event) {
			a.Expect(ledger.InEither, first, second)
			a.arrive(0, third)
			a.die(second, first)
		}, map[ledger.Finding]int{ledger.Misordered: 1}},
		{"a good event among the dead letters, and poison in the topic", func(a *account, first, second, _, third ledger.Event) {
			a.Expect(ledger.InDeadLetters, third)
			a.arrive(0, first, third)
			a.die(second)
		}, map[ledger.Finding]int{ledger.Astray: 2}},
		{"dead letters that do not say why, whence, or what", func(a *account, first, second, _, third ledger.Event) {
			a.Expect(ledger.InDeadLetters, first, second, third)
			for i, e := range []ledger.Event{first, second, third} {
				r := a.letter(e)
				*[]*string{&r.Error, &r.From, &r.ID}[i] = ""
				a.Arrive(r)
			}
		}, map[ledger.Finding]int{ledger.Damaged: 2, ledger.Phantom: 1, ledger.Lost: 1}},
		{"a dead letter without its payload, which says so or does not", func(a *account, first, second, _, third ledger.Event) {
			a.Expect(ledger.InDeadLetters, first, second)
			a.arrive(0, third)
			r := a.letter(first)
			r.Value, r.Omitted = nil, true
			a.Arrive(r)
			r = a.letter(second)
			r.Value = nil
			a.Arrive(r)
		}, map[ledger.Finding]int{ledger.Damaged: 1}},
		{"discarded ones, of which one arrives", func(a *account, first, second, _, third ledger.Event) {
			for _, e := range []ledger.Event{first, second} {
				if err := a.Discarded(a.ID(e)); err != nil {
					a.t.Error(err)
				}
			}
			a.arrive(0, first, third)
		}, map[ledger.Finding]int{ledger.Astray: 1}},
		{"a partition that was added", func(a *account, first, second, _, third ledger.Event) {
			a.arrive(0, first, third)
			a.arrive(1, second) // which of the two partitions is read first says nothing
		}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := newAccount(t)
			first, second, rolledBack, third := a.write("a", ledger.Committed), a.write("a", ledger.Committed),
				a.write("a", ledger.RolledBack), a.write("a", ledger.Committed)
			if err := a.settle(); err != nil {
				t.Fatal(err)
			}
			test.arrive(a, first, second, rolledBack, third)
			a.want(test.want)
		})
	}
}

// TestRandomFaultsAreCounted commits many events and breaks the record in random places, a known number of times.
func TestRandomFaultsAreCounted(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	a := newAccount(t)
	const n = 20000
	var log []ledger.Event
	want := map[ledger.Finding]int{}
	for i := range n {
		e := a.write(fmt.Sprint("key-", i%50), ledger.Committed)
		switch rng.IntN(100) {
		case 0:
			want[ledger.Lost]++
		case 1:
			log = append(log, e, e)
			want[ledger.Doubled]++
		case 2:
			rolledBack := a.write("key-0", ledger.RolledBack)
			log = append(log, e, rolledBack)
			want[ledger.Phantom]++
		default:
			log = append(log, e)
		}
	}
	a.arrive(0, log...)
	if err := a.settle(); err != nil {
		t.Fatal(err)
	}
	a.want(want)
}

func TestSettleAsksTheTable(t *testing.T) {
	a := newAccount(t)
	kept, gone := a.write("a", ledger.Committed), a.write("a", ledger.RolledBack)
	a.Tell(ledger.Unknown, kept, gone)
	a.arrive(0, kept)
	if err := a.settle(); err != nil {
		t.Fatal(err)
	}
	a.want(nil)
	if v := a.Verdict(); v.Committed != 1 || v.RolledBack != 1 {
		t.Errorf("%+v", v)
	}
	if committed, arrived, _ := a.Progress(); committed != 1 || arrived != 1 {
		t.Errorf("%d committed, %d arrived", committed, arrived)
	}
}

func TestSettleDoubtsTheWriters(t *testing.T) {
	tests := []struct {
		name string
		do   func(a *account)
	}{
		{"committed and not there", func(a *account) { a.write("a", ledger.Committed); a.table = nil }},
		{"rolled back and there", func(a *account) { a.table = append(a.table, a.ID(a.write("a", ledger.RolledBack))) }},
		{"open", func(a *account) { a.write("a", ledger.Open) }},
		{"a stranger", func(a *account) { a.table = append(a.table, "00000000-0000-0000-0000-000000000000") }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := newAccount(t)
			test.do(a)
			if a.settle() == nil {
				t.Error("no error")
			}
		})
	}
}

func TestATrialOfNothingFails(t *testing.T) {
	if newAccount(t).Verdict().Err() == nil {
		t.Error("an empty ledger passes")
	}
}

func TestIDsAreUniqueAndScattered(t *testing.T) {
	l := ledger.New(1)
	k := l.Key(topic, "a")
	var ids []string
	for range 1000 {
		ids = append(ids, l.ID(l.Register(k, nil)))
	}
	if slices.IsSorted(ids) {
		t.Error("the order of ids is the order of events")
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != 1000 {
		t.Error("ids repeat")
	}
}

// TestReaderReadsEverything reads a topic that is created and grown while it is read.
func TestReaderReadsEverything(t *testing.T) {
	kafka, err := devstack.StartFakeKafka(devstack.FakeKafkaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer kafka.Close() //nolint:errcheck // always nil
	a := newAccount(t)
	reader, err := ledger.Read(t.Context(), a.Ledger, kafka.Brokers(), []string{topic})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(kafka.Brokers()...), kgo.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range 500 {
		e := a.write(fmt.Sprint("key-", i%10), ledger.Committed)
		if i == 100 {
			continue // lost
		}
		r := a.record(0, e)
		record := &kgo.Record{Topic: topic, Key: r.Key, Value: r.Value, Headers: []kgo.RecordHeader{
			{Key: "id", Value: []byte(r.ID)}, {Key: "tidemark-position", Value: []byte(r.Position)},
		}}
		for range 1 + i%2 { // every other one twice
			if err := client.ProduceSync(t.Context(), record).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := a.settle(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	reader.AwaitAll(ctx, 200*time.Millisecond)
	if err := reader.AwaitEnd(ctx, topic); err != nil {
		t.Fatal(err)
	}
	a.want(map[ledger.Finding]int{ledger.Lost: 1, ledger.Doubled: 250})
}

// TestATornTransactionIsFound commits three events together and has them arrive in Kafka transactions.
func TestATornTransactionIsFound(t *testing.T) {
	in := func(producer int64, epoch int16) ledger.KafkaTransaction {
		return ledger.KafkaTransaction{Producer: producer, Epoch: epoch, Any: true}
	}
	tests := []struct {
		name  string
		kafka [3]ledger.KafkaTransaction
		torn  int
	}{
		{"all in one", [3]ledger.KafkaTransaction{in(1, 1), in(1, 1), in(1, 1)}, 0},
		{"the last in the next", [3]ledger.KafkaTransaction{in(1, 1), in(1, 1), in(1, 2)}, 1},
		{"another producer's", [3]ledger.KafkaTransaction{in(1, 1), in(2, 1), in(2, 1)}, 2},
		{"one in none", [3]ledger.KafkaTransaction{in(1, 1), {}, in(1, 1)}, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := newAccount(t)
			a.Ledger = ledger.NewExactlyOnce(7)
			events := []ledger.Event{a.write("a", ledger.Committed), a.write("a", ledger.Committed), a.write("b", ledger.Committed)}
			a.Tell(ledger.Committed, events...)
			for i, e := range events {
				r := a.record(int32(i%2), e)
				r.Kafka = test.kafka[i]
				r.Offset += 10 * int64(i) // aborted records between them are no finding
				a.Arrive(r)
			}
			if err := a.settle(); err != nil {
				t.Fatal(err)
			}
			want := map[ledger.Finding]int{}
			if test.torn > 0 {
				want[ledger.Torn] = test.torn
			}
			a.want(want)
		})
	}
}
