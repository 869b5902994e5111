package decode

import (
	"fmt"
	"testing"
	"time"
)

func TestTimestamp(t *testing.T) {
	t.Parallel()
	row := func(typ uint32, text string) Event {
		return rowOf(t, func(t *Table) { t.Columns.Timestamp = "ts" }, []Column{{"ts", typ}}, "i", "t", "k", "v", text)
	}
	good := []struct {
		typ        uint32
		text, want string
	}{
		{oidTimestamptz, null, "2026-11-22T10:00:00.123456Z"}, // the commit
		{oidTimestamptz, "2026-11-22 10:00:00+00", "2026-11-22T10:00:00Z"},
		{oidTimestamptz, "2026-11-22 10:00:00.123456+00", "2026-11-22T10:00:00.123456Z"},
		{oidTimestamptz, "2026-11-22 10:00:00.5+00", "2026-11-22T10:00:00.5Z"},
		{oidTimestamptz, "2026-11-22 10:00:00+05:30", "2026-11-22T04:30:00Z"},
		{oidTimestamptz, "2026-11-22 20:00:00-08", "2026-11-23T04:00:00Z"},
		{oidTimestamptz, "1970-01-01 00:00:00+00", "1970-01-01T00:00:00Z"},
		{oidTimestamptz, "9999-12-31 23:59:59.999999+00", "9999-12-31T23:59:59.999999Z"},
		{oidTimestamp, "2024-02-29 23:59:59.000001", "2024-02-29T23:59:59.000001Z"},
		{oidInt8, "0", "1970-01-01T00:00:00Z"},
		{oidInt8, "1795341600123", "2026-11-22T10:00:00.123Z"},
		{oidInt8, "253402300799999", "9999-12-31T23:59:59.999Z"},
	}
	for _, test := range good {
		ev := row(test.typ, test.text)
		if got := ev.Timestamp.Format(time.RFC3339Nano); got != test.want || ev.Poison != nil {
			t.Errorf("%q: %s, poison %v; want %s", test.text, got, ev.Poison, test.want)
		}
		if !ev.CommitTime.Equal(commitTime()) {
			t.Errorf("%q: commit time %v", test.text, ev.CommitTime)
		}
	}
	bad := map[uint32][]string{
		oidTimestamptz: {
			"infinity", "-infinity", "0044-03-15 12:00:00+00 BC", "10000-01-01 00:00:00+00", "294276-12-31 23:59:59.999999+00",
			"1969-12-31 23:59:59.999999+00", "9999-12-31 23:59:59-01", "", "2026-11-22", "2026-11-22T10:00:00Z",
			"2026-13-22 10:00:00+00", "2026-02-29 10:00:00+00", "2026-11-22 24:00:00+00", "2026-11-22 10:60:00+00",
			"2026-11-22 10:00:60+00", "2026-11-22 10:00:00.+00", "2026-11-22 10:00:00.1234567+00", "2026-11-22 10:00:00+0",
			"2026-11-22 10:00:00+00:", "2026-11-22 10:00:00+00:00:00:00", "2026-11-22 10:00:00+00x", "2026-11-22 1x:00:00+00",
			"2026-11-22 10:00:00 BC", "2026-00-22 10:00:00", "0000-01-01 00:00:00", "Sun Nov 22 10:00:00 2026 UTC",
		},
		oidInt8: {"", "-1", "253402300800000", "9223372036854775807", "1e3", "1795341600.123"},
	}
	for typ, texts := range bad {
		for _, text := range texts {
			ev := row(typ, text)
			wantError(t, ev.Poison, "timestamp", fmt.Sprintf("%.40q", text))
			if !ev.Timestamp.Equal(commitTime()) {
				t.Errorf("%q: timestamp %v", text, ev.Timestamp)
			}
		}
	}
}

