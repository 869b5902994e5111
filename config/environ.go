package config

import (
	"cmp"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const prefix = "TIDEMARK_"

// setting is a value from the environment on its way to its place.
type setting struct {
	path  []step
	value any
}

// step is a name, or else the index of a list's entry.
type step struct {
	name  string
	index int
}

// readEnviron returns the settings of the environment, sorted so that the entries of a list come in their order. What
// is wrong is noted in found; what only looks wrong is returned as warnings.
func readEnviron(environ []string, found *problems) (settings []setting, warnings []string) {
	known := make([]string, 0, 64)
	for _, k := range variables() {
		known = append(known, variableOf(k))
	}
	environ = slices.Sorted(slices.Values(environ)) // messages in the same order each time
	for _, variable := range environ {
		name, text, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, prefix) {
			if meant := nearMiss(name, known); meant != "" {
				warnings = append(warnings, fmt.Sprintf("the variable %s is ignored; is %s meant?", name, meant))
			}
			continue
		}
		if s, ok := readVariable(name, text, found); ok {
			settings = append(settings, s)
		}
	}
	slices.SortStableFunc(settings, func(a, b setting) int {
		return slices.CompareFunc(a.path, b.path, func(a, b step) int {
			return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.index, b.index))
		})
	})
	return settings, warnings
}

// readVariable reads one variable whose name begins with the prefix.
func readVariable(name, text string, found *problems) (setting, bool) {
	path, typ, ok := resolve(reflect.TypeFor[Config](), strings.TrimPrefix(name, prefix))
	ok = ok && len(path) > 0
	switch {
	case !ok && isForeign(name, text):
		return setting{}, false
	case !ok:
		found.addAt(name, "unknown variable; the nearest known one is "+nearestVariable(name))
		return setting{}, false
	}
	at := dotted(path)
	found.origin[at] = name
	switch {
	case !utf8.ValidString(text):
		found.add(at, "is not UTF-8 text")
	case isScalar(typ):
		v, err := parseScalar(typ, text)
		if err == nil {
			return setting{path, v}, true
		}
		found.add(at, "%v", err)
	case typ.Kind() == reflect.Slice && isScalar(typ.Elem()):
		return setting{path, splitList(text)}, true
	default:
		found.add(at, "is no single value; set it in the file")
	}
	return setting{}, false
}

// resolve finds the key whose name in the environment is given, without the prefix.
func resolve(t reflect.Type, name string) (path []step, typ reflect.Type, ok bool) {
	switch {
	case name == "":
		return nil, t, true
	case t.Kind() == reflect.Struct:
		for _, f := range fields(t) {
			rest, found := cutName(name, strings.ToUpper(f.name))
			if !found {
				continue
			}
			if path, typ, ok := resolve(f.typ, rest); ok {
				return append([]step{{name: f.name}}, path...), typ, true
			}
		}
	case isEntries(t):
		digits, _, _ := strings.Cut(name, "_")
		index, err := strconv.Atoi(digits)
		rest, _ := cutName(name, digits)
		if err != nil || index < 0 || strconv.Itoa(index) != digits || rest == "" {
			return nil, nil, false
		}
		if path, typ, ok := resolve(t.Elem(), rest); ok {
			return append([]step{{index: index}}, path...), typ, true
		}
	}
	return nil, nil, false
}

// cutName takes the first part off a variable's name, and the underscore behind it.
func cutName(name, first string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(name, first)
	if !ok || rest == "" {
		return "", ok
	}
	return strings.CutPrefix(rest, "_")
}

// dotted writes a path as the file's keys are written in messages.
func dotted(path []step) string {
	s := ""
	for _, p := range path {
		if p.name != "" {
			s = join(s, p.name)
		} else {
			s += "[" + strconv.Itoa(p.index) + "]"
		}
	}
	return s
}

func splitList(text string) []any {
	entries := []any{}
	for entry := range strings.SplitSeq(text, ",") {
		if entry = strings.TrimSpace(entry); entry != "" {
			entries = append(entries, entry)
		}
	}
	return entries
}

// isForeign reports whether a variable has our prefix and another purpose: that of the tests, the demo and the cache of
// downloaded servers, or what Kubernetes puts into every pod beside a service whose name begins with tidemark. Of the
// latter, one that ends in PORT is told by its value (tcp://10.0.0.1:8642) from a mistaken TIDEMARK_HTTP_PORT=8642.
func isForeign(name, text string) bool {
	service := regexp.MustCompile(`^TIDEMARK_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)
	return name == "TIDEMARK_CACHE" ||
		strings.HasPrefix(name, "TIDEMARK_TEST_") ||
		strings.HasPrefix(name, "TIDEMARK_DEMO_") ||
		strings.HasSuffix(name, "_PORT") && strings.Contains(text, "://") ||
		service.MatchString(name)
}

// variableOf returns the variable of a key; the entries of a list are entry 0.
func variableOf(k key) string {
	return prefix + strings.ToUpper(strings.NewReplacer("[]", "_0", ".", "_").Replace(k.path))
}

// variables returns the keys that a variable can set.
func variables() []key {
	return slices.DeleteFunc(allKeys(), func(k key) bool {
		return !isScalar(k.typ) && (k.typ.Kind() != reflect.Slice || isEntries(k.typ))
	})
}

// nearestVariable returns the variable that somebody may have meant by one with the right prefix.
func nearestVariable(unknown string) string {
	unknown = entryZero(unknown)
	best, least := "", -1
	for _, k := range variables() {
		v := variableOf(k)
		d := min(distance(unknown, v), 1+distance(strings.TrimPrefix(unknown, prefix), strings.ToUpper(k.leaf)))
		if least < 0 || d < least {
			best, least = v, d
		}
	}
	return best
}

// nearMiss returns the variable that is meant by one with a wrong prefix, or "" if none is surely meant.
func nearMiss(name string, known []string) string {
	const surely = 2
	name = entryZero(strings.ToUpper(name))
	for _, v := range known {
		if longer := len(name) - len(v); -surely <= longer && longer <= surely && distance(name, v) <= surely {
			return v
		}
	}
	return ""
}

func entryZero(name string) string { return regexp.MustCompile(`_\d+_`).ReplaceAllString(name, "_0_") }
