// Package checkpoint owns the answer to one question: from which LSN may reading start again so that nothing is lost?
// Tracker computes it from acknowledgements, Store keeps it. The one rule: only the end LSN of a transaction that is
// wholly in Kafka, and before which everything is in Kafka, is ever stored; what is confirmed to Postgres was stored
// before. So the slot is never ahead of the store, and a slot that is ahead means that somebody else moved it.
package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
)

// Version is the format that this build writes and the newest that it reads. It changes with what a field means. A field
// that is added needs no other: it is left out where it says nothing, and where it says something an older build refuses
// the checkpoint, because it refuses every field that it does not know. testdata has what earlier builds have written.
const Version = 1

// Checkpoint is what is stored.
type Checkpoint struct {
	Version          int     `json:"version"`
	SystemIdentifier string  `json:"system_identifier"` // of the Postgres cluster
	Timeline         int32   `json:"timeline"`
	Database         string  `json:"database"`
	Slot             string  `json:"slot"`
	State            State   `json:"state,omitempty"`
	MovedTo          string  `json:"moved_to,omitempty"` // with state Moved: the store that has the checkpoint now
	LSN              LSN     `json:"lsn"`                // the end of the last transaction that is wholly in Kafka
	Position         string  `json:"position"`           // of its last event; "" before the first
	Offsets          Offsets `json:"offsets"`
	// TopicIDs holds Kafka's id of each topic in Offsets: an offset means nothing in a topic of the same name that was
	// created later.
	TopicIDs  map[string]string `json:"topic_ids,omitempty"`
	Producers []int64           `json:"producers,omitempty"` // idempotent producer ids that may have written since
	Forks     []Fork            `json:"forks,omitempty"`     // oldest first, see Settle
	// TransactionalID is that of the transactional producer that may have written since, instead of Producers.
	TransactionalID string       `json:"transactional_id,omitempty"`
	Publication     *Publication `json:"publication,omitempty"` // nil until it was looked at
	// MessagesFrom is the LSN from which logical messages count: they take an index in their transaction, as rows do, in
	// those that commit here or later. 0: nowhere yet.
	MessagesFrom LSN       `json:"messages_from,omitempty"`
	Writer       string    `json:"writer,omitempty"` // names the process that holds the checkpoint
	WrittenAt    time.Time `json:"written_at"`
}

// Publication is what decides which rows Postgres sends, as it was when it was last looked at. If it is not the same any more,
// rows may have been committed meanwhile that are never sent, whatever it is now: a gap. Every row that was committed before
// SeenAt was published as it says.
type Publication struct {
	Row    string            `json:"row"`    // oid:xmin of its row in the catalogue
	Tables map[string]string `json:"tables"` // outbox table, schema.name → oid:xmin of the catalogue's rows that put it in
	LSN    LSN               `json:"lsn"`    // the checkpoint's when it was last seen so; rows up to there are in Kafka
	SeenAt time.Time         `json:"seen_at"`
}

// State is the phase that the stored position belongs to.
type State string

const (
	// Streaming is the normal state: LSN is where reading starts again.
	Streaming State = ""
	// ExistingRows is stored before the slot is created on the first start, and until the rows that were there before
	// the slot are all in Kafka. A restart that finds it drops the slot and begins anew.
	ExistingRows State = "existing_rows"
	// Republish is like ExistingRows where the slot was lost: every row of the table is to be published, as the way out.
	Republish State = "republish"
	// Moved is left behind by a checkpoint that was moved to another store: nothing starts from here any more.
	Moved State = "moved"
)

// Fork is where the source's log was cut off and went on differently, as in a failover to a standby that lacked its end.
// Records that were published before the fork was noted and commit at or beyond it say nothing about the events that
// bear these positions now.
type Fork struct {
	LSN LSN `json:"lsn"`
	// Offsets are the ends of every partition when the fork was noted. Nil until a term has taken over, which alone can say
	// that nothing of its predecessor is under way any more: then all there is was before.
	Offsets Offsets `json:"offsets"`
}

