// Package park owns the table of parked events: events that cannot be published, and the later events of their keys,
// which wait behind them until a person has released or discarded what is in the way.
//
// The one rule: the order of a key holds. An event leaves the table for Kafka only when no earlier event of its key waits
// for a decision, whatever was released, discarded, rejected again or parked meanwhile. A key is a topic with the bytes of
// a key; records without a key have no order in Kafka, and so none here.
//
// The table lies in the source's database, where it survives the relay and where an operator finds it. The relay and the
// commands change it without knowing of each other: each change is one transaction, and those of one source come one
// after the other.
package park

import (
	"fmt"
	"time"

	"github.com/tidemark/tidemark/decode"
)

// Event is a parked event.
type Event struct {
	Event decode.Event // as it was decoded, without Poison

	Reason string // why it cannot be published; "" if it is Behind
	Behind bool   // nothing is wrong with it: it waits behind an earlier event of its key

	// What follows is the table's to say; Park ignores it.
	State      State
	ParkedAt   time.Time
	ValueBytes int // size of Event.Value, which List leaves out; NullValue if there is none

	// Floor says where the topic's partitions ended before the event was handed over: it is in Kafka, if at all, at one of
	// these offsets or later. Nil unless State is Publishing.
	Floor map[int32]int64
}

// NullValue is the ValueBytes of an event whose value is null.
const NullValue = -1

// blocks reports whether the event holds up those behind it.
func (e *Event) blocks() bool { return e.State == Waiting && !e.Behind }

// State is how far a parked event is on its way out.
type State uint8

const (
	Waiting    State = iota // for a decision, or Behind an event that waits for one
	Released                // free to go
	Publishing              // handed over, and perhaps in Kafka
)

func (s State) String() string {
	switch s {
	case Waiting:
		return "waiting"
	case Released:
		return "released"
	case Publishing:
		return "publishing"
	default:
		return fmt.Sprintf("State(%d)", uint8(s))
	}
}

// MarshalText makes the state's name its JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func parseState(name string) (State, error) {
	for _, s := range []State{Waiting, Released, Publishing} {
		if name == s.String() {
			return s, nil
		}
	}
	return 0, fmt.Errorf("no such state: %q", name)
}

// Key is what an order holds for.
type Key struct {
	Topic string
	Key   string
	Null  bool // the key is null; each of these events stands alone
}
