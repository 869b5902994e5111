package decode

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Template is a text with {column} placeholders, as the topic, the key and the headers of a table are configured.
// The zero Template is the empty text.
type Template struct {
	source string
	parts  []templatePart
}

// templatePart is a literal or, if column is not empty, a placeholder.
type templatePart struct{ literal, column string }

// ParseTemplate reads a template: {name} stands for the column of that name, taken as it is written; {{ and }} are
// literal braces. An empty placeholder and a brace without its partner are errors.
func ParseTemplate(s string) (Template, error) {
	t := Template{source: s}
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			t.parts = append(t.parts, templatePart{literal: literal.String()})
			literal.Reset()
		}
	}
	for i := 0; i < len(s); i++ {
		switch rest := s[i+1:]; {
		case s[i] != '{' && s[i] != '}':
			literal.WriteByte(s[i])
		case strings.HasPrefix(rest, s[i:i+1]): // a doubled brace
			literal.WriteByte(s[i])
			i++
		case s[i] == '}':
			return Template{}, fmt.Errorf("template %q: the } at byte %d closes nothing (a literal one is written }})", s, i)
		default:
			column, err := placeholder(rest)
			if err != nil {
				return Template{}, fmt.Errorf("template %q: the { at byte %d %w", s, i, err)
			}
			flush()
			t.parts = append(t.parts, templatePart{column: column})
			i += len(column) + 1
		}
	}
	flush()
	return t, nil
}

// placeholder returns the column name at the front of what follows an opening brace.
func placeholder(rest string) (string, error) {
	end := strings.IndexAny(rest, "{}")
	switch {
	case end < 0 || rest[end] == '{':
		return "", errors.New("is not closed (a literal one is written {{)")
	case end == 0:
		return "", errors.New("names no column")
	}
	return rest[:end], nil
}

// Columns returns the columns that the template names, each once, in the order of their first mention.
func (t Template) Columns() []string {
	var names []string
	for _, p := range t.parts {
		if p.column != "" && !slices.Contains(names, p.column) {
			names = append(names, p.column)
		}
	}
	return names
}

// Placeholders returns the column of each placeholder, in their order.
func (t Template) Placeholders() []string {
	var names []string
	for _, p := range t.parts {
		if p.column != "" {
			names = append(names, p.column)
		}
	}
	return names
}

// Literals returns the texts around the placeholders: one more than there are placeholders, any of them may be empty.
func (t Template) Literals() []string {
	literals := []string{""}
	for _, p := range t.parts {
		if p.column != "" {
			literals = append(literals, "")
		} else {
			literals[len(literals)-1] += p.literal
		}
	}
	return literals
}

// String returns the text that the template was read from.
func (t Template) String() string { return t.source }
