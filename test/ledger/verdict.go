package ledger

import (
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Finding is a way in which records and rows can disagree.
type Finding string

// The findings. Doubled alone is no broken promise where resume dedupe is off.
const (
	Lost       Finding = "lost"       // committed, and not in Kafka, not even as a dead letter
	Doubled    Finding = "doubled"    // arrived more than once, dead letters included
	Misordered Finding = "misordered" // arrived for the first time behind a later event of its key, in one partition
	Phantom    Finding = "phantom"    // in Kafka, and rolled back or never written
	Astray     Finding = "astray"     // a dead letter that could be published, or in its topic although it was discarded or should be dead
	Damaged    Finding = "damaged"    // another topic, key or payload than written
	Backward   Finding = "backward"   // first arrivals of a partition whose positions do not grow; parked events come later
	Unstable   Finding = "unstable"   // one event with two positions
	Torn       Finding = "torn"       // not in the Kafka transaction of the other events of its database transaction, or in none
	Skipped    Finding = "skipped"    // offsets that the reader was not shown: an error of the trial, not of the relay
)

//nolint:gochecknoglobals // the order in which they are told
var all = []Finding{Lost, Doubled, Misordered, Phantom, Astray, Damaged, Backward, Unstable, Torn, Skipped}

const maxExamples = 5

// findings counts, and keeps the first few examples.
type findings struct {
	counts   map[Finding]int
	examples map[Finding][]string
}

func (f *findings) add(finding Finding, n int, example string) {
	if f.counts == nil {
		f.counts, f.examples = make(map[Finding]int), make(map[Finding][]string)
	}
	f.counts[finding] += n
	if len(f.examples[finding]) < maxExamples {
		f.examples[finding] = append(f.examples[finding], example)
	}
}

func (f *findings) clone() findings {
	c := findings{}
	for finding, n := range f.counts {
		c.add(finding, n, "")
		c.examples[finding] = slices.Clone(f.examples[finding])
	}
	return c
}

// Record is what the ledger wants to know of a Kafka record.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Key       []byte
	Value     []byte
	ID        string // header id
	Position  string // header tidemark-position
	Kafka     KafkaTransaction

	// Headers of a dead letter.
	Error   string // tidemark-error
	From    string // tidemark-topic
	Omitted bool   // tidemark-payload-omitted is there
}

func (r *Record) where() string {
	return fmt.Sprintf("%s/%d@%d", r.Topic, r.Partition, r.Offset)
}

// Arrive enters a record. The records of a partition come in the order of their offsets; one that was entered before
// (a consumer may be shown it again) is ignored.
func (l *Ledger) Arrive(r Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.step(r.Topic, r.Partition, r.Offset)
	if p == nil {
		return
	}
	l.records++

	e, ok := l.event(r.ID)
	if !ok {
		l.found.add(Phantom, 1, fmt.Sprintf("%s: id %q was never written", r.where(), r.ID))
		return
	}
	commit, index, err := parsePosition(r.Position)
	if err != nil {
		l.found.add(Damaged, 1, fmt.Sprintf("%s: %v", r.where(), err))
	}
	event := &l.events[e]
	l.compare(&r, event)
	if r.Topic == l.letters {
		l.arriveDead(&r, event)
		return
	}
	life := l.lives[r.Topic]
	if event.arrivals > 0 && event.life != life {
		// What a start over finds nothing of, because the topic that had it is gone, is not twice anywhere.
		event.life = life
		l.again++
		l.order(&r, event, &l.keys[event.key].last)
		return
	}
	if event.arrivals > 0 {
		if event.arrivals < 255 {
			event.arrivals++
		}
		l.found.add(Doubled, 1, fmt.Sprintf("%s: event %s (%s)", r.where(), r.ID, r.Position))
		if event.commit != commit || event.index != index {
			l.found.add(Unstable, 1, fmt.Sprintf("%s: event %s has position %s, and had %016x-%08x", r.where(), r.ID, r.Position, event.commit, event.index))
		}
		return
	}
	event.arrivals, event.commit, event.index, event.life, event.kafka = 1, commit, index, life, r.Kafka
	l.progress(e)
	if p.any && (commit < p.commit || commit == p.commit && index <= p.index) {
		l.found.add(Backward, 1, fmt.Sprintf("%s: event %s has position %s, behind %016x-%08x", r.where(), r.ID, r.Position, p.commit, p.index))
	}
	p.any, p.commit, p.index = true, commit, index
	l.order(&r, event, &l.keys[event.key].last)
}

