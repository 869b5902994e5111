package config

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
)

// Redacted returns the configuration as YAML in the order of config.yaml, its secrets replaced by "[redacted]". Apart
// from these, Load reads the same configuration from it again.
func (c *Config) Redacted() []byte {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	// Neither can fail: the nodes are well formed, and a buffer takes everything.
	_ = enc.Encode(toNode(reflect.ValueOf(c.withoutFiles())))
	_ = enc.Close()
	return out.Bytes()
}

// toNode is the inverse of file.value.
func toNode(v reflect.Value) *yaml.Node {
	t := v.Type()
	switch {
	case t.Kind() == reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for _, f := range fields(t) {
			n.Content = append(n.Content, textNode(f.name), toNode(v.Field(f.index)))
		}
		return n
	case t.Kind() == reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if isScalar(t.Elem()) {
			n.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			n.Content = append(n.Content, toNode(v.Index(i)))
		}
		return n
	case t.Kind() == reflect.Map:
		n := &yaml.Node{Kind: yaml.MappingNode}
		names := v.MapKeys()
		slices.SortFunc(names, func(a, b reflect.Value) int { return bytes.Compare([]byte(a.String()), []byte(b.String())) })
		for _, name := range names {
			value := toNode(v.MapIndex(name))
			if isSecretName(name.String()) {
				value = textNode(redacted)
			}
			n.Content = append(n.Content, textNode(name.String()), value)
		}
		return n
	case isDuration(t):
		return plainNode(time.Duration(v.Int()).String())
	case t.Kind() == reflect.Int64:
		return plainNode(formatSize(v.Int()))
	case t.Kind() == reflect.String:
		return textNode(fmt.Sprint(v.Interface())) // through String, where it redacts
	default:
		return plainNode(fmt.Sprint(v.Interface()))
	}
}

// textNode quotes what YAML would not read as text.
func textNode(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

func plainNode(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: s} }
