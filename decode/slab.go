package decode

import "slices"

// The slabs hand out pieces of large allocations, so that a row costs a fraction of one. A piece is never taken back:
// the garbage collector frees a chunk when the last event that has a piece of it is gone.
const (
	byteChunk   = 64 << 10 // some 150 rows of 300 B, and what a single event that is kept can keep alive
	ownBytes    = 16 << 10 // a piece larger than this gets an allocation of its own, and leaves the chunk to the small
	headerChunk = 512      // of 40 bytes each
)

// byteSlab holds the bytes of events.
type byteSlab struct{ free []byte }

// piece returns an empty slice with room for n bytes; it is not nil. Appending more than n moves it elsewhere and
// never touches a neighbour.
func (s *byteSlab) piece(n int) []byte {
	if n > ownBytes {
		return make([]byte, 0, n)
	}
	if n > len(s.free) || s.free == nil {
		s.free = make([]byte, byteChunk)
	}
	p := s.free[:0:n]
	s.free = s.free[n:]
	return p
}

// headerSlab holds the headers of events, whose number is known only when they have been read.
type headerSlab struct{ free []Header }

// open returns an empty slice to append one event's headers to, some n of them. Only one is open at a time.
func (s *headerSlab) open(n int) []Header {
	if n > len(s.free) {
		s.free = make([]Header, headerChunk)
	}
	return s.free[:0]
}

// close makes what was appended to the open slice a piece of its own. If there were too many, append has moved them
// out of the chunk already.
func (s *headerSlab) close(h []Header) []Header {
	if len(h) <= len(s.free) {
		s.free = s.free[len(h):]
	}
	return slices.Clip(h)
}
