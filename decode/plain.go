package decode

import "fmt"

// plain gives the event the headers of the format Plain. Its value is the payload as it is.
func (b *builder) plain(m *mapping, row []value, id []byte, ev *Event) {
	headers := append(b.slab.open(4+len(m.headers)), Header{Key: HeaderID, Value: id})
	if !m.eventType.alwaysNull() {
		v, err := b.fill(&m.eventType, row)
		ev.poison("type", err)
		headers = append(headers, Header{Key: headerType, Value: v})
	}
	headers = append(headers,
		Header{Key: HeaderPosition, Value: ev.Position.Append(b.bytes.piece(positionLen))},
		Header{Key: HeaderSource, Value: b.source})
	for i := range m.headers {
		h := &m.headers[i]
		v, err := b.fill(&h.value, row)
		if err != nil {
			ev.poison(fmt.Sprintf("header %q", h.name), err)
		}
		if v != nil || !h.dropNull {
			headers = append(headers, Header{Key: h.name, Value: v})
		}
	}
	if m.expires >= 0 {
		if v, err := b.expiry(m, row); v != nil || err != nil {
			ev.poison("expires_at", err)
			headers = append(headers, Header{Key: headerExpiresAt, Value: b.copy(v)})
		}
	}
	if m.headersJSON >= 0 {
		var err error
		if headers, err = b.jsonHeaders(headers, row[m.headersJSON].data); err != nil {
			ev.poison("headers", fmt.Errorf("column %q: %w", m.table.columns.Headers, err))
		}
	}
	ev.Headers = b.slab.close(headers)
}
