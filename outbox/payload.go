package outbox

import (
	"encoding/json"

	"google.golang.org/protobuf/proto"
)

// Payload is what an event carries. The zero value is none, and refused: it takes [Tombstone] to write a null.
type Payload struct {
	data []byte
	kind kind
	err  error // of the encoder; Write reports it
}

type kind uint8

const (
	none kind = iota
	null
	valid // JSON that an encoder has made
	raw   // anything
)

// JSON is v as encoding/json writes it. What cannot be encoded is an error of [Write].
func JSON(v any) Payload {
	data, err := json.Marshal(v)
	return Payload{data: data, kind: valid, err: err}
}

// Proto is m in the wire format of protobuf. It needs a payload column of type bytea: see [Columns].
func Proto(m proto.Message) Payload { return Encoded(proto.Marshal(m)) }

// Encoded is what any encoder returns: outbox.Encoded(codec.Marshal(v)). The payload keeps data until Write has returned.
func Encoded(data []byte, err error) Payload { return Payload{data: data, kind: raw, err: err} }

// Bytes is data as it is. In a column of type json or jsonb it has to be JSON, in one of type text UTF-8; jsonb stores the
// value, not the text, so white space and the order of keys may come out differently. The payload keeps data until Write
// has returned.
func Bytes(data []byte) Payload { return Payload{data: data, kind: raw} }

// Text is s as it is; see [Bytes].
func Text(s string) Payload { return Bytes([]byte(s)) }

// Tombstone is a null, from which tidemark makes a record without a value: in a compacted topic it deletes the key.
func Tombstone() Payload { return Payload{kind: null} }
