// Package ledger is the judge of the end-to-end trials. It knows what was written into the outbox and what became of
// it, sees what arrived in Kafka, and says what is lost, doubled, out of order, or there although it must not be.
//
// The one rule: it believes nobody but the table and the topics. Whether a transaction was committed is asked of the
// database in the end (Settle), because a connection that breaks during a commit leaves it open; and every record is
// read back from the brokers. A million events take some 40 MB.
package ledger

import (
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"sync"
	"time"
)

// Event is the number of an event, in the order of registration.
type Event uint32

// Key is the number of a key: a record key within a topic.
type Key uint32

// Fate is what became of an event's transaction.
type Fate uint8

// An event is Open from its registration until its writer says more. Unknown is the fate of one whose connection broke
// during the commit; Settle makes Committed or RolledBack of it.
const (
	Open Fate = iota
	Committed
	RolledBack
	Unknown
)

// entry is what the ledger knows of an event. It is kept small, since there are millions.
type entry struct {
	commit   uint64 // the position of its first record
	index    uint32
	key      Key
	seq      uint32 // in the order in which its key's transactions commit
	sum      uint32 // of the payload
	fate     Fate
	place    Place
	arrivals uint8  // in its topic; counts to 255
	letters  uint8  // as a dead letter; the same
	life     uint8  // which topic of its name it has arrived in
	tx       uint32 // the database transaction that wrote it; 0 before its writer has said more
	outside  bool   // written outside of any transaction: no table has it
	kafka    KafkaTransaction
}

// KafkaTransaction tells one transaction of a producer from the next: since transaction.version 2 (Kafka 4.0) each has an
// epoch of its own. The zero value is none.
type KafkaTransaction struct {
	Producer int64
	Epoch    int16
	Any      bool
}

// Place is where an event has to be in the end.
type Place uint8

// InTopic is the place of an event unless Expect says something else.
const (
	InTopic       Place = iota
	InDeadLetters       // it cannot be published: a dead letter, and nothing else
	InEither            // it could be published at one time and not at another
	Nowhere             // it was parked and discarded
)

// keyState is what the ledger knows of a key.
type keyState struct {
	topic, key string
	next       uint32 // the seq of the event that is registered next
	last       []lastSeen
	letters    []lastSeen // in the dead letter topic
}

// lastSeen is the largest seq that has arrived in a partition.
type lastSeen struct {
	partition int32
	seq       uint32
}

type partition struct {
	topic  string
	number int32
}

// place is how far a partition has been read.
type place struct {
	next   int64 // offset
	commit uint64
	index  uint32
	any    bool
}

// Ledger keeps the account. Any goroutine may use it.
type Ledger struct {
	run         uint64 // the first half of every id
	exactlyOnce bool   // never changes

	mu         sync.Mutex
	events     []entry
	keys       []keyState
	names      map[[2]string]Key
	partitions map[partition]*place
	committed  int
	arrived    int       // events, not records
	records    int       // of ours, duplicates included
	lastNew    time.Time // when an event arrived for the first time, the last time
	newest     Event     // the highest number that has arrived
	again      int       // events that have arrived in another topic of the same name, too
	lives      map[string]uint8
	letters    string // the dead letter topic
	txs        uint32 // database transactions that their writers have told of
	found      findings
}

// New returns an empty ledger. Ledgers with different runs do not know each other's events.
func New(run uint64) *Ledger {
	return &Ledger{run: run, names: make(map[[2]string]Key), partitions: make(map[partition]*place), lives: make(map[string]uint8)}
}

// DeadLetters enters which topic has the dead letters. It is called before anything arrives.
func (l *Ledger) DeadLetters(topic string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.letters = topic
}

// NewExactlyOnce returns a ledger that is read into as a consumer of committed records, and that wants the events of each
// database transaction to be in one Kafka transaction.
func NewExactlyOnce(run uint64) *Ledger {
	l := New(run)
	l.exactlyOnce = true
	return l
}

// Key returns the number of a record key in a topic.
func (l *Ledger) Key(topic, key string) Key {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := [2]string{topic, key}
	k, ok := l.names[name]
	if !ok {
		k = Key(len(l.keys))
		l.keys = append(l.keys, keyState{topic: topic, key: key, next: 1})
		l.names[name] = k
	}
	return k
}

// Topics returns the topics of all keys.
func (l *Ledger) Topics() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var topics []string
	seen := make(map[string]bool)
	for _, k := range l.keys {
		if !seen[k.topic] {
			seen[k.topic] = true
			topics = append(topics, k.topic)
		}
	}
	return topics
}

