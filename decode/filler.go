package decode

import (
	"encoding/hex"
	"fmt"
)

// value is one column of one row, borrowed from the message.
type value struct {
	data   []byte // nil is null
	binary bool   // in the type's binary format, else in its text format; only a bytea can be
}

// filler makes one text of a row's columns: a template, or a column, with its indexes resolved. Without parts it is
// always null.
type filler struct {
	parts []fillerPart
	only  int  // the column that makes the whole null when it is null; -1: a null is empty text
	bare  bool // nothing but the text of the column only, as it is: what most fillers are, and the shortest way
}

// alwaysNull reports whether nothing is mapped here.
func (f *filler) alwaysNull() bool { return len(f.parts) == 0 }

// null reports whether the row makes the whole text null.
func (f *filler) null(row []value) bool {
	return f.alwaysNull() || f.only >= 0 && row[f.only].data == nil
}

// size returns how many bytes append will add. Only for a malformed bytea, for a timestamptz without an RFC 3339
// form and for a boolean can it be fewer or more.
func (f *filler) size(row []value) int {
	n := 0
	for i := range f.parts {
		n += f.parts[i].size(row)
	}
	return n
}

// append appends the text. After an error it is complete all the same, with the column as it came.
func (f *filler) append(b []byte, row []value) ([]byte, error) {
	var wrong error
	for i := range f.parts {
		var err error
		if b, err = f.parts[i].append(b, row); err != nil && wrong == nil {
			wrong = err
		}
	}
	return b, wrong
}

// form is how a part of a filler becomes bytes.
type form uint8

const (
	asLiteral form = iota
	asText         // as Postgres prints it
	asBytes        // a bytea's raw bytes
	asInstant      // a timestamptz as RFC 3339
	asWord         // a boolean as true or false
)

type fillerPart struct {
	form   form
	text   string // the literal, or the column's name
	column int    // the column's index
}

const hexPrefix = `\x`

func (p *fillerPart) size(row []value) int {
	if p.form == asLiteral {
		return len(p.text)
	}
	switch v := row[p.column]; {
	case v.data == nil:
		return 0
	case p.form == asInstant:
		return instantLen
	case p.form == asWord:
		return len("false")
	case p.form == asBytes && !v.binary:
		return hex.DecodedLen(max(0, len(v.data)-len(hexPrefix)))
	case p.form == asText && v.binary:
		return len(hexPrefix) + hex.EncodedLen(len(v.data))
	default:
		return len(v.data)
	}
}

func (p *fillerPart) append(b []byte, row []value) ([]byte, error) {
	if p.form == asLiteral {
		return append(b, p.text...), nil
	}
	switch v := row[p.column]; {
	case v.data == nil:
		return b, nil
	case p.form == asInstant:
		return appendInstant(b, v.data), nil
	case p.form == asWord:
		return appendWord(b, v.data), nil
	case p.form == asBytes && !v.binary:
		raw, ok := appendBytea(b, v.data)
		if !ok {
			return append(b, v.data...), fmt.Errorf("column %q is no bytea in hex form (bytea_output = hex)", p.text)
		}
		return raw, nil
	case p.form == asText && v.binary:
		return hex.AppendEncode(append(b, hexPrefix...), v.data), nil
	default:
		return append(b, v.data...), nil
	}
}

// appendWord appends a boolean's t or f as Debezium writes it in a header.
func appendWord(b, text []byte) []byte {
	switch string(text) {
	case "t":
		return append(b, "true"...)
	case "f":
		return append(b, "false"...)
	default: // no boolean
		return append(b, text...)
	}
}

// appendBytea appends the raw bytes of a bytea's text, or reports that it is not in the hex form.
func appendBytea(b, text []byte) ([]byte, bool) {
	if len(text) < len(hexPrefix) || string(text[:len(hexPrefix)]) != hexPrefix {
		return b, false
	}
	raw, err := hex.AppendDecode(b, text[len(hexPrefix):])
	return raw, err == nil
}
