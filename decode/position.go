package decode

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/jackc/pglogrepl"
)

// Position says where an event stands in the source's log: the LSN of the commit of its transaction and its index
// among the events of that transaction. It is the same on every replay, and larger means later. A row's own LSN would
// serve neither purpose: it repeats inside a multi-row insert and goes backwards between interleaved transactions.
type Position struct {
	Commit pglogrepl.LSN // the commit record's LSN, as pgoutput's Begin and Commit carry it
	Index  uint32        // 0 for the first event of the transaction
}

// positionLen is the length of a position's text: 16 hex digits, '-', 8 hex digits.
const positionLen = 16 + 1 + 8

// Compare orders positions as the log does: -1 if p is earlier than q, 0 if they are the same, +1 if it is later.
func (p Position) Compare(q Position) int {
	if c := cmp.Compare(p.Commit, q.Commit); c != 0 {
		return c
	}
	return cmp.Compare(p.Index, q.Index)
}

// String returns the text of the tidemark-position header. Its lexicographic order is the order of the positions.
func (p Position) String() string { return string(p.Append(nil)) }

// Append appends the text of String to b.
func (p Position) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, hexDigits(uint32(p.Commit>>32)))
	b = binary.BigEndian.AppendUint64(b, hexDigits(uint32(p.Commit)))
	return binary.BigEndian.AppendUint64(append(b, '-'), hexDigits(p.Index))
}

// hexDigits returns the eight hex digits of v as eight bytes, the first digit in the highest. Every record has three
// of them, and a loop over the digits was a tenth of the work on a row.
func hexDigits(v uint32) uint64 {
	const each = 0x0101010101010101 // times a byte: that byte in each of the eight
	n := uint64(v)                  // spread until each byte holds four bits of v
	n = (n | n<<16) & 0x0000ffff0000ffff
	n = (n | n<<8) & 0x00ff00ff00ff00ff
	n = (n | n<<4) & 0x0f0f0f0f0f0f0f0f
	letters := (n + 6*each) >> 4 & each // 1 in the bytes from 10 on
	return n + '0'*each + letters*('a'-'0'-10)
}

// ParsePosition reads the text that String writes, and nothing else: no capitals, which would break its order.
func ParsePosition(s string) (Position, error) {
	var raw [12]byte
	if len(s) != positionLen || s[16] != '-' || strings.ContainsAny(s, "ABCDEF") {
		return Position{}, fmt.Errorf("position %.40q: want 16 hex digits in lower case, '-', 8 hex digits", s)
	}
	if _, err := hex.Decode(raw[:8], []byte(s[:16])); err != nil {
		return Position{}, fmt.Errorf("position %q: %w", s, err)
	}
	if _, err := hex.Decode(raw[8:], []byte(s[17:])); err != nil {
		return Position{}, fmt.Errorf("position %q: %w", s, err)
	}
	return Position{
		Commit: pglogrepl.LSN(binary.BigEndian.Uint64(raw[:8])),
		Index:  binary.BigEndian.Uint32(raw[8:]),
	}, nil
}
