package config

import (
	"fmt"
	"maps"
	"strings"
)

// completeTables fills in what the entries of outbox leave out: first from the built-in entry, so that an entry which
// only names its table reads it as the built-in table is read, then from the entry's preset. It works on the values
// before they become Tables, where a column that is left out can still be told from one that is set to "".
func completeTables(entries []any, builtIn map[string]any) {
	for _, e := range entries {
		entry, ok := e.(map[string]any)
		if !ok {
			continue
		}
		if entry["preset"] == "eventuate" {
			setDefault(entry, "on_null", "poison") // Tram's consumers know no tombstones
		}
		for name, value := range builtIn {
			if name != "table" && name != "columns" {
				setDefault(entry, name, value)
			}
		}
		columns, ok := entry["columns"].(map[string]any)
		if !ok {
			columns = map[string]any{}
			entry["columns"] = columns
		}
		topicPrefix := ""
		if entry["preset"] == "debezium" {
			topicPrefix = "outbox.event."
			setDefault(columns, "id", "id")
			setDefault(columns, "key", "aggregateid")
			setDefault(columns, "type", "type")
			setDefault(columns, "topic", "aggregatetype")
			setDefault(columns, "payload", "payload")
		}
		if entry["preset"] == "eventuate" { // its key is among the headers
			setDefault(columns, "id", "id")
			setDefault(columns, "topic", "destination")
			setDefault(columns, "payload", "payload")
			setDefault(columns, "headers", "headers")
			setDefault(columns, "timestamp", "creation_time")
		}
		if c, _ := columns["topic"].(string); c != "" {
			setDefault(entry, "topic", topicPrefix+"{"+c+"}")
		}
		if c, _ := columns["key"].(string); c != "" {
			setDefault(entry, "key", "{"+c+"}")
		}
	}
}

// completeMessages does the same for the entries of messages, whose layout is that of the built-in table.
func completeMessages(entries []any, builtIn map[string]any) {
	for _, e := range entries {
		if entry, ok := e.(map[string]any); ok {
			setDefault(entry, "non_transactional", "poison")
		}
	}
	layout := maps.Clone(builtIn)
	delete(layout, "outbox_id")
	completeTables(entries, layout)
}

func setDefault(m map[string]any, name string, value any) {
	if _, ok := m[name]; !ok {
		m[name] = value
	}
}

// builtInTable returns a copy of the first entry of the built-in outbox.
func builtInTable(outbox any) map[string]any {
	if entries, ok := outbox.([]any); ok && len(entries) > 0 {
		if entry, ok := entries[0].(map[string]any); ok {
			return maps.Clone(entry)
		}
	}
	return nil
}

// literals returns the text of a template around its {column} placeholders, or what is wrong with the template. A
// doubled brace stands for the brace itself.
func literals(template string) (string, error) {
	var text strings.Builder
	for rest := template; rest != ""; {
		i := strings.IndexAny(rest, "{}")
		if i < 0 {
			text.WriteString(rest)
			break
		}
		text.WriteString(rest[:i])
		brace, after := rest[i:i+1], rest[i+1:]
		if behind, doubled := strings.CutPrefix(after, brace); doubled {
			text.WriteString(brace)
			rest = behind
			continue
		}
		end := strings.IndexAny(after, "{}")
		switch {
		case brace == "}":
			return "", fmt.Errorf("template %q has a } without its { (a literal one is written }})", template)
		case end < 0 || after[end] == '{':
			return "", fmt.Errorf("template %q has a { without its } (a literal one is written {{)", template)
		case end == 0:
			return "", fmt.Errorf("template %q has a {} that names no column", template)
		}
		rest = after[end+1:]
	}
	return text.String(), nil
}
