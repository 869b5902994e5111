package config

import (
	"reflect"
	"regexp"
	"strings"
	"time"
)

// The keys are read off the fields of Config, so that a new field is at once known to the file, to the environment, to
// Redacted and to the suggestions.

// field is a key of a section.
type field struct {
	name  string // as in the file
	index int    // in the struct
	typ   reflect.Type
}

// fields returns the keys of a section in the order of its struct.
func fields(section reflect.Type) []field {
	var fs []field
	for f := range section.Fields() {
		if name := f.Tag.Get("yaml"); name != "-" {
			fs = append(fs, field{name: name, index: f.Index[0], typ: f.Type})
		}
	}
	return fs
}

// key is a place in the configuration: a section, a list or a value.
type key struct {
	path string // dotted; an entry of a list is "[]"
	leaf string // the last name of path
	typ  reflect.Type
}

// keysUnder returns every key under a section, depth first. The prefix is that section's own path.
func keysUnder(section reflect.Type, prefix string) []key {
	var ks []key
	for _, f := range fields(section) {
		path := join(prefix, f.name)
		ks = append(ks, key{path: path, leaf: f.name, typ: f.typ})
		switch {
		case f.typ.Kind() == reflect.Struct:
			ks = append(ks, keysUnder(f.typ, path)...)
		case isEntries(f.typ):
			ks = append(ks, keysUnder(f.typ.Elem(), path+"[]")...)
		}
	}
	return ks
}

func allKeys() []key { return keysUnder(reflect.TypeFor[Config](), "") }

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

// isEntries reports whether a value of this type is a list of sections.
func isEntries(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct
}

// isScalar reports whether a value of this type is written as one piece of text.
func isScalar(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Struct, reflect.Slice, reflect.Map:
		return false
	default:
		return true
	}
}

func isDuration(t reflect.Type) bool { return t == reflect.TypeFor[time.Duration]() }

// nearestKey returns the known key that is nearest to an unknown one: as a whole, or in its last name and only in another
// section. It is near if somebody may have meant it.
func nearestKey(unknown string) (known string, near bool) {
	index := regexp.MustCompile(`\[\d+\]`)
	generic := index.ReplaceAllString(unknown, "[]")
	_, leaf := cutLast(generic, ".")
	best, least := "", -1
	for _, k := range allKeys() {
		if d := min(distance(generic, k.path), 1+distance(leaf, k.leaf)); least < 0 || d < least {
			best, least = k.path, d
		}
	}
	for _, i := range index.FindAllString(unknown, -1) { // outbox[2].tabel is outbox[2].table, not outbox[].table
		best = strings.Replace(best, "[]", i, 1)
	}
	const typing = 2 // or a third of a long name
	return best, least <= max(typing, len(leaf)/3)
}

// nearestWord returns the word that is nearest to w, or "" if none is like it.
func nearestWord(w string, words []string) string {
	best, least := "", len(w)/2+1
	for _, word := range words {
		if d := distance(strings.ToLower(w), strings.ToLower(word)); d < least {
			best, least = word, d
		}
	}
	return best
}

// distance returns how many insertions, deletions, changes and swaps of neighbours lead from a to b. Bytes are good
// enough, since every known key is ASCII.
func distance(a, b string) int {
	const longest = 200 // of any key; no more work for text that cannot be near
	if len(a) > longest || len(b) > longest {
		return len(a) + len(b)
	}
	older, old, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range old {
		old[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(old[j]+1, row[j-1]+1, old[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], older[j-2]+1)
			}
		}
		older, old, row = old, row, older
	}
	return old[len(b)]
}

// cutLast is strings.Cut at the last sep; without one, everything is after it.
func cutLast(s, sep string) (before, after string) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):]
	}
	return "", s
}
