package cli

import (
	"context"
	"time"
	"unicode/utf8"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/park"
)

// parkedReport is what `tidemark parked list --json` prints.
type parkedReport struct {
	Source string           `json:"source"`
	Total  int64            `json:"total"` // also those that the limit has left out
	Tally  park.Tally       `json:"tally"`
	Events []parkedEvent    `json:"events"`
	Others map[string]int64 `json:"other_sources,omitempty"` // events in the table that are not this source's
}

// parkedEvent is a parked event in JSON.
type parkedEvent struct {
	Position     string           `json:"position"`
	ID           string           `json:"id"`
	Table        string           `json:"table"`
	Topic        string           `json:"topic"`
	Key          *string          `json:"key"` // null is a null key; \x and hex digits if it is no text, or one that begins so
	State        park.State       `json:"state"`
	Behind       bool             `json:"behind"` // nothing is wrong with it: it waits behind an earlier event of its key
	Reason       string           `json:"reason"`
	CommittedAt  time.Time        `json:"committed_at"`
	ParkedAt     time.Time        `json:"parked_at"`
	PayloadBytes *int             `json:"payload_bytes"` // null is a null payload
	Details      *parkedEventRest `json:"details,omitempty"`
}

// parkedEventRest is what `show` adds. Values are text, or else \x and hex digits.
type parkedEventRest struct {
	Partition *int32          `json:"partition"` // null: by the key
	Timestamp time.Time       `json:"timestamp"`
	Headers   []parkedHeader  `json:"headers"`
	Floor     map[int32]int64 `json:"floor,omitempty"` // if it is in Kafka, then at one of these offsets or later
	Payload   *parkedPayload  `json:"payload,omitempty"`
}

type parkedHeader struct {
	Key   string  `json:"key"`
	Value *string `json:"value"`
}

// parkedPayload has one of its fields; none if the payload is null.
type parkedPayload struct {
	Text   *string `json:"text,omitempty"`   // if it is valid UTF-8
	Base64 []byte  `json:"base64,omitempty"` // else
}

func (a *app) listParked(ctx context.Context, source string, limit int) (*parkedReport, error) {
	c, _, err := a.load()
	if err != nil {
		return nil, err
	}
	if source == "" {
		if source, err = configuredSource(ctx, c); err != nil {
			return nil, err
		}
	}
	report := &parkedReport{Source: source, Events: []parkedEvent{}}
	store, err := park.OpenExisting(ctx, string(c.Source.AdminDSN), source)
	if park.IsNoTable(err) {
		return report, nil
	}
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return report, report.read(ctx, store, limit)
}

// read fills the report with at most so many events; 0: all.
func (r *parkedReport) read(ctx context.Context, store *park.Store, limit int) (err error) {
	if r.Tally, err = store.Tally(ctx); err != nil {
		return err
	}
	r.Total = r.Tally.Total()
	events, err := store.List(ctx, limit)
	if err != nil {
		return err
	}
	for i := range events {
		r.Events = append(r.Events, newParkedEvent(&events[i]))
	}
	r.Others, err = store.Others(ctx)
	return err
}

func newParkedEvent(e *park.Event) parkedEvent {
	out := parkedEvent{
		Position: e.Event.Position.String(), ID: e.Event.ID, Table: e.Event.Table, Topic: e.Event.Topic, Key: textOrHex(e.Event.Key),
		State: e.State, Behind: e.Behind, Reason: e.Reason, CommittedAt: e.Event.CommitTime, ParkedAt: e.ParkedAt,
	}
	if e.ValueBytes != park.NullValue {
		out.PayloadBytes = &e.ValueBytes
	}
	return out
}

func showParked(events []park.Event, payload bool) []parkedEvent {
	out := make([]parkedEvent, len(events))
	for i := range events {
		e := &events[i]
		rest := &parkedEventRest{Timestamp: e.Event.Timestamp, Floor: e.Floor, Headers: []parkedHeader{}}
		if e.Event.Partition != decode.AnyPartition {
			rest.Partition = &e.Event.Partition
		}
		for _, h := range e.Event.Headers {
			rest.Headers = append(rest.Headers, parkedHeader{h.Key, textOrHex(h.Value)})
		}
		if payload {
			rest.Payload = newParkedPayload(e.Event.Value)
		}
		out[i] = newParkedEvent(e)
		out[i].Details = rest
	}
	return out
}

func newParkedPayload(value []byte) *parkedPayload {
	switch {
	case value == nil:
		return &parkedPayload{}
	case utf8.Valid(value):
		text := string(value)
		return &parkedPayload{Text: &text}
	default:
		return &parkedPayload{Base64: value}
	}
}