// Settle drops the forks that the LSN has reached. What lies before their offsets commits before the LSN or does not count,
// so Offsets need not be before them.
func (c *Checkpoint) Settle() {
	var left []Fork
	for _, f := range c.Forks {
		if f.Offsets == nil || c.LSN < f.LSN {
			left = append(left, f)
			continue
		}
		c.Offsets = c.Offsets.raised(f.Offsets)
	}
	c.Forks = left
}

// raised returns a copy of o in which no offset is smaller than in floor.
func (o Offsets) raised(floor Offsets) Offsets {
	out := maps.Clone(o)
	if out == nil {
		out = Offsets{}
	}
	for topic, partitions := range floor {
		merged := maps.Clone(out[topic])
		if merged == nil {
			merged = make(map[int32]int64, len(partitions))
		}
		for partition, offset := range partitions {
			merged[partition] = max(merged[partition], offset)
		}
		out[topic] = merged
	}
	return out
}

// Offsets holds, for each topic and partition, an offset before which no event lies that is later than the LSN.
type Offsets map[string]map[int32]int64

// LSN is a log position whose text is Postgres's: two hexadecimal halves, 0/16B3748.
type LSN pglogrepl.LSN

// String returns the text as Postgres writes it.
func (l LSN) String() string { return pglogrepl.LSN(l).String() }

// MarshalText implements encoding.TextMarshaler.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *LSN) UnmarshalText(b []byte) error {
	parsed, err := ParseLSN(string(b))
	if err == nil {
		*l = LSN(parsed)
	}
	return err
}

// ParseLSN reads an LSN's text strictly: two halves of one to eight hexadecimal digits, and nothing after them.
// pglogrepl.ParseLSN lets trailing text pass, which in a file that a person may have edited would hide a slip.
func ParseLSN(s string) (pglogrepl.LSN, error) {
	high, low, ok := strings.Cut(s, "/")
	h, errHigh := strconv.ParseUint(high, 16, 32)
	l, errLow := strconv.ParseUint(low, 16, 32)
	if !ok || errHigh != nil || errLow != nil || len(high) > 8 || len(low) > 8 {
		return 0, fmt.Errorf("LSN %q: want two hexadecimal halves such as 0/16B3748", s)
	}
	return pglogrepl.LSN(h<<32 | l), nil
}

// errCorrupt marks contents that cannot be a checkpoint of ours.
var errCorrupt = errors.New("not a whole checkpoint")

// IsCorrupt reports whether err says that something is stored that cannot be read as a checkpoint: torn, empty, edited
// into nonsense, or written by a newer version. Starting without it would hide a gap.
func IsCorrupt(err error) bool { return errors.Is(err, errCorrupt) }

// errNewer marks contents that a newer version has written. They are corrupt, too, for this one.
var errNewer = fmt.Errorf("%w for this version: a newer version of tidemark has written it", errCorrupt)

// IsNewer reports whether err says that a newer version has written what is stored.
func IsNewer(err error) bool { return errors.Is(err, errNewer) }

// errNewerTable marks a table that a newer version has made. Nothing may be replaced in it.
var errNewerTable = errors.New("a newer version of tidemark has made it")

// errTakenOver marks a checkpoint that another process holds.
var errTakenOver = errors.New("another process has taken the checkpoint over")

// IsTakenOver reports whether err says that another process holds the checkpoint now.
func IsTakenOver(err error) bool { return errors.Is(err, errTakenOver) }

// heldBy returns errTakenOver unless next may replace what is stored: that must name holder, or the one that next names,
// who then has stored it before without having been told so.
func heldBy(stored, next *Checkpoint, holder string) error {
	writer := ""
	if stored != nil {
		writer = stored.Writer
	}
	if writer == holder || (writer != "" && writer == next.Writer) {
		return nil
	}
	return errTakenOver
}

