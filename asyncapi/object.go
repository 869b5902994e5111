package asyncapi

import (
	"bytes"
	"encoding/json"

	"go.yaml.in/yaml/v3"
)

// Object is a JSON object whose members keep their order, in JSON as in YAML.
type Object []Member

// Member is a name with its value.
type Member struct {
	Name  string
	Value any
}

// with returns the object with a member more, unless it says nothing.
func (o Object) with(name string, value any) Object {
	switch v := value.(type) {
	case nil:
		return o
	case string:
		if v == "" {
			return o
		}
	case Object:
		if len(v) == 0 {
			return o
		}
	case []any:
		if len(v) == 0 {
			return o
		}
	}
	return append(o, Member{name, value})
}

// MarshalJSON implements json.Marshaler.
func (o Object) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			out.WriteByte(',')
		}
		name, err := json.Marshal(m.Name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m.Value)
		if err != nil {
			return nil, err
		}
		out.Write(name)
		out.WriteByte(':')
		out.Write(value)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// MarshalYAML implements yaml.Marshaler.
func (o Object) MarshalYAML() (any, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, m := range o {
		name, value := &yaml.Node{}, &yaml.Node{}
		name.SetString(m.Name)
		if err := value.Encode(m.Value); err != nil {
			return nil, err
		}
		n.Content = append(n.Content, name, value)
	}
	return n, nil
}

// YAML returns the object as a YAML document.
func (o Object) YAML() ([]byte, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(o); err != nil {
		return nil, err
	}
	return out.Bytes(), enc.Close()
}

func ref(path string) Object { return Object{{"$ref", path}} }
