// Package asyncapi describes what tidemark publishes as an AsyncAPI 3.0 document: a channel for each topic that is live and
// for each template that leads to topics, with Kafka's bindings, and what records are like. It is a leaf: whoever calls it has
// looked at configuration and servers. The one rule: no value of an event is in the document.
package asyncapi

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// API is what is described.
type API struct {
	Title, Version, Description string
	Servers                     []Server
	Sources                     []Source
}

// Server is a Kafka broker.
type Server struct {
	Host   string // host:port
	Secure bool   // with TLS
	Login  string // of kafka.sasl.mechanism; "" is none
}

// Source is a table, or a prefix of logical messages, and where it leads.
type Source struct {
	Name        string
	Literals    []string // of the topic's template: one more than Parameters
	Parameters  []string // the columns in it
	Headers     []string // names
	OwnHeaders  bool     // further ones come with each event
	Key         bool
	KeyText     string // what the key is made of, for people
	ContentType string // "" if the samples have to tell
	Topics      []Topic
	Payload     *Schema // of all samples
	Sampled     string  // what was sampled, or why nothing was, for people
}

// Topic is one that is live.
type Topic struct {
	Name       string
	Partitions int
	Replicas   int
	Configs    map[string]string
	Payload    *Schema // of the samples that lead there; nil if none did
}

const bindingVersion = "0.5.0"

// Document returns the AsyncAPI document.
func (a *API) Document() Object {
	w := &writer{taken: map[string]bool{}}
	for i := range a.Sources {
		w.source(&a.Sources[i])
	}
	info := Object{{"title", a.Title}, {"version", a.Version}}.with("description", a.Description)
	document := Object{{"asyncapi", "3.0.0"}, {"info", info}}
	servers, schemes := a.servers()
	components := Object{}.with("messages", w.messages).with("securitySchemes", schemes)
	var channels, operations Object
	for _, c := range w.channels {
		channels = append(channels, Member{c.id, c.document()})
		operations = append(operations, Member{"publish-" + c.id, c.operation()})
	}
	return document.with("servers", servers).with("defaultContentType", "application/json").
		with("channels", channels).with("operations", operations).with("components", components)
}

func (a *API) servers() (servers, schemes Object) {
	for i, s := range a.Servers {
		protocol := "kafka"
		if s.Secure {
			protocol = "kafka-secure"
		}
		server := Object{{"host", s.Host}, {"protocol", protocol}}
		kind := map[string]string{"PLAIN": "plain", "SCRAM-SHA-256": "scramSha256", "SCRAM-SHA-512": "scramSha512"}[s.Login]
		switch {
		case kind != "":
			schemes = Object{{"login", Object{{"type", kind}}}}
			server = server.with("security", []any{ref("#/components/securitySchemes/login")})
		case s.Login != "":
			server = server.with("description", "Login with SASL "+s.Login+".")
		}
		servers = append(servers, Member{"broker-" + strconv.Itoa(i), server})
	}
	return servers, schemes
}

// writer collects what the sources come to.
type writer struct {
	channels []*channel
	messages Object
	taken    map[string]bool
}

// id makes a name that a key of the document may have, and that is not taken.
func (w *writer) id(text string) string {
	id := strings.Trim(regexp.MustCompile(`[^A-Za-z0-9_.-]+`).ReplaceAllString(text, "_"), "_")
	if id == "" {
		id = "channel"
	}
	for n, base := 2, id; w.taken[id]; n++ {
		id = base + "-" + strconv.Itoa(n)
	}
	w.taken[id] = true
	return id
}

func (w *writer) source(s *Source) {
	address, parameters := s.address()
	if len(s.Parameters) > 0 {
		w.channel(s, address, "Where "+s.Name+" leads: one topic for each value of what is in braces.", parameters, nil, s.Payload)
	}
	for i := range s.Topics {
		t := &s.Topics[i]
		w.channel(s, t.Name, "A topic of "+s.Name+".", nil, t.bindings(), t.Payload)
	}
	if len(s.Parameters) == 0 && len(s.Topics) == 0 {
		w.channel(s, address, "The topic of "+s.Name+". It was not looked at, or is not there yet.", nil, nil, s.Payload)
	}
}

// address is the template with parameters whose names AsyncAPI allows.
func (s *Source) address() (address string, parameters Object) {
	var out strings.Builder
	out.WriteString(s.Literals[0])
	named := map[string]string{}
	for i, column := range s.Parameters {
		name, known := named[column]
		if !known {
			name = regexp.MustCompile(`[^A-Za-z0-9_-]`).ReplaceAllString(column, "_")
			named[column] = name
			parameters = append(parameters, Member{name, Object{{"description", "The text of " + column + " in " + s.Name + "."}}.with("enum", s.values(i))})
		}
		out.WriteString("{" + name + "}" + s.Literals[i+1])
	}
	return out.String(), parameters
}

// values are those of the template's only parameter in the names of the topics that are live.
func (s *Source) values(i int) []any {
	var out []any
	if len(s.Parameters) != 1 || i != 0 {
		return nil
	}
	for _, t := range s.Topics {
		rest, ok := strings.CutPrefix(t.Name, s.Literals[0])
		if value, ok2 := strings.CutSuffix(rest, s.Literals[1]); ok && ok2 {
			out = append(out, value)
		}
	}
	return out
}

// channel enters that s leads to an address. Where another source leads there, too, the channel has one more message.
func (w *writer) channel(s *Source, address, description string, parameters, bindings Object, payload *Schema) {
	at := slices.IndexFunc(w.channels, func(c *channel) bool { return c.address == address })
	if at < 0 {
		at = len(w.channels)
		w.channels = append(w.channels, &channel{id: w.id(address), address: address, description: description, parameters: parameters, bindings: bindings})
	}
	c := w.channels[at]
	message := c.id
	if len(c.messages) > 0 {
		message = w.id(address)
		c.description += " " + description
	}
	c.messages, c.sources = append(c.messages, message), append(c.sources, s.Name)
	w.messages = append(w.messages, Member{message, s.message(address, payload)})
}

