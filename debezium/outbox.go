package debezium

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

const eventRouter = "io.debezium.transforms.outbox.EventRouter"

// outbox writes an entry for each table that goes through an Event Router.
func (v *conversion) outbox() {
	defer v.converters()
	all := v.tables()
	v.doc.raw(0, "\noutbox:", "")
	var routed []string
	constants := v.constantHeaders()
	for _, alias := range v.aliases("transforms") {
		if v.given["transforms."+alias+".type"] != eventRouter {
			continue
		}
		tables := v.matching(alias, all)
		router := v.router(alias, constants)
		for _, table := range tables {
			if slices.Contains(routed, table) {
				v.lost("transforms."+alias, "table %s goes through two Event Routers; the first is carried over", table)
				continue
			}
			routed = append(routed, table)
			v.entry(table, router)
		}
	}
	if len(routed) == 0 {
		v.lost("transforms", "there is no %s for any table: public.outbox stands there, as the Event Router reads it by default", eventRouter)
		v.entry("public.outbox", router{})
		return
	}
	for _, table := range all {
		if !slices.Contains(routed, table) {
			v.lost("table.include.list", "table %s goes through no Event Router; tidemark publishes outbox tables, so keep Debezium for it", table)
		}
	}
}

const name = `[\p{L}_][\p{L}\p{N}_$]{0,62}` // of a table or a schema, as most people write them

var (
	literalName = regexp.MustCompile(`^` + name + `\.` + name + `$`)
	listed      = regexp.MustCompile(`\\([.$])`)
	anyValue    = regexp.MustCompile(`^(\(\?<\w+>\.[*+]\)|\(\.[*+]\))$`)
	reference   = regexp.MustCompile(`\$\{(\w+)\}|\$(\d)`)
	topicText   = regexp.MustCompile(`^[a-zA-Z0-9._-]*$`)
)

// tables returns what table.include.list names; never none.
func (v *conversion) tables() []string {
	const key = "table.include.list"
	var tables []string
	for part := range strings.SplitSeq(v.take(key), ",") {
		table := listed.ReplaceAllString(strings.TrimSpace(part), "$1")
		switch {
		case table == "":
		case !literalName.MatchString(table) || len(table) > 63:
			v.lost(key, "%q is a pattern or an unusual name: name the tables that it means under outbox", table)
		case !slices.Contains(tables, table):
			tables = append(tables, table)
		}
	}
	if len(tables) == 0 {
		v.lost(key, "it names no table; public.outbox stands there: put the name of your outbox table in its place")
		tables = []string{"public.outbox"}
	}
	return tables
}

func (v *conversion) aliases(key string) []string {
	var out []string
	for alias := range strings.SplitSeq(v.take(key), ",") {
		if alias = strings.TrimSpace(alias); alias != "" && !slices.Contains(out, alias) {
			out = append(out, alias)
		}
	}
	return out
}

// matching returns the tables that a transformation's predicate lets through.
func (v *conversion) matching(alias string, tables []string) []string {
	predicate := v.take("transforms." + alias + ".predicate")
	negate := v.take("transforms."+alias+".negate") == "true"
	if predicate == "" {
		return tables
	}
	at := "predicates." + predicate + "."
	v.used["predicates"] = true
	if typ := v.take(at + "type"); !strings.HasSuffix(typ, ".TopicNameMatches") {
		v.lost(at+"type", "%s is not looked into; all tables are taken for outbox tables: remove from outbox those that are none", cmp.Or(typ, "a predicate without a type"))
		return tables
	}
	pattern, err := regexp.Compile(`^(?:` + v.take(at+"pattern") + `)$`)
	if err != nil {
		v.lost(at+"pattern", "the pattern is not understood here; all tables are taken for outbox tables: remove from outbox those that are none")
		return tables
	}
	prefix := v.given["topic.prefix"] + "."
	return slices.DeleteFunc(slices.Clone(tables), func(t string) bool { return pattern.MatchString(prefix+t) == negate })
}

// router is what an Event Router does with a row.
type router struct {
	columns []setting // of columns, those that differ from the preset's
	topic   setting
	key     setting
	headers []setting // name and template, in their order
}

type setting struct{ name, value, from string }

