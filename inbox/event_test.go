package inbox_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tidemark/tidemark/inbox"
)

func headers(pairs ...string) []inbox.Header {
	var hs []inbox.Header
	for i := 0; i < len(pairs); i += 2 {
		hs = append(hs, inbox.Header{Key: pairs[i], Value: []byte(pairs[i+1])})
	}
	return hs
}

func TestARecordSaysWhichEventItIs(t *testing.T) {
	t.Parallel()
	const at = "0000000101a2b3c8-00000002"
	for _, c := range []struct {
		what                       string
		record                     inbox.Record
		id, kind, source, position string
	}{
		{
			"tidemark",
			inbox.Record{Headers: headers("id", "4711", "eventType", "OrderPlaced", "tidemark-position", at, "tidemark-source", "74/shop/tidemark")},
			"4711", "OrderPlaced", "74/shop/tidemark", at,
		},
		{
			"a header of the row with the same name comes later",
			inbox.Record{Headers: headers("id", "4711", "id", "4712")},
			"4711", "", "", "",
		},
		{"Debezium", inbox.Record{Headers: headers("id", "4711")}, "4711", "", "", ""},
		{
			"CloudEvents, binary",
			inbox.Record{Headers: headers("ce_id", "4711", "ce_type", "placed", "ce_source", "/shop", "ce_sequence", at), Value: []byte(`{"id": "4712"}`)},
			"4711", "placed", "/shop", at,
		},
		{
			"CloudEvents, of a row that brings headers of its own",
			inbox.Record{Headers: headers("ce_id", "4711", "ce_type", "placed", "id", "4712", "eventType", "other", "tidemark-position", at, "tidemark-source", "74/shop/tidemark", "ce_source", "/shop")},
			"4711", "placed", "74/shop/tidemark", at,
		},
		{
			"CloudEvents of somebody who counts",
			inbox.Record{Headers: headers("ce_id", "4711", "ce_sequence", "12")},
			"4711", "", "", "",
		},
		{
			"CloudEvents, structured",
			inbox.Record{
				Headers: headers("content-type", "application/cloudevents+json; charset=UTF-8"),
				Value:   []byte(` {"id": "4711", "type": "placed", "source": "/shop", "sequence": "` + at + `", "data": {"id": 3}}`),
			},
			"4711", "placed", "/shop", at,
		},
		{
			"Eventuate Tram",
			inbox.Record{Value: []byte(`{"payload": "{}", "headers": {"ID": "4711", "event-type": "Placed", "PARTITION_ID": "7"}}`)},
			"4711", "Placed", "", "",
		},
	} {
		e, err := c.record.Event()
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if e.ID != c.id || e.Type != c.kind || e.Source != c.source || e.Position != c.position {
			t.Errorf("%s: id %q, type %q, source %q, position %q", c.what, e.ID, e.Type, e.Source, e.Position)
		}
	}
}

func TestARecordWithoutAnIDIsAnError(t *testing.T) {
	t.Parallel()
	for _, r := range []inbox.Record{
		{},
		{Value: []byte(`{"id": "4711"}`)},
		{Value: []byte(`{"headers": [1]}`)},
		{Value: []byte(`{"headers": {"ID"`)},
		{Headers: headers("id", "", "ID", "4711")},
	} {
		r.Topic, r.Partition, r.Offset = "orders", 3, 17
		if _, err := r.Event(); !errors.Is(err, inbox.ErrNoID) || !strings.Contains(err.Error(), "record 17 of partition 3 of topic orders") {
			t.Errorf("%v: %v", r, err)
		}
	}
	if e, err := (inbox.Record{Headers: headers("id", "a\x00b")}).Event(); err == nil {
		t.Errorf("%q is taken for an id", e.ID)
	}
}
