package decode

import (
	"fmt"
	"strings"
	"testing"
)

func TestTopic(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxTopicLen)
	tests := []struct {
		name, template, value string
		want                  string // "": poison
		poison                []string
	}{
		{"the column", "", "orders", "orders", nil},
		{"a template", "outbox.event.{topic}", "order", "outbox.event.order", nil},
		{"the text as it is", "{topic}", "Order_1-x.Y", "Order_1-x.Y", nil},
		{"literal braces are no topic", "{{{topic}}}", "a", "", []string{`"{a}"`}},
		{"a fixed topic", "all", null, "all", nil},
		{"null", "", null, "", []string{"topic", `"topic" is null`}},
		{"null in a template", "{id}.{topic}", null, "", []string{`"topic" is null`}},
		{"empty", "", "", "", []string{"topic", "empty"}},
		{"empty in a template", "outbox.{topic}", "", "outbox.", nil},
		{"dot", "", ".", "", []string{`"."`}},
		{"dots", "{topic}.", ".", "", []string{`".."`}},
		{"three dots", "", "...", "...", nil},
		{"longest", "", long, long, nil},
		{"too long", "", long + "x", "", []string{"250 bytes", "249"}},
		{"space", "", "my topic", "", []string{`"my topic"`}},
		{"slash", "", "a/b", "", []string{`"a/b"`}},
		{"umlaut", "", "größe", "", []string{`"größe"`}},
		{"zero byte", "", "a\x00b", "", []string{`"a\x00b"`}},
		{"monstrous", "", strings.Repeat("€", 1<<20), "", []string{"3145728 bytes"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ev := rowOf(t, func(t *Table) { t.Topic = test.template }, nil, "i", test.value, "k", "v")
			if len(ev.Topic) > maxTopicLen {
				t.Errorf("topic of %d bytes", len(ev.Topic))
			}
			if test.want != "" {
				if ev.Topic != test.want {
					t.Errorf("topic %q, want %q", ev.Topic, test.want)
				}
				if ev.Poison != nil {
					t.Errorf("poison: %v", ev.Poison)
				}
				return
			}
			wantError(t, ev.Poison, test.poison...)
			if n := len(ev.Poison.Error()); n > 2000 {
				t.Errorf("the reason has %d bytes", n)
			}
			// The rest is there all the same.
			if ev.ID != "i" || string(ev.Key) != "k" || string(ev.Value) != "v" || len(ev.Headers) != 3 {
				t.Errorf("the event is %s", renderEvent(&ev))
			}
		})
	}
}

func TestTopicsAreInternedWithinABound(t *testing.T) {
	t.Parallel()
	names := topics{}
	for i := range 2*maxTopics + 10 {
		want := fmt.Sprintf("t-%d", i)
		if got, err := names.intern([]byte(want)); err != nil || got != want {
			t.Fatalf("%q: %q, %v", want, got, err)
		}
		if len(names) > maxTopics {
			t.Fatalf("%d names are kept", len(names))
		}
	}
}