// router reads the options of the Event Router.
func (v *conversion) router(alias string, constants []setting) router {
	var r router
	prefix := "transforms." + alias + "."
	v.used[prefix+"type"] = true
	column := func(meaning, option, preset string) string {
		given := v.take(prefix + option)
		if strings.ContainsAny(given, "{}\x00") || len(given) > 63 {
			v.lost(prefix+option, "no column can be called that in a template; give it another name")
			given = ""
		}
		if given != "" && given != preset {
			r.columns = append(r.columns, setting{meaning, given, prefix + option})
		}
		return cmp.Or(given, preset)
	}
	column("id", "table.field.event.id", "id")
	key := column("key", "table.field.event.key", "aggregateid")
	column("payload", "table.field.event.payload", "payload")
	topic := column("topic", "route.by.field", "aggregatetype")
	column("timestamp", "table.field.event.timestamp", "")
	if v.take(prefix+"table.field.event.type") != "" {
		v.unneeded(prefix+"table.field.event.type", "the Event Router writes no type unless it is placed as a header")
	}
	v.topic(&r, prefix, topic)
	v.placements(&r, prefix)
	r.headers = append(r.headers, constants...)
	if converter := v.given["key.converter"]; strings.HasSuffix(converter, ".JsonConverter") && v.given["key.converter.schemas.enable"] == "false" {
		r.key = setting{"key", `"{` + key + `}"`, "key.converter"}
	}
	v.routerLosses(prefix)
	return r
}

// topic turns route.topic.regex and .replacement into a template.
func (v *conversion) topic(r *router, prefix, column string) {
	const usual = "outbox.event.${routedByValue}"
	pattern, replacement := v.take(prefix+"route.topic.regex"), cmp.Or(v.take(prefix+"route.topic.replacement"), usual)
	if pattern != "" && !anyValue.MatchString(pattern) {
		v.lost(prefix+"route.topic.regex", "tidemark takes the column %s as it is, and has no patterns: have whoever writes the row, or a trigger before insert, write the name that the topic shall have", column)
		replacement = usual
	}
	template := reference.ReplaceAllLiteralString(replacement, "{"+column+"}")
	if !topicText.MatchString(strings.ReplaceAll(template, "{"+column+"}", "")) {
		v.lost(prefix+"route.topic.replacement", "%q is not understood; the topic is outbox.event.{%s}", replacement, column)
		template = "outbox.event.{" + column + "}"
	}
	if template != "outbox.event.{"+column+"}" {
		r.topic = setting{"topic", template, prefix + "route.topic.replacement"}
	}
}

// placements reads table.fields.additional.placement: COLUMN:header|envelope|partition[:ALIAS], with commas between.
func (v *conversion) placements(r *router, prefix string) {
	key := prefix + "table.fields.additional.placement"
	typed := false
	for i, field := range strings.Split(v.take(key), ",") {
		parts := strings.Split(strings.TrimSpace(field), ":")
		if len(parts) < 2 || parts[0] == "" || strings.ContainsAny(parts[0], "{}\x00") || len(parts[0]) > 63 {
			if strings.TrimSpace(field) != "" {
				v.lost(key, "%q is not understood", field)
			}
			continue
		}
		column, alias := strings.TrimSpace(parts[0]), ""
		if len(parts) > 2 {
			alias = strings.TrimSpace(parts[2])
		}
		alias = cmp.Or(alias, column)
		switch where := strings.TrimSpace(parts[1]); {
		case where == "partition":
			r.columns = slices.DeleteFunc(r.columns, func(s setting) bool { return s.name == "partition" })
			r.columns = append(r.columns, setting{"partition", column, key})
		case where == "header" && i == 0 && alias == "eventType":
			typed = true
			if column != "type" {
				r.columns = append(r.columns, setting{"type", column, key})
			}
		case where == "header" && slices.Contains([]string{"id", "tidemark-position", "tidemark-source", "tidemark-replay"}, alias):
			v.lost(key, "a header %s is tidemark's own; give the column %s another alias", alias, column)
		case where == "header":
			r.headers = append(r.headers, setting{alias, "{" + column + "}", key})
		default:
			v.lost(key, "%q: tidemark never changes a payload: make the column a header, or write it into the payload", field)
		}
	}
	if !typed { // as Debezium, which writes none
		r.columns = append(r.columns, setting{"type", "", "no header eventType, as " + key + " has none in the first place"})
	}
}

// routerLosses names what of an Event Router has no counterpart.
func (v *conversion) routerLosses(prefix string) {
	for _, o := range []struct{ option, not, why string }{
		{"table.expand.json.payload", "false", "the payload is published as it is, neither parsed nor written anew: the same JSON, perhaps with white space, and with nulls and empty arrays"},
		{"table.json.payload.null.behavior", "", "the payload is published as it is, nulls included"},
		{"route.tombstone.on.empty.payload", "false", "a null payload is a tombstone; an empty or blank text is not: write null"},
		{"table.field.event.schema.version", "", "records have no schema"},
		{"tracing.span.context.field", "", "tidemark opens no span of its own: put traceparent into a column and set columns.traceparent"},
		{"tracing.operation.name", "", "tidemark opens no span of its own"},
		{"tracing.with.context.field.only", "false", "tidemark opens no span of its own"},
	} {
		if value := v.take(prefix + o.option); value != "" && value != o.not {
			v.lost(prefix+o.option, "%s", o.why)
		}
	}
	if v.take(prefix+"table.op.invalid.behavior") != "" {
		v.unneeded(prefix+"table.op.invalid.behavior", "updates and deletes of outbox rows are not read at all")
	}
	if v.take(prefix+"table.field.additional.missing") != "" {
		v.unneeded(prefix+"table.field.additional.missing", "a configured column that is not there is an error at the start")
	}
}