// arriveDead enters a dead letter. Those of a key are in order, too.
func (l *Ledger) arriveDead(r *Record, event *entry) {
	if event.letters > 0 {
		l.found.add(Doubled, 1, fmt.Sprintf("%s: event %s (%s) is a dead letter again", r.where(), r.ID, r.Position))
	}
	if event.letters < 255 {
		event.letters++
	}
	if event.letters > 1 {
		return
	}
	e, _ := l.event(r.ID) // it is there, or event would not be
	l.progress(e)
	l.order(r, event, &l.keys[event.key].letters)
}

func (l *Ledger) progress(e Event) {
	l.arrived++
	l.lastNew = time.Now()
	l.newest = max(l.newest, e)
}

// compare holds the record against what was written.
func (l *Ledger) compare(r *Record, event *entry) {
	key := &l.keys[event.key]
	dead := r.Topic == l.letters
	switch {
	case dead && (r.From != key.topic || r.Error == ""):
		l.found.add(Damaged, 1, fmt.Sprintf("%s: the dead letter of event %s says that it was for topic %q, want %s, and the reason is %q", r.where(), r.ID, r.From, key.topic, r.Error))
	case dead && r.Omitted && len(r.Value) == 0 && string(r.Key) == key.key: // it was too large even there
	case !dead && r.Topic != key.topic:
		l.found.add(Damaged, 1, fmt.Sprintf("%s: event %s belongs to topic %s", r.where(), r.ID, key.topic))
	case string(r.Key) != key.key:
		l.found.add(Damaged, 1, fmt.Sprintf("%s: event %s has key %q, want %q", r.where(), r.ID, r.Key, key.key))
	case crc32.ChecksumIEEE(r.Value) != event.sum:
		l.found.add(Damaged, 1, fmt.Sprintf("%s: event %s has another payload (%d bytes)", r.where(), r.ID, len(r.Value)))
	}
}

// order notes a first arrival behind a later one of its key. Only what shares a partition has an order.
func (l *Ledger) order(r *Record, event *entry, seen *[]lastSeen) {
	i := slices.IndexFunc(*seen, func(s lastSeen) bool { return s.partition == r.Partition })
	if i < 0 {
		*seen = append(*seen, lastSeen{partition: r.Partition})
		i = len(*seen) - 1
	}
	if last := &(*seen)[i]; event.seq < last.seq {
		l.found.add(Misordered, 1, fmt.Sprintf("%s: event %s is number %d of key %s, and number %d was there before", r.where(), r.ID, event.seq, l.keys[event.key].key, last.seq))
	} else {
		last.seq = event.seq
	}
}

// Pass enters an offset that holds no record of an application, such as a transaction marker.
func (l *Ledger) Pass(topic string, number int32, offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.step(topic, number, offset)
}

// step moves a partition to offset. It returns nil if that offset was entered before.
func (l *Ledger) step(topic string, number int32, offset int64) *place {
	name := partition{topic, number}
	p := l.partitions[name]
	if p == nil {
		p = &place{}
		l.partitions[name] = p
	}
	if offset < p.next {
		return nil
	}
	if offset > p.next && !l.exactlyOnce { // else aborted records have been there
		l.found.add(Skipped, int(offset-p.next), fmt.Sprintf("%s/%d: offsets %d to %d", topic, number, p.next, offset))
	}
	p.next = offset + 1
	return p
}

