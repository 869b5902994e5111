package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// file is a YAML document on its way to values. It is read node by node instead of by viper, because only the nodes
// know the lines, the keys as they were written, and the text of a value before YAML made a number of it.
type file struct {
	name  string // for messages
	found *problems
}

// readFile returns the values of a YAML document as the fields of Config want them, keyed as in the file. What does not
// fit is left out and noted in found. It returns nil if the text is no YAML at all.
func readFile(name string, text []byte, found *problems) map[string]any {
	f := file{name: name, found: found}
	var doc, more yaml.Node
	in := yaml.NewDecoder(bytes.NewReader(text))
	switch err := in.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return map[string]any{}
	case err != nil:
		f.syntax(err)
		return nil
	}
	if err := in.Decode(&more); !errors.Is(err, io.EOF) {
		f.found.addAt(name, "holds more than one YAML document; remove the --- and what is not meant")
		return nil
	}
	root := doc.Content[0]
	if isNull(root) {
		return map[string]any{}
	}
	if root.Kind != yaml.MappingNode {
		f.found.addAt(f.at(root), "not a configuration, which has keys such as source: and kafka: at its top")
		return nil
	}
	return f.section(root, reflect.TypeFor[Config](), "")
}

// syntax notes that the text is no YAML.
func (f *file) syntax(err error) {
	where, what := f.name, strings.TrimPrefix(err.Error(), "yaml: ")
	if m := regexp.MustCompile(`^line (\d+): (.*)`).FindStringSubmatch(what); m != nil {
		where, what = f.name+":"+m[1], m[2]
	}
	if strings.Contains(what, "cannot start any token") {
		what = "a tab where only blanks may be, or a value that has to be in quotes because of how it begins (@, `, %)"
	}
	if strings.Contains(what, "anchor") { // it quotes what may be a password that begins with *
		what = "a value that begins with * must be in quotes"
	}
	f.found.addAt(where, "not YAML: "+what)
}

func (f *file) at(n *yaml.Node) string { return fmt.Sprintf("%s:%d", f.name, n.Line) }

// suggest says which key of section t, or of another one, may have been meant by an unknown one.
func (f *file) suggest(t reflect.Type, path string) string {
	meant, near := nearestKey(path)
	if near {
		return "the nearest known key is " + meant
	}
	var names []string
	for _, k := range fields(t) {
		names = append(names, k.name)
	}
	section, _ := cutLast(path, ".")
	if section == "" {
		section = "the configuration"
	}
	return section + " has " + strings.Join(names, ", ")
}

// section reads a mapping whose keys are the fields of t.
func (f *file) section(n *yaml.Node, t reflect.Type, path string) map[string]any {
	known := map[string]reflect.Type{}
	for _, k := range fields(t) {
		known[k.name] = k.typ
	}
	values := map[string]any{}
	f.pairs(n, path, func(name *yaml.Node, value *yaml.Node, path string) {
		typ, ok := known[name.Value]
		if !ok {
			f.found.addAt(f.at(name), path+": unknown key; "+f.suggest(t, path))
			return
		}
		f.found.origin[path] = f.at(name)
		if v, ok := f.value(value, typ, path); ok {
			values[name.Value] = v
		}
	})
	return values
}

// pairs calls do for each pair of a mapping with the pair's own path.
func (f *file) pairs(n *yaml.Node, path string, do func(name, value *yaml.Node, path string)) {
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if name.Kind != yaml.ScalarNode {
			f.found.addAt(f.at(name), strings.TrimPrefix(path+": a key must be text", ": "))
			continue
		}
		path := join(path, name.Value)
		if line, twice := first[name.Value]; twice {
			f.found.addAt(f.at(name), fmt.Sprintf("%s: given twice, first in line %d", path, line))
			continue
		}
		first[name.Value] = name.Line
		do(name, value, path)
	}
}

// value reads a node as a value of type t. It returns false for a null, which is the same as leaving the key out, and
// for what does not fit.
func (f *file) value(n *yaml.Node, t reflect.Type, path string) (any, bool) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && !f.plain(n, path) || isNull(n) {
		return nil, false
	}
	switch {
	case isScalar(t):
		return f.scalar(n, t, path)
	case t.Kind() == reflect.Struct && n.Kind == yaml.MappingNode:
		return f.section(n, t, path), true
	case t.Kind() == reflect.Map && n.Kind == yaml.MappingNode:
		return f.free(n, path), true
	case t.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		return f.list(n, t.Elem(), path), true
	}
	f.found.add(path, "must be %s, not %s", wanted(t), given(n))
	return nil, false
}

// plain refuses the scalars that YAML quietly takes for something else than the text that is meant, as it does with
// unquoted passwords. It does not repeat them.
func (f *file) plain(n *yaml.Node, path string) bool {
	switch tag := n.ShortTag(); {
	case isNull(n) && n.Anchor != "":
		f.found.add(path, "a value that begins with & must be in quotes")
		return false
	case tag == "!!str", tag == "!!int", tag == "!!float", tag == "!!bool", tag == "!!null", tag == "!!timestamp", tag == "!!merge":
		return true
	default:
		f.found.add(path, "a value that begins with ! must be in quotes")
		return false
	}
}

func (f *file) scalar(n *yaml.Node, t reflect.Type, path string) (any, bool) {
	if n.Kind != yaml.ScalarNode {
		f.found.add(path, "must be %s, not %s", wanted(t), given(n))
		return nil, false
	}
	v, err := parseScalar(t, n.Value)
	if err != nil {
		f.found.add(path, "%v", err)
		return nil, false
	}
	return v, true
}

// free reads a mapping whose keys are not ours. The result is a map[string]string on purpose: viper takes that for one
// value, while it would lower-case the keys of a map[string]any and split them at its delimiter.
func (f *file) free(n *yaml.Node, path string) map[string]string {
	values := map[string]string{}
	f.pairs(n, path, func(name, value *yaml.Node, path string) {
		f.found.origin[path] = f.at(name)
		if v, ok := f.value(value, reflect.TypeFor[string](), path); ok {
			values[name.Value], _ = v.(string)
		}
	})
	return values
}

func (f *file) list(n *yaml.Node, elem reflect.Type, path string) []any {
	values := []any{}
	for i, entry := range n.Content {
		path := fmt.Sprintf("%s[%d]", path, i)
		f.found.origin[path] = f.at(entry)
		if isNull(entry) {
			f.found.add(path, "is empty; remove the dash or write the entry after it")
			continue
		}
		if v, ok := f.value(entry, elem, path); ok {
			values = append(values, v)
		}
	}
	return values
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// wanted names the values of a type in a message.
func wanted(t reflect.Type) string {
	switch {
	case isEntries(t):
		return "a list of entries, each with a dash"
	case t.Kind() == reflect.Slice:
		return "a list such as [a, b]"
	case t.Kind() == reflect.Map:
		return "names with values"
	case t.Kind() == reflect.Struct:
		return "a section with keys such as " + fields(t)[0].name
	case isDuration(t):
		return "a duration such as 200ms"
	case t.Kind() == reflect.Int64:
		return "a size such as 32MiB"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.String:
		return "text"
	default:
		return "a number"
	}
}

// given names what is in the file instead, and does not repeat it.
func given(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section with keys of its own"
	case yaml.SequenceNode:
		return "a list"
	default:
		return "a single value"
	}
}
