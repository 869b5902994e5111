package consumer

import (
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/inbox"
)

// Record is the record in the words of package inbox. It shares the memory of r.
func Record(r *kgo.Record) inbox.Record {
	var headers []inbox.Header
	if len(r.Headers) > 0 {
		headers = make([]inbox.Header, len(r.Headers))
		for i, h := range r.Headers {
			headers[i] = inbox.Header{Key: h.Key, Value: h.Value}
		}
	}
	return inbox.Record{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp, Key: r.Key, Value: r.Value, Headers: headers,
	}
}

// Event is the event of a record; see inbox.Record.Event for what it understands.
func Event(r *kgo.Record) (inbox.Event, error) { return Record(r).Event() }

func size(r *kgo.Record) int {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}
