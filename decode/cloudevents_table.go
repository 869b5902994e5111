package decode

import (
	"errors"
	"fmt"
	"mime"
	"net/url"
	"slices"
	"strings"
)

// cloudEventTemplates are CloudEventTemplates that were read.
type cloudEventTemplates struct {
	source, eventType, subject, contentType, dataSchema Template
}

// compileCloudEvent reads the templates of a table whose format makes CloudEvents.
func (c *table) compileCloudEvent(t Table, wrong func(key string, err error)) {
	read := func(key, source string, check func(string) error) Template {
		template, err := ParseTemplate(source)
		if err == nil && source != "" && len(template.Columns()) == 0 {
			err = check(template.Literals()[0])
		}
		wrong("cloudevents."+key, err)
		return template
	}
	anything := func(string) error { return nil }
	c.cloudEvent = cloudEventTemplates{
		source:    read("source", t.CloudEvents.Source, func(s string) error { return checkURI(s, false) }),
		eventType: read("type", t.CloudEvents.Type, anything),
		subject:   read("subject", t.CloudEvents.Subject, anything),
		contentType: read("content_type", t.CloudEvents.ContentType, func(s string) error {
			_, err := mediaTypes{}.read([]byte(s))
			return err
		}),
		dataSchema: read("data_schema", t.CloudEvents.DataSchema, func(s string) error { return checkURI(s, true) }),
	}
	if t.CloudEvents.Type == "" && t.Columns.Type == "" {
		wrong("columns.type", errors.New("a CloudEvent has to have a type: name its column, or set cloudevents.type"))
	}
	seen := map[string]bool{
		"ce_correlationid": t.Columns.CorrelationID != "", "ce_causationid": t.Columns.CausationID != "",
		"ce_replyto": t.Columns.ReplyTo != "", "ce_expirytime": t.Columns.ExpiresAt != "",
		"ce_traceparent": t.Columns.TraceParent != "", "ce_tracestate": t.Columns.TraceState != "",
	}
	for i, h := range t.Headers {
		key := fmt.Sprintf("headers[%d] %q", i, h.Name)
		switch {
		case isContentType(h.Name):
			wrong(key, errors.New("cloudevents.content_type says this"))
		case !isAttribute(h.Name):
		case ownAttribute(h.Name), h.Name == "ce_subject", h.Name == "ce_time", h.Name == "ce_partitionkey":
			wrong(key, errors.New("tidemark writes this attribute itself (see cloudevents.source, type, subject, content_type, data_schema)"))
		case seen[h.Name]:
			wrong(key, errors.New("this attribute is there already"))
		default:
			wrong(key, checkAttribute(h.Name))
			seen[h.Name] = true
		}
	}
}

// nameSource gives events whose source is not configured one that stays the same after a failover and with another slot:
// with the id it is what consumers know an event by. source is the text of tidemark-source, SYSTEM/DATABASE/SLOT.
func (t *cloudEventTemplates) nameSource(source, table string) {
	if len(t.source.parts) > 0 {
		return
	}
	name := "/" + url.PathEscape(table)
	if first, last := strings.IndexByte(source, '/'), strings.LastIndexByte(source, '/'); first < last {
		name = "/" + url.PathEscape(source[first+1:last]) + name
	}
	t.source.parts = []templatePart{{literal: name}}
}

// cloudEventMapping is what a CloudEvent is made of besides what every record is.
type cloudEventMapping struct {
	source, eventType, subject, contentType, dataSchema filler // a null one is as usual

	sourceVaries, dataSchemaVaries bool // with the row
	typeMeaning                    string
	usualContentType               []byte
	binaryKey, binaryData          bool // there is a bytea in it
	jsonData                       bool // the payload's type is json or jsonb
}

