package relay

import (
	"slices"
	"time"

	"github.com/jackc/pglogrepl"
)

// marks tell how old the oldest of what is not stored yet is. Each says that something that ends at lsn was there at that
// time: the commit of an event that was handed over, or the end of the log as it was looked up. So they know of a backlog
// whose rows are old, and of one that nothing is read of, as when the connection to the source is lost or the server
// spools a large transaction.
type marks []mark

type mark struct {
	lsn pglogrepl.LSN
	at  time.Time
}

// maxMarks bounds them. Of more, every second one is dropped: what is said becomes coarser, and never younger than it is.
const maxMarks = 128

func (m *marks) note(lsn pglogrepl.LSN, at time.Time) {
	if len(*m) == maxMarks {
		oldest, kept := m.oldest(), (*m)[:0]
		for i, known := range *m {
			if i%2 == 0 || known == oldest {
				kept = append(kept, known)
			}
		}
		*m = kept
	}
	*m = append(*m, mark{lsn, at})
}

// passed forgets what is stored.
func (m *marks) passed(stored pglogrepl.LSN) {
	*m = slices.DeleteFunc(*m, func(k mark) bool { return k.lsn <= stored })
}

// oldest returns the zero mark if there is none.
func (m *marks) oldest() (oldest mark) {
	for _, k := range *m {
		if oldest.at.IsZero() || k.at.Before(oldest.at) {
			oldest = k
		}
	}
	return oldest
}

// lag returns for how long the oldest of what is not stored has been there; 0 if everything is.
func (m *marks) lag(now time.Time) time.Duration {
	oldest := m.oldest()
	if oldest.at.IsZero() {
		return 0
	}
	return max(now.Sub(oldest.at), 0) // the clocks of two hosts
}
