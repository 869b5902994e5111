package outbox

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"sync/atomic"
	"time"
)

//nolint:gochecknoglobals // ids of one process grow, whoever makes them
var lastID atomic.Uint64

// NewID returns a UUID of version 7 (RFC 9562) as text: the milliseconds since 1970 first, so that ids that are close in
// time are close in the index, and tidemark receipt knows where in a topic to look. The ids of one process grow, also
// within a millisecond and when the clock is set back. Any goroutine may call it.
func NewID() string {
	now := time.Now()
	// 48 bits of milliseconds and 12 of the millisecond's fraction.
	fraction := uint64(now.Nanosecond()%1e6) << 12 / 1e6               //nolint:gosec // below a million
	return uuidv7(next(&lastID, uint64(now.UnixMilli())<<12|fraction)) //nolint:gosec // after 1970
}

// next returns now, or the successor of the last if that is not smaller, and makes it the last.
func next(last *atomic.Uint64, now uint64) uint64 {
	for {
		before := last.Load()
		if now <= before {
			now = before + 1
		}
		if last.CompareAndSwap(before, now) {
			return now
		}
	}
}

func uuidv7(t uint64) string {
	var id [16]byte
	_, _ = rand.Read(id[8:]) // never fails (crypto/rand)
	binary.BigEndian.PutUint64(id[:8], t>>12<<16|0x7000|t&0xfff)
	id[8] = id[8]&0x3f | 0x80 // the variant
	var text [36]byte
	hex.Encode(text[0:8], id[0:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:36], id[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

// isUUID reports whether s is a UUID as Postgres and everybody else writes it.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}