func (r *resolver) cloudEvent(t *table, m *mapping) cloudEventMapping {
	fill := func(template Template, key string) filler {
		if len(template.parts) == 0 {
			return filler{only: -1}
		}
		return r.template(template, "cloudevents."+key, inText)
	}
	c := cloudEventMapping{
		source: fill(t.cloudEvent.source, "source"), sourceVaries: len(t.cloudEvent.source.Columns()) > 0,
		eventType: fill(t.cloudEvent.eventType, "type"), typeMeaning: "cloudevents.type",
		subject:     fill(t.cloudEvent.subject, "subject"),
		contentType: fill(t.cloudEvent.contentType, "content_type"),
		dataSchema:  fill(t.cloudEvent.dataSchema, "data_schema"), dataSchemaVaries: len(t.cloudEvent.dataSchema.Columns()) > 0,
		binaryKey: m.key.hasBytes(), binaryData: m.payload.hasBytes(),
		usualContentType: []byte("application/json"),
	}
	if c.eventType.alwaysNull() {
		c.eventType = r.column(t.columns.Type, "columns.type", inText)
		c.typeMeaning = fmt.Sprintf("column %q", t.columns.Type)
	}
	if c.binaryData {
		c.usualContentType = []byte("application/octet-stream")
	}
	if i := m.payload.only; i >= 0 {
		c.jsonData = r.columns[i].Type == oidJSON || r.columns[i].Type == oidJSONB
	}
	return c
}

func (f *filler) hasBytes() bool {
	return slices.ContainsFunc(f.parts, func(p fillerPart) bool { return p.form == asBytes })
}

// isAttribute reports whether a header is an attribute in the binding's binary mode. Readers take headers in any case.
func isAttribute(header string) bool {
	return len(header) >= len(attributePrefix) && strings.EqualFold(header[:len(attributePrefix)], attributePrefix)
}

func isContentType(header string) bool { return strings.EqualFold(header, headerContentType) }

// ownAttribute reports whether only tidemark writes this attribute.
func ownAttribute(attribute string) bool {
	switch attribute {
	case "ce_id", "ce_specversion", "ce_source", "ce_type", "ce_datacontenttype", "ce_dataschema", "ce_sequence", "ce_recordedtime":
		return true
	default:
		return false
	}
}

// checkAttribute returns why a header's name is that of no extension attribute.
func checkAttribute(header string) error {
	name := header[len(attributePrefix):]
	switch {
	case name == "", header[:len(attributePrefix)] != attributePrefix, name == "data",
		strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }):
		return errors.New("a header that begins with ce_ is an extension attribute of a CloudEvent, and the rest of its name has to be of a-z and 0-9, and not data: take another name, or another prefix for a header")
	default:
		return nil
	}
}

// checkURI returns why s is no URI reference of RFC 3986, or no absolute URI.
func checkURI(s string, absolute bool) error {
	u, err := url.Parse(s)
	if err == nil && strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"<>\\^`{|}", r)
	}) {
		err = errors.New("it has characters that have to be written as % and two hex digits")
	}
	if err == nil && u.String() == "" { // such as //
		err = errors.New("it names nothing")
	}
	switch {
	case err != nil:
		return fmt.Errorf("%.100q is no URI: %w", s, err)
	case absolute && !u.IsAbs():
		return fmt.Errorf("%.100q is no absolute URI, such as https://example.com/schemas/order.json", s)
	default:
		return nil
	}
}

// mediaType is what of a content type matters here.
type mediaType struct {
	json bool
}

// mediaTypes are those that were seen.
type mediaTypes map[string]mediaType

// maxMediaTypes bounds them: rows that have one each are a mistake, and no reason to run out of memory.
const maxMediaTypes = 1000

// read reads a content type (RFC 2046).
func (m mediaTypes) read(text []byte) (mediaType, error) {
	if t, ok := m[string(text)]; ok {
		return t, nil
	}
	name, _, err := mime.ParseMediaType(string(text))
	_, sub, typed := strings.Cut(name, "/")
	if err == nil && (!typed || sub == "" || strings.HasPrefix(name, "/")) {
		err = errors.New("want TYPE/SUBTYPE, such as application/json")
	}
	if err == nil && strings.HasPrefix(name, "application/cloudevents") {
		err = errors.New("this says that the value is a CloudEvent as a whole, which format: cloudevents-structured makes it")
	}
	if err != nil {
		return mediaType{}, fmt.Errorf("%.100q is no content type of a payload: %w", text, err)
	}
	t := mediaType{json: sub == "json" || strings.HasSuffix(sub, "+json")}
	if len(m) >= maxMediaTypes {
		clear(m)
	}
	m[string(text)] = t
	return t, nil
}
