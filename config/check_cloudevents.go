package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// checkCloudEvents notes what no CloudEvent can be made with.
func (t *Table) checkCloudEvents(key string, found *problems) {
	for _, template := range []struct{ name, text string }{
		{"source", t.CloudEvents.Source},
		{"type", t.CloudEvents.Type},
		{"subject", t.CloudEvents.Subject},
		{"content_type", t.CloudEvents.ContentType},
		{"data_schema", t.CloudEvents.DataSchema},
	} {
		if _, err := literals(template.text); err != nil {
			found.add(key+".cloudevents."+template.name, "%v", err)
		}
	}
	if t.Format != "cloudevents" && t.Format != "cloudevents-structured" {
		if t.CloudEvents != (CloudEvents{}) && t.Format == "plain" {
			found.add(key+".cloudevents", "is for format: cloudevents and cloudevents-structured, and format is %s", t.Format)
		}
		return
	}
	if t.Columns.Type == "" && t.CloudEvents.Type == "" {
		found.add(key+".columns.type", "is required with format: %s, because a CloudEvent has to have a type; name its column, or set cloudevents.type", t.Format)
	}
	for i, h := range t.Headers {
		t.checkAttribute(h.Name, fmt.Sprintf("%s.headers[%d].name", key, i), found)
	}
}

// checkAttribute notes a header that cannot be written beside the attributes of a CloudEvent, which are headers themselves.
func (t *Table) checkAttribute(header, key string, found *problems) {
	own := []string{
		"ce_id", "ce_specversion", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_datacontenttype", "ce_dataschema",
		"ce_sequence", "ce_recordedtime", "ce_partitionkey",
	}
	lower := strings.ToLower(header)
	switch {
	case lower == "content-type":
		found.add(key, "%q is written by tidemark itself; cloudevents.content_type says what it is", header)
	case slices.Contains(own, lower):
		found.add(key, "%q is written by tidemark itself; cloudevents.source, type, subject, content_type and data_schema say what can be chosen", header)
	case !strings.HasPrefix(lower, "ce_"):
	case lower == "ce_data", !regexp.MustCompile(`^ce_[a-z0-9]+$`).MatchString(header):
		found.add(key, "%q begins with ce_, which makes it an extension attribute of a CloudEvent, and the rest of its name has to be of a-z and 0-9, and not data", header)
	}
}
