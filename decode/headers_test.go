package decode

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestJSONHeaders(t *testing.T) {
	t.Parallel()
	tests := []struct {
		doc    string
		want   []string
		poison string
	}{
		{null, nil, ""},
		{"", nil, ""},
		{" \n\t ", nil, ""},
		{"null", nil, ""},
		{" null ", nil, ""},
		{"{}", nil, ""},
		{" { } ", nil, ""},
		{`{"a":"b"}`, []string{"a=b"}, ""},
		{` { "a" : "b" , "c" : "" } `, []string{"a=b", "c="}, ""},
		{`{"z": 1, "a": 2, "z": 3}`, []string{"z=1", "a=2", "z=3"}, ""},
		{`{"n": null, "s": "null"}`, []string{"n", "s=null"}, ""},
		{`{"n": 12345678901234567890.1230, "e": -1E+2, "t": true, "f": false}`, []string{"n=12345678901234567890.1230", "e=-1E+2", "t=true", "f=false"}, ""},
		{`{"o": {"a": [1, "}", {"b": "\"]"}]} , "l": [ ] }`, []string{`o={"a": [1, "}", {"b": "\"]"}]}`, "l=[ ]"}, ""},
		{`{"é\u00e9\n": "\ud83d\udd11 \\ \" \/"}`, []string{"éé\n=🔑 \\ \" /"}, ""},
		{`{"": ""}`, []string{"="}, ""},
		{`{"\\": "\\"}`, []string{`\=\`}, ""},
		{`{"a": "x,}", "b": [","]}`, []string{"a=x,}", `b=[","]`}, ""},
		// A service passed on what it had read: only tidemark speaks for itself.
		{`{"a": "1", "tidemark-position": "ffffffffffffffff-00000000", "tidemark-sourc\u0065": "x", "tidemark-replay": "verify", "b": "2"}`, []string{"a=1", "b=2"}, ""},
		{`[1]`, nil, "not an object"},
		{`"text"`, nil, "not an object"},
		{`1`, nil, "not an object"},
		{`true`, nil, "not an object"},
		{`{"a": 1} {"b": 2}`, nil, "no valid JSON"},
		{`{"a": 1`, nil, "no valid JSON"},
		{`{"a"}`, nil, "no valid JSON"},
		{`nul`, nil, "no valid JSON"},
		{`{a: 1}`, nil, "no valid JSON"},
		{strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000), nil, "no valid JSON"},
	}
	for _, test := range tests {
		ev := rowOf(t, func(t *Table) { t.Columns.Headers = "h" }, []Column{{"h", 114}}, "i", "t", "k", "v", test.doc)
		if got := headerText(ev.Headers[3:]); !slices.Equal(got, test.want) {
			t.Errorf("%.80q: headers %q, want %q", test.doc, got, test.want)
		}
		if test.poison != "" {
			wantError(t, ev.Poison, "headers", `"h"`, test.poison)
		} else if ev.Poison != nil {
			t.Errorf("%.80q: poison %v", test.doc, ev.Poison)
		}
	}
}

// FuzzHeadersJSON holds the scanner against encoding/json's decoder.
func FuzzHeadersJSON(f *testing.F) {
	f.Add([]byte(`{"a": "b\n", "n": null, "o": {"x": [1, "}"]}, "e": -1E+2}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		if bytes.Count(doc, []byte("["))+bytes.Count(doc, []byte("{")) > 9000 {
			t.Skip("near encoding/json's limit of nesting the two count differently")
		}
		b := newBuilder("")
		got, err := b.jsonHeaders(nil, doc)
		want, wantErr := slowHeaders(doc)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: %v, encoding/json: %v", doc, err, wantErr)
		}
		size := 0
		for _, h := range got {
			size += len(h.Key) + len(h.Value)
		}
		if size > 3*len(doc) { // three: a byte that is no UTF-8 becomes U+FFFD
			t.Errorf("%q: %d bytes of headers", doc, size)
		}
		if err == nil && utf8.Valid(doc) && !slices.Equal(headerText(got), headerText(want)) {
			t.Errorf("%q: headers %q, want %q", doc, headerText(got), headerText(want))
		}
	})
}

func slowHeaders(doc []byte) ([]Header, error) {
	if strings.Trim(string(doc), jsonSpace) == "" {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	first, err := d.Token()
	if err != nil {
		return nil, err
	}
	var headers []Header
	if first != nil {
		if first != json.Delim('{') {
			return nil, errors.New("no object")
		}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			var raw json.RawMessage
			if err := d.Decode(&raw); err != nil {
				return nil, err
			}
			h := Header{Value: raw}
			h.Key, _ = name.(string)
			switch {
			case string(raw) == "null":
				h.Value = nil
			case raw[0] == '"':
				var s string
				if err := json.Unmarshal(raw, &s); err != nil {
					return nil, err
				}
				h.Value = []byte(s)
			}
			if !reserved(h.Key) {
				headers = append(headers, h)
			}
		}
		if _, err := d.Token(); err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows")
	}
	return headers, nil
}
