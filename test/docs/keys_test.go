package docs_test

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// key is one of the configuration.
type key struct {
	path    string // dotted; what belongs to the entry of a list has [] there
	typ     string // "" for a section, whose keys follow
	usual   string // its default
	comment string // of config.yaml
}

// keys are all of them, in the order in which tidemark config prints them, with what config.yaml says of each.
func keys(t *testing.T) []key {
	t.Helper()
	env := []string{"TIDEMARK_SOURCE_DSN=postgres://h/d", "TIDEMARK_OUTBOX_0_HEADERS_0_NAME=n", "TIDEMARK_MESSAGES_0_PREFIX=p", "TIDEMARK_MESSAGES_0_HEADERS_0_NAME=n"}
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(ask(t, env, "config")), &document); err != nil {
		t.Fatal(err)
	}
	all := keysOf(document.Content[0], "")
	comments := commentsOf(ask(t, nil, "config", "--defaults"), all)
	types := typesOf(t, all)
	for i := range all {
		k := &all[i]
		k.comment = comments[k.path]
		if same, ok := strings.CutPrefix(k.path, "messages[]."); ok && k.comment == "" {
			k.comment = "As `outbox[]." + same + "`."
		}
		if k.typ != "section" {
			k.typ = types[k.path]
		}
		if slices.Contains([]string{"source.dsn", "source.admin_dsn", "outbox[].headers[].name", "messages[].headers[].name", "messages[].prefix"}, k.path) {
			k.usual = "" // the test has given it
		}
	}
	return all
}

func keysOf(section *yaml.Node, prefix string) (all []key) {
	for i := 0; i+1 < len(section.Content); i += 2 {
		name, value := section.Content[i], section.Content[i+1]
		path := strings.TrimPrefix(prefix+"."+name.Value, ".")
		switch {
		case value.Kind == yaml.MappingNode && len(value.Content) > 0:
			all = append(append(all, key{path: path, typ: "section"}), keysOf(value, path)...)
		case value.Kind == yaml.SequenceNode && len(value.Content) > 0 && value.Content[0].Kind == yaml.MappingNode:
			all = append(append(all, key{path: path, typ: "section"}), keysOf(value.Content[0], path+"[]")...)
		case value.Kind == yaml.SequenceNode:
			all = append(all, key{path: path, usual: "[" + joined(value) + "]"})
		case value.Kind == yaml.MappingNode:
			all = append(all, key{path: path, usual: "{}"})
		default:
			all = append(all, key{path: path, usual: value.Value})
		}
	}
	return all
}

func joined(list *yaml.Node) string {
	var values []string
	for _, n := range list.Content {
		values = append(values, n.Value)
	}
	return strings.Join(values, ", ")
}

// typesOf asks tidemark: it refuses a value that cannot be one of any key, and says what would be.
func typesOf(t *testing.T, all []key) map[string]string {
	t.Helper()
	const wrong = "?!"
	var env []string
	for _, k := range all {
		if k.typ != "section" && k.usual != "{}" {
			env = append(env, variableOf(k)+"="+wrong)
		}
	}
	cmd := exec.CommandContext(t.Context(), binary(t), "config")
	cmd.Env, cmd.Dir = environment(env...), t.TempDir()
	said, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatal("a configuration of nonsense is none")
	}
	types := map[string]string{}
	for _, k := range all {
		pattern := `(?m)(?:^| )` + strings.ReplaceAll(regexp.QuoteMeta(k.path), `\[\]`, `\[0\]`) + `: (.*)$`
		m := regexp.MustCompile(pattern).FindSubmatch(said)
		types[k.path] = "text"
		switch {
		case strings.HasPrefix(k.usual, "["):
			types[k.path] = "list"
		case k.usual == "{}":
			types[k.path] = "names and values"
		case m != nil:
			types[k.path] = typeOf(string(m[1]))
		}
	}
	return types
}

// typeOf makes a type of the words in which a value was refused.
func typeOf(refusal string) string {
	if _, values, ok := strings.Cut(refusal, " is none of "); ok {
		return "`" + strings.ReplaceAll(strings.TrimSuffix(values, ";"), ", ", "`, `") + "`"
	}
	for words, typ := range map[string]string{
		"neither true nor false": "`true`, `false`", "not a duration": "duration", "not a size": "bytes", "not a whole number": "number",
	} {
		if strings.Contains(refusal, words) {
			return typ
		}
	}
	return "text"
}