// constantHeaders returns those of InsertHeader, and names the transformations that are neither that nor an Event Router.
func (v *conversion) constantHeaders() []setting {
	var out []setting
	for _, alias := range v.aliases("transforms") {
		prefix := "transforms." + alias + "."
		switch typ := v.given[prefix+"type"]; {
		case typ == eventRouter:
		case strings.HasSuffix(typ, ".InsertHeader") && v.given[prefix+"predicate"] == "":
			v.used[prefix+"type"] = true
			header, value := v.take(prefix+"header"), v.take(prefix+"value.literal")
			if header == "" || strings.HasPrefix(header, "tidemark-") || header == "id" {
				v.lost(prefix+"header", "a header needs a name that is not one of tidemark's own")
				continue
			}
			out = append(out, setting{header, strings.NewReplacer("{", "{{", "}", "}}").Replace(value), prefix + "value.literal"})
		default:
			v.lost(prefix+"type", "%s has no counterpart: what it does to a record is not done", cmp.Or(typ, "a transformation without a type"))
			for key := range v.given {
				if strings.HasPrefix(key, prefix) {
					v.used[key] = true
				}
			}
		}
	}
	return out
}

func (v *conversion) entry(table string, r router) {
	d := &v.doc
	d.raw(1, "- table: "+scalar(table), "table.include.list")
	if len(r.columns) > 0 {
		d.raw(2, "columns:", "")
		for _, c := range r.columns {
			d.raw(3, c.name+": "+scalar(c.value), c.from)
		}
	}
	for _, s := range []setting{r.topic, r.key} {
		if s.name != "" {
			d.raw(2, s.name+": "+scalar(s.value), s.from)
		}
	}
	if len(r.headers) > 0 {
		d.raw(2, "headers:", "")
		for _, h := range r.headers {
			d.raw(3, fmt.Sprintf("- {name: %s, value: %s}", quoted(h.name), quoted(h.value)), h.from)
		}
	}
}

// quoted is a text in double quotes, as it has to be among { and }.
func quoted(text string) string {
	if s := scalar(text); strings.HasPrefix(s, `"`) {
		return s
	}
	return `"` + text + `"`
}

// converters says what becomes of key, value and headers.
func (v *conversion) converters() {
	switch key := v.take("key.converter"); {
	case key == "":
		v.lost("key.converter", "it is the worker's: if that is not StringConverter, keys, and with them partitions, would be others; see docs/debezium.md")
	case strings.HasSuffix(key, ".StringConverter"):
	case strings.HasSuffix(key, ".JsonConverter") && v.take("key.converter.schemas.enable") == "false":
		v.lost("key.converter", "JsonConverter puts the key into quotes, and so does the template of outbox[].key; it is the same for keys of text without quotes, backslashes and control characters only")
	default:
		v.lost("key.converter", "%s makes other bytes of a key than its text, and another partition: tidemark writes the text; see docs/debezium.md", key)
	}
	switch value := v.take("value.converter"); {
	case value == "":
		v.lost("value.converter", "it is the worker's: if that is not StringConverter, values would be others; see docs/debezium.md")
	case strings.HasSuffix(value, ".StringConverter"), strings.HasSuffix(value, ".ByteArrayConverter"), strings.HasSuffix(value, ".BinaryDataConverter"):
	case strings.HasSuffix(value, ".JsonConverter"):
		v.lost("value.converter", "JsonConverter wraps or quotes a payload unless table.expand.json.payload is on and schemas.enable is off; tidemark writes the payload as it is: see docs/debezium.md for what consumers have to know")
	default:
		v.lost("value.converter", "%s is not there: tidemark writes the payload as it is, so encode it where the row is written", value)
	}
	if header := v.take("header.converter"); header != "" && !strings.HasSuffix(header, ".SimpleHeaderConverter") && !strings.HasSuffix(header, ".StringConverter") {
		v.lost("header.converter", "%s is not there: tidemark writes the text of a column", header)
	}
	for key := range v.given {
		if strings.HasPrefix(key, "key.converter.") || strings.HasPrefix(key, "value.converter.") || strings.HasPrefix(key, "header.converter.") {
			v.used[key] = true // part of what was said
		}
	}
}
