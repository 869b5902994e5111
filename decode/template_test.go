package decode

import (
	"slices"
	"strings"
	"testing"
)

func TestParseTemplate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text    string
		columns []string
		filled  string // with each column filled by <its name>
	}{
		{"", nil, ""},
		{"plain", nil, "plain"},
		{"{a}", []string{"a"}, "<a>"},
		{"x.{a}.{b}-{a}", []string{"a", "b"}, "x.<a>.<b>-<a>"},
		{"{{a}}", nil, "{a}"},
		{"{{{a}}}", []string{"a"}, "{<a>}"},
		{"{{}}", nil, "{}"},
		{"{a}}}{{{b}", []string{"a", "b"}, "<a>}{<b>"},
		{"{Column name, quoted}", []string{"Column name, quoted"}, "<Column name, quoted>"},
		{"größe {größe}", []string{"größe"}, "größe <größe>"},
	}
	for _, test := range tests {
		tmpl, err := ParseTemplate(test.text)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := tmpl.Columns(); !slices.Equal(got, test.columns) {
			t.Errorf("%q names %q, want %q", test.text, got, test.columns)
		}
		if got := fillNames(tmpl); got != test.filled {
			t.Errorf("%q is filled to %q, want %q", test.text, got, test.filled)
		}
		if tmpl.String() != test.text {
			t.Errorf("%q has the text %q", test.text, tmpl)
		}
	}
}

func TestParseTemplateRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"{}":      "byte 0 names no column",
		"x{":      "byte 1 is not closed",
		"x{a":     "byte 1 is not closed",
		"}":       "byte 0 closes nothing",
		"a}b":     "byte 1 closes nothing",
		"{a}}":    "byte 3 closes nothing",
		"{a{b}}":  "byte 0 is not closed",
		"{{a}":    "byte 3 closes nothing",
		"{a}{b{{": "byte 3 is not closed",
		"{{{":     "byte 2 is not closed",
	}
	for text, want := range tests {
		_, err := ParseTemplate(text)
		wantError(t, err, want, text)
	}
}

// fillNames fills a template the way a row does, every column with its name in angle brackets.
func fillNames(tmpl Template) string {
	var columns []Column
	var row []value
	for _, name := range tmpl.Columns() {
		columns = append(columns, Column{Name: name, Type: 25})
		row = append(row, value{data: []byte("<" + name + ">")})
	}
	r := resolver{columns: columns}
	f := r.template(tmpl, "test", inRecord)
	b, err := f.append(make([]byte, 0, f.size(row)), row)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func FuzzParseTemplate(f *testing.F) {
	f.Add("outbox.event.{aggregatetype}")
	f.Fuzz(func(t *testing.T, text string) {
		tmpl, err := ParseTemplate(text)
		if err != nil {
			return
		}
		// Written out again, it is the same template.
		var again strings.Builder
		braces := strings.NewReplacer("{", "{{", "}", "}}")
		for _, p := range tmpl.parts {
			if p.column == "" {
				again.WriteString(braces.Replace(p.literal))
			} else {
				again.WriteString("{" + p.column + "}")
			}
		}
		if again.String() != text {
			t.Errorf("%q is written out as %q", text, &again)
		}
		for _, c := range tmpl.Columns() {
			if c == "" || !strings.Contains(text, "{"+c+"}") {
				t.Errorf("%q names column %q", text, c)
			}
		}
		// A row's text in the place of a name is never read as a template.
		if got := fillNames(tmpl); len(got) > len(text)+2*len(tmpl.parts) {
			t.Errorf("%q is filled to %q", text, got)
		}
	})
}
