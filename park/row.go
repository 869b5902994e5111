package park

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/decode"
)

// parkedColumns are what Park writes. The value is the last, so that the buffer of a row grows to its size at once.
func parkedColumns() []string {
	return []string{
		"source", "position", "lane", "committed_at", "table_name", "id", "topic", "key",
		"headers", "partition", "record_time", "bytes", "reason", "behind", "value",
	}
}

func (s *Store) row(e *Event) ([]any, error) {
	headers, err := s.headersText(e.Event.Headers)
	if err != nil {
		return nil, err
	}
	return []any{
		s.text(s.source), e.Event.Position.String(), laneOf(&e.Event), e.Event.CommitTime, s.text(e.Event.Table), s.text(e.Event.ID),
		s.text(e.Event.Topic), e.Event.Key, headers, e.Event.Partition, e.Event.Timestamp, e.Event.Bytes(), s.text(shortened(e.Reason)),
		e.Behind, e.Event.Value,
	}, nil
}

// laneOf returns what is the same for the events of one key, and for no others. A key may be too large for an index, a
// hash is not.
func laneOf(ev *decode.Event) []byte {
	h := sha256.New()
	head := binary.BigEndian.AppendUint64(nil, uint64(len(ev.Topic)))
	head = append(head, ev.Topic...)
	if ev.Key == nil { // no order to keep
		head = ev.Position.Append(append(head, 0))
	} else {
		head = append(head, 1)
	}
	h.Write(head)
	h.Write(ev.Key)
	return h.Sum(nil)[:16]
}

// maxReason keeps a reason that quotes what it is about from becoming as large as that.
const maxReason = 2000

func shortened(reason string) string {
	if len(reason) <= maxReason {
		return reason
	}
	return strings.ToValidUTF8(reason[:maxReason], "") + "…"
}

// escape begins a text that stands in the table as hex, because a text of Postgres cannot hold it.
const escape = `\x`

func (s *Store) text(v string) string {
	switch {
	case strings.HasPrefix(v, escape), strings.IndexByte(v, 0) >= 0, !utf8.ValidString(v):
	case s.ascii && strings.IndexFunc(v, func(r rune) bool { return r >= utf8.RuneSelf }) >= 0:
	default:
		return v
	}
	return escape + hex.EncodeToString([]byte(v))
}

func plain(text string) string {
	if digits, ok := strings.CutPrefix(text, escape); ok {
		if v, err := hex.DecodeString(digits); err == nil {
			return string(v)
		}
	}
	return text
}

type header struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

func (s *Store) headersText(headers []decode.Header) ([]byte, error) {
	out := make([]header, len(headers))
	for i, h := range headers {
		out[i] = header{s.text(h.Key), h.Value}
	}
	text, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode headers: %w", err)
	}
	return text, nil
}

func parseHeaders(text []byte) ([]decode.Header, error) {
	var in []header
	if err := json.Unmarshal(text, &in); err != nil || len(in) == 0 {
		return nil, err
	}
	out := make([]decode.Header, len(in))
	for i, h := range in {
		out[i] = decode.Header{Key: plain(h.Key), Value: h.Value}
	}
	return out, nil
}

// eventColumns are what scanEvent reads. The value may be replaced by null::bytea where it is not wanted.
const eventColumns = "position, committed_at, table_name, id, topic, key, headers, partition, record_time, reason, behind, state, floor, parked_at, coalesce(octet_length(value), -1), "

func scanEvent(row pgx.CollectableRow) (Event, error) {
	var e Event
	var position, state string
	var headers, floor []byte
	err := row.Scan(&position, &e.Event.CommitTime, &e.Event.Table, &e.Event.ID, &e.Event.Topic, &e.Event.Key, &headers, &e.Event.Partition,
		&e.Event.Timestamp, &e.Reason, &e.Behind, &state, &floor, &e.ParkedAt, &e.ValueBytes, &e.Event.Value)
	if err != nil {
		return e, err
	}
	if e.Event.Position, err = decode.ParsePosition(position); err != nil {
		return e, err
	}
	if e.Event.Headers, err = parseHeaders(headers); err != nil {
		return e, fmt.Errorf("position %s: headers: %w", position, err)
	}
	if e.State, err = parseState(state); err != nil {
		return e, fmt.Errorf("position %s: %w", position, err)
	}
	if floor != nil {
		if err := json.Unmarshal(floor, &e.Floor); err != nil {
			return e, fmt.Errorf("position %s: floor: %w", position, err)
		}
	}
	for _, text := range []*string{&e.Event.Table, &e.Event.ID, &e.Event.Topic, &e.Reason} {
		*text = plain(*text)
	}
	e.Event.CommitTime, e.Event.Timestamp, e.ParkedAt = e.Event.CommitTime.UTC(), e.Event.Timestamp.UTC(), e.ParkedAt.UTC()
	return e, nil
}

func positionTexts(positions []decode.Position) []string {
	out := make([]string, len(positions))
	for i, p := range positions {
		out[i] = p.String()
	}
	return out
}