// Forget enters that a topic was deleted and created again: its offsets begin anew, and what has arrived in the old one may
// arrive in the new one, in order.
func (l *Ledger) Forget(topic string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lives[topic]++
	for name, p := range l.partitions {
		if name.topic == topic {
			*p = place{}
		}
	}
	for i := range l.keys {
		if l.keys[i].topic == topic {
			l.keys[i].last = nil
		}
	}
}

// parsePosition reads 16 hexadecimal digits, '-', 8 hexadecimal digits.
func parsePosition(s string) (commit uint64, index uint32, err error) {
	if len(s) != 25 || s[16] != '-' {
		return 0, 0, fmt.Errorf("position %q is not 16 digits, '-', 8 digits", s)
	}
	commit, errCommit := strconv.ParseUint(s[:16], 16, 64)
	i, errIndex := strconv.ParseUint(s[17:], 16, 32)
	if errCommit != nil || errIndex != nil {
		return 0, 0, fmt.Errorf("position %q is not hexadecimal", s)
	}
	return commit, uint32(i), nil
}

// Progress says how many events are committed and how many have arrived, and when the last one did for the first time.
func (l *Ledger) Progress() (committed, arrived int, lastNew time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.committed, l.arrived, l.lastNew
}

// Registered is how many events have been registered.
func (l *Ledger) Registered() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.events)
}

// ArrivedSince reports whether an event has arrived that was registered when there were that many. What arrives in the
// meantime may have been on its way for long; this has not.
func (l *Ledger) ArrivedSince(registered int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.arrived > 0 && int(l.newest) >= registered
}

// Verdict is what the ledger has to say.
type Verdict struct {
	Committed  int // events in the table
	RolledBack int
	Arrived    int // events of the table in Kafka
	Records    int // in Kafka, duplicates included
	Dead       int // of the table and dead letters
	Discarded  int // of the table and nowhere, as was asked for
	Again      int // arrived in a topic that is gone, and in the next one of its name
	Moved      int // keys that were seen in more than one partition
	Counts     map[Finding]int
	Examples   map[Finding][]string
}

// Missing reports how many committed events of a topic, or of all if it is "", have not arrived.
func (l *Ledger) Missing(topic string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for i := range l.events {
		e := &l.events[i]
		if e.fate == Committed && !e.done() && (topic == "" || l.keys[e.key].topic == topic) {
			n++
		}
	}
	return n
}

// done reports whether an event is where it was brought, wherever that is.
func (e *entry) done() bool { return e.arrivals > 0 || e.letters > 0 || e.place == Nowhere }

// Number returns the place of an event in the order of registration, by its id.
func (l *Ledger) Number(id string) (Event, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.event(id)
}

// Lost returns the ids of the committed events that have not arrived.
func (l *Ledger) Lost() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []string
	for i := range l.events {
		if e := &l.events[i]; e.fate == Committed && e.arrivals == 0 {
			ids = append(ids, l.ID(Event(i))) //nolint:gosec // as many as events
		}
	}
	return ids
}

// Verdict compares. It may be called at any time; before Settle it takes the writers' word.
func (l *Ledger) Verdict() Verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := l.found.clone()
	v := Verdict{Records: l.records, Again: l.again}
	for i := range l.events {
		event := &l.events[i]
		id := func() string { return l.ID(Event(i)) } //nolint:gosec // as many as events
		switch {
		case event.fate == Committed && !event.done():
			v.Committed++
			found.add(Lost, 1, fmt.Sprintf("event %s, number %d of key %s", id(), event.seq, l.keys[event.key].key))
		case event.fate == Committed:
			v.Committed++
			v.count(event, id, &found)
		case event.fate == RolledBack:
			v.RolledBack++
			if event.arrivals > 0 || event.letters > 0 {
				found.add(Phantom, 1, fmt.Sprintf("event %s of key %s was rolled back", id(), l.keys[event.key].key))
			}
		}
	}
	for i := range l.keys {
		if len(l.keys[i].last) > 1 {
			v.Moved++
		}
	}
	if l.exactlyOnce {
		l.tear(&found)
	}
	v.Counts, v.Examples = found.counts, found.examples
	return v
}