// Register enters an event before it is written. The caller serialises the transactions that write to one key, with a
// lock that Postgres releases after the commit, and registers under that lock: then the order of registration is the
// order of commits.
func (l *Ledger) Register(k Key, payload []byte) Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := Event(len(l.events)) //nolint:gosec // billions of events do not fit into a trial
	key := &l.keys[k]
	l.events = append(l.events, entry{key: k, seq: key.next, sum: crc32.ChecksumIEEE(payload)})
	key.next++
	return e
}

// Tell enters what became of events, which one transaction has written. The ledger holds it against the table in Settle.
func (l *Ledger) Tell(fate Fate, events ...Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.txs++
	for _, e := range events {
		l.setFate(e, fate)
		l.events[e].tx = l.txs
	}
}

// TellOutside enters that an event was written outside of any transaction, so that nothing can roll it back. No table has
// it: its writer is believed.
func (l *Ledger) TellOutside(e Event) {
	l.Tell(Committed, e)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events[e].outside = true
}

// Expect enters where an event has to be in the end.
func (l *Ledger) Expect(place Place, events ...Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		l.events[e].place = place
	}
}

// Discarded enters that the event of that id was discarded.
func (l *Ledger) Discarded(id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.event(id)
	if !ok {
		return fmt.Errorf("id %q was never written", id)
	}
	l.events[e].place = Nowhere
	return nil
}

func (l *Ledger) setFate(e Event, fate Fate) {
	entry := &l.events[e]
	if entry.fate == Committed {
		l.committed--
	}
	if fate == Committed {
		l.committed++
	}
	entry.fate = fate
}

// ID returns an event's id, a UUID. Consecutive events have ids far apart, as random ones are: whatever sorts by id
// must not happen to sort by time.
func (l *Ledger) ID(e Event) string {
	var b [16]byte
	putUint64(b[:8], l.run)
	putUint64(b[8:], uint64(e)*scatter)
	var text [36]byte
	for i, cut := range [][2]int{{0, 4}, {4, 6}, {6, 8}, {8, 10}, {10, 16}} {
		hex.Encode(text[2*cut[0]+i:], b[cut[0]:cut[1]])
		if i > 0 {
			text[2*cut[0]+i-1] = '-'
		}
	}
	return string(text[:])
}

const (
	scatter = 0x9e3779b97f4a7c15 // odd, so that multiplying by it can be undone,
	gather  = 0xf1de83e19937733d // by multiplying with this
)

// event is the inverse of ID. ok is false for an id that this ledger has not given away.
func (l *Ledger) event(id string) (e Event, ok bool) {
	var b [16]byte
	if len(id) != 36 {
		return 0, false
	}
	text := make([]byte, 0, 36)
	for i := range len(id) {
		if id[i] != '-' {
			text = append(text, id[i])
		}
	}
	if len(text) != 32 {
		return 0, false
	}
	if n, err := hex.Decode(b[:], text); err != nil || n != 16 {
		return 0, false
	}
	number := getUint64(b[8:]) * gather
	if getUint64(b[:8]) != l.run || number >= uint64(len(l.events)) {
		return 0, false
	}
	return Event(number), true //nolint:gosec // compared above
}

func putUint64(b []byte, v uint64) {
	for i := range 8 {
		b[i] = byte(v >> (56 - 8*i)) //nolint:gosec // the lowest byte is meant
	}
}

func getUint64(b []byte) (v uint64) {
	for i := range 8 {
		v = v<<8 | uint64(b[i])
	}
	return v
}

// Settle holds the account against the table, in which rows yields the id of every row. It is called when no writer is
// left. Nothing is deleted from the table during a trial, so a row that is there was committed and one that is not was
// not; an error says that a writer told something else.
func (l *Ledger) Settle(rows func(yield func(id string) error) error) error {
	l.mu.Lock()
	there := make([]bool, len(l.events))
	l.mu.Unlock()
	strangers := 0
	err := rows(func(id string) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		e, ok := l.event(id)
		if !ok || int(e) >= len(there) {
			strangers++
			return nil
		}
		there[e] = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("settle the ledger: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if strangers > 0 {
		return fmt.Errorf("settle the ledger: %d rows in the table are not in the ledger", strangers)
	}
	for i, is := range there {
		e := Event(i) //nolint:gosec // as many as events
		switch fate := l.events[i].fate; {
		case l.events[i].outside:
		case is && fate == RolledBack:
			return fmt.Errorf("settle the ledger: event %s was rolled back and is in the table", l.ID(e))
		case !is && fate == Committed:
			return fmt.Errorf("settle the ledger: event %s was committed and is not in the table", l.ID(e))
		case fate == Open:
			return fmt.Errorf("settle the ledger: event %s is open: its writer said nothing more", l.ID(e))
		case is:
			l.setFate(e, Committed)
		default:
			l.setFate(e, RolledBack)
		}
	}
	return nil
}
