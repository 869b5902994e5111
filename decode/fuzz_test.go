package decode

import (
	"encoding/binary"
	"path/filepath"
	"testing"
)

// FuzzDecode decodes a session of messages, each behind its length in two bytes: once as it is, and once behind the
// start of a session that makes sense, so that a lone insert gets somewhere. No input may make it panic, make an event
// of more memory than a multiple of what came, or make an event that changes when its message or its neighbours do.
func FuzzDecode(f *testing.F) {
	captures, err := filepath.Glob("testdata/*.hex")
	if err != nil {
		f.Fatal(err)
	}
	framed := func(session, msg []byte) []byte {
		return append(binary.BigEndian.AppendUint16(session, uint16(len(msg))), msg...)
	}
	start := [][]byte{beginMessage(0x20, 7)}
	f.Add(framed(nil, logicalMessage(1, 0, "app", `{"aggregatetype":"a","payload":{"b":[1,"\u00e9"]},"id":null,"id":3}`)))
	f.Add(framed(nil, logicalMessage(0, 0x4000, "app", `{"aggregatetype":"a","headers":"{\"x\":1}"}`)))
	for _, name := range captures {
		for i, s := range readCapture(f, name) {
			var session []byte
			for _, msg := range s.messages {
				session = framed(session, msg)
				switch {
				case msg[0] == 'R' && i < 3: // both tables
					start = append(start, msg)
				case msg[0] == 'I', msg[0] == 'M':
					f.Add(framed(nil, msg))
				}
			}
			f.Add(session)
		}
	}
	f.Fuzz(func(t *testing.T, session []byte) {
		for _, before := range [][][]byte{nil, start} {
			d, err := New(goldenOptions())
			if err != nil {
				t.Fatal(err)
			}
			feed(t, d, before...)
			decodeAnything(t, d, session)
		}
	})
}

func decodeAnything(t *testing.T, d *Decoder, session []byte) {
	t.Helper()
	var events []Event
	var rendered []string
	for len(session) >= 2 {
		n := min(int(binary.BigEndian.Uint16(session)), len(session)-2)
		msg := append([]byte(nil), session[2:2+n]...)
		session = session[2+n:]

		ev := Event{Partition: -7}
		kind, err := d.Decode(msg, &ev)
		if err != nil {
			if kind != Skip || len(err.Error()) > 5000+20*n {
				t.Fatalf("kind %d, error %v", kind, err)
			}
			continue
		}
		if kind != Row && kind != Lone {
			if kind != Ignored && ev.Partition != -7 {
				t.Fatalf("message %q of kind %d touched the event", msg, kind)
			}
			continue
		}
		// A column stands at most in the id, its header, the key, the topic and two headers; a JSON header of six
		// bytes costs a Header.
		if size := eventBytes(&ev); size > 2000+20*n {
			t.Fatalf("a message of %d bytes made an event of %d", n, size)
		}
		if kind == Lone && (d.Transaction().End != ev.Position.Commit+1 || ev.Headers[len(ev.Headers)-1].Key != HeaderTransactional) {
			t.Fatalf("a message without transaction is not told apart: %s", renderEvent(&ev))
		}
		if ev.Poison == nil && (ev.ID == "" || checkTopic([]byte(ev.Topic)) != nil || ev.Partition < AnyPartition) {
			t.Fatalf("a good event without what it needs: %s", renderEvent(&ev))
		}
		events, rendered = append(events, ev), append(rendered, renderEvent(&ev))
		for i := range msg {
			msg[i] ^= 0x55
		}
	}
	for i := range events {
		if got := renderEvent(&events[i]); got != rendered[i] {
			t.Fatalf("the event was\n%sand is\n%s", rendered[i], got)
		}
	}
}

func eventBytes(ev *Event) int {
	n := ev.Bytes() + len(ev.Topic)
	for _, h := range ev.Headers {
		n += len(h.Key)
	}
	if ev.Poison != nil {
		n += len(ev.Poison.Error())
	}
	return n
}