// count enters where a committed event is, and whether it may be there.
func (v *Verdict) count(e *entry, id func() string, found *findings) {
	switch {
	case e.place == Nowhere:
		v.Discarded++
	case e.letters > 0:
		v.Dead++
	default:
		v.Arrived++
	}
	topic, dead := e.arrivals > 0, e.letters > 0
	switch {
	case topic && dead:
		found.add(Doubled, 1, fmt.Sprintf("event %s is in its topic and a dead letter", id()))
	case topic && (e.place == InDeadLetters || e.place == Nowhere):
		found.add(Astray, 1, fmt.Sprintf("event %s has arrived although it is poison, or was discarded", id()))
	case dead && (e.place == InTopic || e.place == Nowhere):
		found.add(Astray, 1, fmt.Sprintf("event %s is a dead letter", id()))
	}
}

// tear finds events that a consumer of committed records may see without the others of their database transaction.
func (l *Ledger) tear(found *findings) {
	first := make(map[uint32]int) // database transaction: the number of its first event that has arrived
	for i := range l.events {
		event := &l.events[i]
		if event.arrivals == 0 || event.tx == 0 {
			continue
		}
		before, known := first[event.tx]
		if !known {
			first[event.tx] = i
		}
		id := func(i int) string { return l.ID(Event(i)) } //nolint:gosec // as many as events
		switch {
		case !event.kafka.Any:
			found.add(Torn, 1, fmt.Sprintf("event %s is in no Kafka transaction", id(i)))
		case known && l.events[before].kafka != event.kafka:
			found.add(Torn, 1, fmt.Sprintf("event %s is in Kafka transaction %v, and event %s, which was committed with it, in %v",
				id(i), event.kafka, id(before), l.events[before].kafka))
		}
	}
}

// String is the producer and its epoch.
func (t KafkaTransaction) String() string { return fmt.Sprintf("%d/%d", t.Producer, t.Epoch) }

// Count returns how many there are of a finding.
func (v Verdict) Count(f Finding) int { return v.Counts[f] }

// String is the verdict in one line.
func (v Verdict) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d committed, %d arrived, %d rolled back", v.Committed, v.Arrived, v.RolledBack)
	for _, f := range all {
		if v.Counts[f] > 0 || slices.Contains(all[:4], f) {
			fmt.Fprintf(&b, ", %d %s", v.Counts[f], f)
		}
	}
	for _, more := range []struct {
		n    int
		what string
	}{{v.Dead, "dead letters"}, {v.Discarded, "discarded"}, {v.Again, "again in a new topic"}} {
		if more.n > 0 {
			fmt.Fprintf(&b, ", %d %s", more.n, more.what)
		}
	}
	if v.Moved > 0 {
		fmt.Fprintf(&b, ", %d keys changed their partition", v.Moved)
	}
	return b.String()
}

// Err returns what is wrong, with examples; nil if nothing is but what is tolerated. That nothing at all was committed
// is wrong too: such a trial has shown nothing.
func (v Verdict) Err(tolerated ...Finding) error {
	var errs []error
	if v.Committed == 0 {
		errs = append(errs, errors.New("nothing was committed: this trial has shown nothing"))
	}
	for _, f := range all {
		if v.Counts[f] > 0 && !slices.Contains(tolerated, f) {
			errs = append(errs, fmt.Errorf("%d %s:\n\t%s", v.Counts[f], f, strings.Join(v.Examples[f], "\n\t")))
		}
	}
	return errors.Join(errs...)
}
