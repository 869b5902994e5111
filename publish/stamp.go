package publish

import (
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/decode"
)

// Stamp is what a record says of the event that it was made of.
type Stamp struct {
	ID       string
	Any      bool   // it names an id: else it is not of a relay
	Position string // text; see decode.ParsePosition
	Source   string
	Replayed bool // published again, or late: it says nothing about the relay's order
}

// ReadEventuateStamp reads the value of a record without such headers, which Eventuate's CDC service may have written.
func ReadEventuateStamp(value []byte) (s Stamp) {
	s.ID, s.Any = decode.EventuateID(value)
	return s
}

// ReadStamp reads a record's headers. Of several ids the first counts: a relay puts its own before what the row brings
// along, and a row may bring a header id of its own. The other names are reserved, so a record of ours has each once.
func ReadStamp(headers []kgo.RecordHeader) (s Stamp) {
	for _, h := range headers {
		switch h.Key {
		case decode.HeaderID, decode.HeaderCloudEventID:
			if !s.Any {
				s.ID, s.Any = string(h.Value), true
			}
		case decode.HeaderPosition:
			s.Position = string(h.Value)
		case decode.HeaderSource:
			s.Source = string(h.Value)
		case decode.HeaderReplay:
			s.Replayed = true
		}
	}
	return s
}
