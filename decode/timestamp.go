package decode

import (
	"bytes"
	"fmt"
	"time"
)

// maxTimestamp is the last instant that a timestamp column may hold; Postgres knows later ones, RFC 3339 does not.
const maxTimestamp = "9999-12-31 23:59:59.999999"

// parseTimestamp reads a timestamp or timestamptz as Postgres prints it with DateStyle ISO:
// 2026-11-22 10:00:00[.123456][+00[:30[:15]]]. Without an offset it is UTC. It is false for what has no place among
// the years 1 to 9999 (infinity, BC, later years) and for everything else.
func parseTimestamp(b []byte) (time.Time, bool) {
	const date = len("2006-01-02 15:04:05")
	if len(b) < date || b[4] != '-' || b[7] != '-' || b[10] != ' ' || b[13] != ':' || b[16] != ':' {
		return time.Time{}, false
	}
	d := digits{ok: true}
	year, month, day := d.int(b[0:4]), d.int(b[5:7]), d.int(b[8:10])
	hour, minute, second := d.int(b[11:13]), d.int(b[14:16]), d.int(b[17:19])
	b = b[date:]

	nanos := 0
	if len(b) > 0 && b[0] == '.' {
		n, unit := 1, int(time.Second)
		for n < len(b) && b[n]-'0' <= 9 {
			n++
			unit /= 10
		}
		if n == 1 || n > 1+6 {
			return time.Time{}, false
		}
		nanos = d.int(b[1:n]) * unit
		b = b[n:]
	}

	offset := 0
	if len(b) > 0 {
		sign := 1
		switch b[0] {
		case '+':
		case '-':
			sign = -1
		default:
			return time.Time{}, false
		}
		b = b[1:]
		for unit := 3600; ; unit /= 60 {
			if len(b) < 2 || unit == 0 {
				return time.Time{}, false
			}
			offset += sign * unit * d.int(b[:2])
			if b = b[2:]; len(b) == 0 {
				break
			}
			if b[0] != ':' {
				return time.Time{}, false
			}
			b = b[1:]
		}
	}

	t := time.Date(year, time.Month(month), day, hour, minute, second, nanos, time.UTC)
	// time.Date carries what is out of range over to the next unit; a date that exists comes back as it was.
	if !d.ok || year == 0 || t.Month() != time.Month(month) || t.Day() != day || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, false
	}
	if t = t.Add(-time.Duration(offset) * time.Second); t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}, false
	}
	return t, true
}

// digits reads decimal numbers and remembers whether all were made of digits.
type digits struct{ ok bool }

// int reads at most 9 digits.
func (d *digits) int(b []byte) int { return int(d.int64(b)) }

// int64 reads at most 18 digits.
func (d *digits) int64(b []byte) int64 {
	var n int64
	for _, c := range b {
		if c -= '0'; c > 9 {
			d.ok = false
			return 0
		}
		n = n*10 + int64(c)
	}
	return n
}

// appendInstant appends a timestamptz as Debezium writes it in a header: 2026-11-22T10:00:00.123456Z, always six
// digits. What that form cannot hold (infinity, BC) stays as Postgres printed it: the header is information.
func appendInstant(b, text []byte) []byte {
	t, ok := parseTimestamp(text)
	if !ok {
		return append(b, text...)
	}
	return appendTime(b, t)
}

// instantLen is the length of what appendInstant writes, the text of another form excepted.
const instantLen = len("2006-01-02T15:04:05.000000Z")

// recordTimestamp is a timestamp column's text as a record's timestamp, which Kafka counts from 1970.
func recordTimestamp(text []byte) (time.Time, error) {
	t, ok := parseTimestamp(text)
	if !ok || t.Unix() < 0 {
		return time.Time{}, fmt.Errorf("%.40q is not a time from 1970-01-01 to %s", text, maxTimestamp)
	}
	return t, nil
}

// recordMillis is the same for a column that counts the milliseconds since 1970.
func recordMillis(text []byte) (time.Time, error) {
	const last = 253402300799999 // maxTimestamp
	d := digits{ok: len(text) > 0 && len(text) <= 15}
	var ms int64
	if d.ok {
		ms = d.int64(text)
	}
	if !d.ok || ms > last {
		return time.Time{}, fmt.Errorf("%.40q is not a number of milliseconds from 1970-01-01 to %s", text, maxTimestamp)
	}
	return time.UnixMilli(ms).UTC(), nil
}

// recordField is the same for a field of a JSON object: a number of milliseconds, RFC 3339 as to_jsonb writes it, or the text
// of a timestamp.
func recordField(text []byte) (time.Time, error) {
	if len(text) > 0 && len(bytes.Trim(text, "0123456789")) == 0 {
		return recordMillis(text)
	}
	if t, err := time.Parse(time.RFC3339, string(text)); err == nil && t.Unix() >= 0 {
		return t.UTC(), nil
	}
	return recordTimestamp(text)
}

// expiry is the time after which an event means nothing any more, as RFC 3339, in memory that the next row takes; nil if
// there is none. What is no time is returned as it came.
func (b *builder) expiry(m *mapping, row []value) ([]byte, error) {
	text := row[m.expires].data
	if text == nil || string(text) == "infinity" {
		return nil, nil
	}
	var at time.Time
	var err error
	switch m.columns[m.expires].Type {
	case oidInt8:
		at, err = recordMillis(text)
	case ofField:
		at, err = recordField(text)
	default:
		var ok bool
		if at, ok = parseTimestamp(text); !ok {
			err = fmt.Errorf("%.40q is not a time of the years 1 to 9999", text)
		}
	}
	if err != nil {
		return text, err
	}
	b.scratch = appendTime(b.scratch[:0], at)
	return b.scratch, nil
}

// appendTime appends a time as RFC 3339 with six digits, in UTC.
func appendTime(b []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
}
