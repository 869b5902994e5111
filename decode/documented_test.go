package decode

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestDocumentedRecords keeps the examples of docs/formats.md true. UPDATE_GOLDEN=1 writes them anew.
func TestDocumentedRecords(t *testing.T) {
	t.Parallel()
	const file, begin, end = "../docs/formats.md", "<!-- records -->\n", "<!-- end of records -->\n"
	document, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(document), begin)
	got, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no place for the records", file)
	}
	var want strings.Builder
	for _, format := range []struct {
		name string
		Format
	}{{"plain", Plain}, {"cloudevents", CloudEvents}, {"cloudevents-structured", CloudEventsStructured}} {
		ev := documentedEvent(t, format.Format)
		fmt.Fprintf(&want, "\n`format: %s`\n\n```\ntopic  %s\nkey    %s\nheaders\n", format.name, ev.Topic, ev.Key)
		for _, h := range ev.Headers {
			fmt.Fprintf(&want, "  %s: %s\n", h.Key, h.Value)
		}
		fmt.Fprintf(&want, "value\n  %s\n```\n", ev.Value)
	}
	want.WriteString("\n")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(before+begin+want.String()+end+after), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if got != want.String() {
		t.Errorf("%s has\n%s\nwant\n%s", file, got, want.String())
	}
}

func documentedEvent(t *testing.T, f Format) Event {
	t.Helper()
	d, err := New(Options{Source: "7325476235476523874/shop/tidemark", Tables: []Table{{
		Name: "public.outbox", Format: f, Topic: "outbox.event.{aggregatetype}",
		Columns: Columns{
			ID: "id", Key: "aggregateid", Type: "type", Topic: "aggregatetype", Payload: "payload",
			TraceParent: "traceparent", CorrelationID: "correlation_id", ExpiresAt: "expires_at",
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	events := feed(t, d, relationMessage(1, "public", "outbox", []Column{
		{"id", 2950},
		{"aggregatetype", 25},
		{"aggregateid", 25},
		{"type", 25},
		{"payload", oidJSONB},
		{"traceparent", 25},
		{"correlation_id", 25},
		{"expires_at", oidTimestamptz},
	}...), beginMessage(0x16b3748, 7), insertMessage(1, "6b1f0c3e-8f0a-4a57-9c36-2a1c1a4f7d10", "order", "42", "OrderPlaced", `{"total": 12.50}`,
		traceparent, "checkout-7", "2026-11-22 12:00:00+00"))
	if events[0].Poison != nil {
		t.Fatal(events[0].Poison)
	}
	return events[0]
}