func TestTimestamptzHeader(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"2026-11-22 10:00:00.123456+00": "2026-11-22T10:00:00.123456Z",
		"2026-11-22 10:00:00.1+00":      "2026-11-22T10:00:00.100000Z",
		"2026-11-22 10:00:00+00":        "2026-11-22T10:00:00.000000Z",
		"1066-10-14 09:00:00-00:01:15":  "1066-10-14T09:01:15.000000Z",
		// What RFC 3339 cannot say stays as Postgres says it.
		"infinity":                     "infinity",
		"0044-03-15 12:00:00+00 BC":    "0044-03-15 12:00:00+00 BC",
		"12026-11-22 10:00:00+00":      "12026-11-22 10:00:00+00",
		"9999-12-31 23:59:59.9-000000": "9999-12-31 23:59:59.9-000000",
	}
	for text, want := range tests {
		change := func(t *Table) { t.Headers, t.Key = []HeaderTemplate{{"at", "{at}"}}, "{at}" }
		ev := rowOf(t, change, []Column{{"at", oidTimestamptz}}, "i", "t", "k", "v", text)
		if got := string(ev.Headers[3].Value); got != want || ev.Poison != nil {
			t.Errorf("%q: header %q, poison %v; want %q", text, got, ev.Poison, want)
		}
		if string(ev.Key) != text {
			t.Errorf("%q: the key is %q: only headers have another form", text, ev.Key)
		}
	}
	// A timestamp has no zone to write.
	ev := rowOf(t, func(t *Table) { t.Headers = []HeaderTemplate{{"at", "{at}"}} }, []Column{{"at", oidTimestamp}},
		"i", "t", "k", "v", "2026-11-22 10:00:00")
	if got := string(ev.Headers[3].Value); got != "2026-11-22 10:00:00" {
		t.Errorf("a timestamp as a header: %q", got)
	}
}

// FuzzParseTimestamp holds the parser against the time package's, which knows the same forms and is more lenient.
func FuzzParseTimestamp(f *testing.F) {
	for _, s := range []string{
		"2026-11-22 10:00:00", "2026-11-22 10:00:00.123456+00", "2026-11-22 10:00:00+05:30", "1066-10-14 09:00:00-00:01:15",
		"2024-02-29 23:59:59.5-08", "0001-01-01 00:00:00+15:59:59", "9999-12-31 23:59:59.999999", "infinity", "0044-03-15 12:00:00+00 BC",
	} {
		f.Add([]byte(s))
	}
	layouts := []string{
		"2006-01-02 15:04:05", "2006-01-02 15:04:05-07", "2006-01-02 15:04:05-07:00", "2006-01-02 15:04:05-07:00:00",
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, ok := parseTimestamp(text)
		var want time.Time
		known := false
		for _, layout := range layouts {
			if at, err := time.Parse(layout, string(text)); err == nil {
				want, known = at.UTC(), true
			}
		}
		if ok && (got.Year() < 1 || got.Year() > 9999) {
			t.Fatalf("%q is read as %s", text, got)
		}
		// The time package reads no offset beyond 24 hours, which Postgres does not write, and carries nothing over.
		if ok && known && !got.Equal(want) {
			t.Fatalf("%q is read as %s, and is %s", text, got, want)
		}
		if header := appendInstant(nil, text); ok != (string(header) == got.Format("2006-01-02T15:04:05.000000Z")) && string(header) != string(text) {
			t.Fatalf("%q is written as %q", text, header)
		}
		if _, err := recordTimestamp(text); (err == nil) != (ok && got.Unix() >= 0) {
			t.Fatalf("%q: %v", text, err)
		}
		if at, err := recordMillis(text); err == nil && fmt.Sprint(at.UnixMilli()) != trimZeros(string(text)) {
			t.Fatalf("%q is read as %d ms", text, at.UnixMilli())
		}
	})
}

// trimZeros removes zeros that lead a number.
func trimZeros(digits string) string {
	for len(digits) > 1 && digits[0] == '0' {
		digits = digits[1:]
	}
	return digits
}
