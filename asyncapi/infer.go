package asyncapi

import (
	"bytes"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Schema learns what JSON values look like from samples of them. It keeps types and the names of members, and no value: what
// it says can be shown to whoever may know the topic. The zero Schema has seen nothing.
type Schema struct {
	values  int            // that were seen
	types   map[string]int // JSON Schema's name of a type → how often
	text    []format       // those that every text so far has had
	fields  map[string]*Schema
	seen    map[string]int // how many of the objects have the field
	items   *Schema        // of arrays
	foreign int            // samples that are no JSON
}

type format struct {
	name string
	is   func(string) bool
}

func formats() []format {
	uuid := regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	return []format{
		{"uuid", uuid.MatchString},
		{"date-time", func(s string) bool { _, err := time.Parse(time.RFC3339, s); return err == nil }},
		{"date", func(s string) bool { _, err := time.Parse(time.DateOnly, s); return err == nil }},
	}
}

// Add takes one sample. What is no JSON makes the whole a text.
func (s *Schema) Add(sample []byte) {
	d := json.NewDecoder(bytes.NewReader(sample))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil || d.More() || !json.Valid(sample) {
		s.foreign++
		return
	}
	s.add(v)
}

// Empty reports whether nothing was seen.
func (s *Schema) Empty() bool { return s == nil || s.values+s.foreign == 0 }

// IsJSON reports whether every sample was.
func (s *Schema) IsJSON() bool { return !s.Empty() && s.foreign == 0 }

func (s *Schema) add(v any) {
	if s.types == nil {
		s.types = map[string]int{}
	}
	s.values++
	switch v := v.(type) {
	case nil:
		s.types["null"]++
	case bool:
		s.types["boolean"]++
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			s.types["number"]++
		} else {
			s.types["integer"]++
		}
	case string:
		if s.types["string"] == 0 {
			s.text = formats()
		}
		s.types["string"]++
		s.text = slices.DeleteFunc(s.text, func(f format) bool { return !f.is(v) })
	case []any:
		s.types["array"]++
		if s.items == nil {
			s.items = &Schema{}
		}
		for _, item := range v {
			s.items.add(item)
		}
	case map[string]any:
		s.types["object"]++
		if s.fields == nil {
			s.fields, s.seen = map[string]*Schema{}, map[string]int{}
		}
		for name, value := range v {
			if s.fields[name] == nil {
				s.fields[name] = &Schema{}
			}
			s.fields[name].add(value)
			s.seen[name]++
		}
	}
}

// merge takes in what another has seen.
func (s *Schema) merge(o *Schema) {
	if o == nil {
		return
	}
	if o.types["string"] > 0 {
		if s.types["string"] == 0 {
			s.text = slices.Clone(o.text)
		} else {
			s.text = slices.DeleteFunc(s.text, func(f format) bool {
				return !slices.ContainsFunc(o.text, func(g format) bool { return f.name == g.name })
			})
		}
	}
	if s.types == nil {
		s.types = map[string]int{}
	}
	s.values, s.foreign = s.values+o.values, s.foreign+o.foreign
	for name, n := range o.types {
		s.types[name] += n
	}
	if o.items != nil {
		if s.items == nil {
			s.items = &Schema{}
		}
		s.items.merge(o.items)
	}
	for name, field := range o.fields {
		if s.fields == nil {
			s.fields, s.seen = map[string]*Schema{}, map[string]int{}
		}
		if s.fields[name] == nil {
			s.fields[name] = &Schema{}
		}
		s.fields[name].merge(field)
		s.seen[name] += o.seen[name]
	}
}

// maxFields is how many members of different names make an object a map, whose names are values: those must not be shown.
const maxFields = 64

// isMap reports whether the names of the members are values, such as ids.
func (s *Schema) isMap() bool {
	if len(s.fields) > maxFields {
		return true
	}
	name := regexp.MustCompile(`^[A-Za-z_$@][A-Za-z_$@.:\-]*[0-9]{0,2}([A-Za-z_$@.:\-]+[0-9]{0,2})*$`)
	for field := range s.fields {
		if len(field) > maxFields || !name.MatchString(field) {
			return true
		}
	}
	return false
}

// Document returns the JSON Schema; nil if nothing was seen.
func (s *Schema) Document() Object {
	if s.Empty() {
		return nil
	}
	if s.foreign > 0 {
		return Object{{"type", "string"}}
	}
	types := slices.Sorted(maps.Keys(s.types))
	if s.types["number"] > 0 { // which integers are, too
		types = slices.DeleteFunc(types, func(t string) bool { return t == "integer" })
	}
	var o Object
	if len(types) == 1 {
		o = o.with("type", types[0])
	} else {
		list := make([]any, len(types))
		for i, t := range types {
			list[i] = t
		}
		o = o.with("type", list)
	}
	if s.types["string"] > 0 && len(s.text) > 0 {
		o = o.with("format", s.text[0].name)
	}
	if s.items != nil {
		o = o.with("items", s.items.Document())
	}
	if s.types["object"] == 0 || len(s.fields) == 0 {
		return o
	}
	if s.isMap() {
		all := &Schema{}
		for _, field := range s.fields {
			all.merge(field)
		}
		return o.with("additionalProperties", all.Document())
	}
	var properties Object
	var required []any
	for _, name := range slices.Sorted(maps.Keys(s.fields)) {
		properties = append(properties, Member{name, s.fields[name].Document()})
		if s.seen[name] == s.types["object"] {
			required = append(required, name)
		}
	}
	return o.with("properties", properties).with("required", required)
}