var (
	keyLine     = regexp.MustCompile(`^( *)(- )?([a-z_]+):(?: (.*))?$`)
	lineComment = regexp.MustCompile(`(?:^| )# (.*)$`)
)

// place is a section or list that the lines of config.yaml are in.
type place struct {
	indent int
	path   string
}

// commentsOf are the comments of config.yaml by key: the one beside it, or else those above it, if it is the first key under
// them. Another key under them refers to the first, unless that is its section. Keys that are only shown there, behind a #,
// count, too.
func commentsOf(text string, all []key) map[string]string {
	known := map[string]bool{}
	for _, k := range all {
		known[k.path] = true
	}
	comments := map[string]string{}
	var above []string // since the last key or empty line
	first := ""        // of the keys since the last comment that is not beside a key
	var open []place
	for line := range strings.Lines(text) {
		content, shown := uncommented(strings.TrimRight(line, "\n"))
		if strings.TrimSpace(content) == "" || strings.HasPrefix(content, "---") {
			above, first = nil, ""
			continue
		}
		m := keyLine.FindStringSubmatch(content)
		path := ""
		if m != nil {
			open, path = within(open, m, known)
		}
		switch {
		case path == "" && shown:
			above, first = append(above, strings.TrimSpace(strings.TrimLeft(content, "# "))), ""
			continue
		case path == "":
			continue
		}
		about := strings.Join(above, " ")
		if beside := lineComment.FindStringSubmatch(m[4]); beside != nil {
			about = strings.TrimSpace(about + " " + beside[1])
		}
		switch {
		case about != "":
			comments[path] = about
		case comments[path] == "" && first != "" && !strings.HasPrefix(path, first):
			comments[path] = "See `" + first + "`."
		}
		if first == "" && len(above) > 0 {
			first = path
		}
		above = nil
	}
	return comments
}

// uncommented is a line without the # that it begins with, and whether there is one.
func uncommented(line string) (string, bool) {
	text := strings.TrimLeft(line, " ")
	rest, ok := strings.CutPrefix(text, "#")
	if !ok {
		return line, false
	}
	return line[:len(line)-len(text)] + strings.TrimPrefix(rest, " "), true
}

// within returns the key that the line of m is, "" if that is none, and the places that the next line may be in.
func within(open []place, m []string, known map[string]bool) ([]place, string) {
	indent := len(m[1]) + len(m[2])
	for len(open) > 0 && open[len(open)-1].indent >= indent {
		open = open[:len(open)-1]
	}
	path := m[3]
	if len(open) > 0 {
		in := open[len(open)-1].path
		if m[2] != "" || known[in+"[]."+path] {
			in += "[]"
		}
		path = in + "." + path
	}
	if !known[path] {
		return open, ""
	}
	return append(open, place{indent, path}), path
}

// keyTables is the part of docs/reference/configuration.md that is made from config.yaml and what tidemark config says.
func keyTables(p *program) string {
	var b strings.Builder
	section := ""
	var same []string // what is as in an entry of outbox
	for _, k := range p.keys {
		if strings.HasPrefix(k.comment, "As `outbox[].") && k.path != "messages[].preset" {
			same = append(same, "`"+k.path+"`")
			continue
		}
		first, _, _ := strings.Cut(strings.ReplaceAll(k.path, "[]", ""), ".")
		if first != section {
			if same != nil {
				fmt.Fprintf(&b, "\nAs in an entry of `outbox`: %s.\n", strings.Join(same, ", "))
				same = nil
			}
			section = first
			fmt.Fprintf(&b, "\n## %s\n\n", section)
			if k.comment != "" {
				fmt.Fprintf(&b, "%s\n\n", linked(k.comment))
			}
			b.WriteString("| key | type | default | |\n|---|---|---|---|\n")
			continue
		}
		typ := k.typ
		if typ == "section" {
			typ = ""
			if k.comment == "" {
				continue
			}
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.path, typ, code(k.usual), cell(linked(k.comment)))
	}
	return strings.TrimPrefix(b.String(), "\n")
}

// linked makes links of the documents that a text names.
func linked(text string) string {
	return regexp.MustCompile(`\bdocs/([a-z-]+\.md)`).ReplaceAllString(text, "[$1](../$1)")
}

// variableOf is the variable of a key, for the first entry of a list.
func variableOf(k key) string {
	return "TIDEMARK_" + strings.ToUpper(strings.NewReplacer("[]", "_0", ".", "_").Replace(k.path))
}