// channel is a topic, or a template that leads to topics.
type channel struct {
	id, address, description string
	parameters, bindings     Object
	messages                 []string // their ids
	sources                  []string
}

func (c *channel) document() Object {
	var messages Object
	for _, id := range c.messages {
		messages = append(messages, Member{id, ref("#/components/messages/" + id)})
	}
	o := Object{{"address", c.address}, {"description", c.description}, {"messages", messages}}.with("parameters", c.parameters)
	if len(c.bindings) > 0 {
		o = o.with("bindings", Object{{"kafka", c.bindings}})
	}
	return o
}

func (c *channel) operation() Object {
	var messages []any
	for _, id := range c.messages {
		messages = append(messages, ref("#/channels/"+c.id+"/messages/"+id))
	}
	return Object{
		{"action", "send"},
		{"channel", ref("#/channels/" + c.id)},
		{"summary", "tidemark publishes the events of " + strings.Join(c.sources, " and ") + ", in commit order for each key."},
		{"messages", messages},
	}
}

// message describes the records. A payload of which nothing is known is any.
func (s *Source) message(topic string, payload *Schema) Object {
	contentType := s.ContentType
	switch {
	case contentType != "":
	case payload.IsJSON():
		contentType = "application/json"
	case !payload.Empty():
		contentType = "text/plain"
	}
	description := "Null is a tombstone: the key is to be forgotten. " + s.Sampled
	document := Object{{"description", strings.TrimSpace(description)}}
	document = append(document, payload.Document()...)
	return Object{
		{"name", topic},
		{"title", "An event of " + s.Name},
	}.with("contentType", contentType).
		with("headers", s.headers()).
		with("payload", document).
		with("bindings", Object{{"kafka", Object{{"key", s.key()}, {"bindingVersion", bindingVersion}}}})
}

func (s *Source) key() Object {
	if !s.Key {
		return Object{{"type", "null"}, {"description", "There is no key: records go to any partition."}}
	}
	return Object{{"type", []any{"string", "null"}}, {"description", "Its records are in commit order. Made of " + s.KeyText + "."}}
}

// knownHeaders says what the headers that tidemark itself writes are.
func knownHeaders() map[string]Object {
	text := func(description string) Object { return Object{{"type", "string"}, {"description", description}} }
	return map[string]Object{
		"id":        text("Identifies the event. The same on every replay: a consumer that has seen it drops it."),
		"eventType": {{"type", []any{"string", "null"}}, {"description", "The type of the event."}},
		"tidemark-position": {
			{"type", "string"},
			{"pattern", "^[0-9a-f]{16}-[0-9a-f]{8}$"},
			{"description", "Where the event was committed. Larger is later, also as text; the same on every replay."},
		},
		"tidemark-source":        text("The log that the position is in: system identifier, database and slot of Postgres."),
		"tidemark-transactional": text("false on a logical message that belongs to no transaction, and on no other record."),
		"traceparent":            text("W3C trace context, as the writer gave it."),
		"tracestate":             text("W3C trace context, as the writer gave it."),
		"ce_id":                  text("Identifies the event. The same on every replay: a consumer that has seen it drops it."),
		"content-type":           text("What the payload is."),
	}
}

func (s *Source) headers() Object {
	known := knownHeaders()
	var properties Object
	var required []any
	for _, name := range s.Headers {
		description, ok := known[name]
		if !ok {
			description = Object{{"type", []any{"string", "null"}}}
		}
		properties = append(properties, Member{name, description})
		if slices.Contains([]string{"id", "ce_id", "tidemark-position", "tidemark-source"}, name) {
			required = append(required, name)
		}
	}
	o := Object{{"type", "object"}}
	if s.OwnHeaders {
		o = o.with("description", "Further headers come with each event.")
	}
	return o.with("properties", properties).with("required", required)
}

// bindings are Kafka's of a channel. Settings that the binding has no place for are left out.
func (t *Topic) bindings() Object {
	var settings Object
	if policy := t.Configs["cleanup.policy"]; policy != "" {
		var list []any
		for word := range strings.SplitSeq(policy, ",") {
			list = append(list, strings.TrimSpace(word))
		}
		settings = settings.with("cleanup.policy", list)
	}
	for _, name := range []string{"retention.ms", "retention.bytes", "delete.retention.ms", "max.message.bytes"} {
		if n, err := strconv.ParseInt(t.Configs[name], 10, 64); err == nil {
			settings = append(settings, Member{name, n})
		}
	}
	o := Object{{"topic", t.Name}}
	if t.Partitions > 0 {
		o = append(o, Member{"partitions", t.Partitions})
	}
	if t.Replicas > 0 {
		o = append(o, Member{"replicas", t.Replicas})
	}
	return o.with("topicConfiguration", settings).with("bindingVersion", bindingVersion)
}

// Matches returns what a topic's name has to match to be one of the template's; nil if the template says nothing about it.
func Matches(literals []string) (*regexp.Regexp, error) {
	if len(literals) > 1 && strings.Join(literals, "") == "" {
		return nil, nil //nolint:nilnil // there is nothing to match, and that is no error
	}
	quoted := make([]string, len(literals))
	for i, l := range literals {
		quoted[i] = regexp.QuoteMeta(l)
	}
	matches, err := regexp.Compile("^" + strings.Join(quoted, "(.+)") + "$")
	if err != nil {
		return nil, fmt.Errorf("read a topic's template: %w", err)
	}
	return matches, nil
}