// permanentError is one that trying again will not mend.
type permanentError struct {
	err  error
	hint string // what a person does next
}

func (p *permanentError) Error() string { return p.err.Error() + ": " + p.hint }
func (p *permanentError) Unwrap() error { return p.err }

// Hint is what to do about it, the end of its text.
func (p *permanentError) Hint() string { return p.hint }

// Refused reports whether going on could hide a gap.
func (p *permanentError) Refused() bool { return errors.Is(p.err, errNewerTable) }

// IsPermanent reports whether err is one that trying again will not mend: a person has to act, as its text says.
func IsPermanent(err error) bool {
	_, ok := errors.AsType[*permanentError](err)
	return ok
}

// Encode returns c as one indented JSON object, which an operator can read and, if it must be, edit.
func Encode(c *Checkpoint) ([]byte, error) {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode checkpoint: %w", err)
	}
	return append(b, '\n'), nil
}

// Decode reads what Encode wrote. Whatever is torn, empty, incomplete, of a newer version or followed by something
// else is an error for which IsCorrupt is true: a position is never guessed.
func Decode(b []byte) (*Checkpoint, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var c Checkpoint
	err := dec.Decode(&c)
	switch {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: it is empty", errCorrupt)
	case err != nil && newerVersion(b):
		return nil, fmt.Errorf("%w (%w)", errNewer, err)
	case err != nil && strings.Contains(err.Error(), "unknown field"): // encoding/json has no type for it
		return nil, fmt.Errorf("%w: %w: it is mistyped, or a newer version of tidemark has written it", errCorrupt, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errCorrupt, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the JSON object", errCorrupt)
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	if err := complete(b); err != nil {
		return nil, err
	}
	return &c, nil
}

// complete refuses an object without a field that is always written: what was not read would stand for zero.
func complete(b []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return fmt.Errorf("%w: %w", errCorrupt, err)
	}
	for _, name := range []string{"timeline", "position", "offsets", "written_at"} { // validate knows the others
		if _, ok := fields[name]; !ok {
			return fmt.Errorf("%w: it has no %s", errCorrupt, name)
		}
	}
	return nil
}

func newerVersion(b []byte) bool {
	var v struct {
		Version int `json:"version"`
	}
	return json.Unmarshal(b, &v) == nil && v.Version > Version
}

func (c *Checkpoint) validate() error {
	switch {
	case c.Version > Version:
		return fmt.Errorf("%w: format %d, and this version reads up to %d", errNewer, c.Version, Version)
	case c.Version < 1:
		return fmt.Errorf("%w: it has no version", errCorrupt)
	case c.SystemIdentifier == "" || c.Database == "" || c.Slot == "":
		return fmt.Errorf("%w: system_identifier, database and slot must be there", errCorrupt)
	case c.State != Streaming && c.State != ExistingRows && c.State != Republish && c.State != Moved:
		return fmt.Errorf("%w: unknown state %q", errCorrupt, c.State)
	case (c.State == Moved) != (c.MovedTo != ""):
		return fmt.Errorf("%w: moved_to goes with state %q", errCorrupt, Moved)
	case (c.State == Streaming || c.State == Moved) && c.LSN == 0:
		return fmt.Errorf("%w: lsn must be there", errCorrupt)
	}
	if c.Publication != nil && c.Publication.Row == "" {
		return fmt.Errorf("%w: publication must have its row", errCorrupt)
	}
	for _, f := range c.Forks {
		if err := f.Offsets.validate(); err != nil {
			return err
		}
	}
	return c.Offsets.validate()
}

func (o Offsets) validate() error {
	for topic, partitions := range o {
		for partition, offset := range partitions {
			if topic == "" || partition < 0 || offset < 0 {
				return fmt.Errorf("%w: offsets of topic %q, partition %d: %d", errCorrupt, topic, partition, offset)
			}
		}
	}
	return nil
}
