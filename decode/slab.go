package decode

// slab hands out pieces of large allocations, so that a row costs a fraction of one. A piece is never taken back: the
// garbage collector frees a chunk when the last event that has a piece of it is gone.
type slab[T any] struct {
	free  []T
	chunk int // items allocated at once
	limit int // a piece larger than this gets an allocation of its own, and leaves the chunk to the small ones
}

// newByteSlab holds the bytes of events: a chunk is some 150 rows of 300 B, and what one parked row can keep alive.
func newByteSlab() slab[byte] { return slab[byte]{chunk: 64 << 10, limit: 16 << 10} }

// newHeaderSlab holds their headers; 40 bytes each, 20 KiB a chunk.
func newHeaderSlab() slab[Header] { return slab[Header]{chunk: 512, limit: 128} }

// piece returns an empty slice with room for n items; it is not nil. Appending more than n moves it elsewhere and
// never touches a neighbour.
func (s *slab[T]) piece(n int) []T {
	if n > s.limit {
		return make([]T, 0, n)
	}
	if n > len(s.free) || s.free == nil {
		s.free = make([]T, s.chunk)
	}
	p := s.free[:0:n]
	s.free = s.free[n:]
	return p
}
