package asyncapi

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// official is AsyncAPI's own schema of its documents.
func official(tb testing.TB) *jsonschema.Schema {
	tb.Helper()
	file, err := os.Open("testdata/asyncapi-3.0.0.json")
	if err != nil {
		tb.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // it was read
	text, err := jsonschema.UnmarshalJSON(file)
	if err != nil {
		tb.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	const id = "http://asyncapi.com/definitions/3.0.0/asyncapi.json"
	if err := c.AddResource(id, text); err != nil {
		tb.Fatal(err)
	}
	schema, err := c.Compile(id)
	if err != nil {
		tb.Fatal(err)
	}
	return schema
}

// mustBeValid holds a document against the official schema, as JSON and as YAML.
func mustBeValid(tb testing.TB, schema *jsonschema.Schema, document Object) {
	tb.Helper()
	text, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		tb.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		tb.Fatal(err)
	}
	if err := schema.Validate(value); err != nil {
		tb.Errorf("%v\n%s", err, text)
	}
	asYAML, err := document.YAML()
	if err != nil {
		tb.Fatal(err)
	}
	var again any
	if err := yaml.Unmarshal(asYAML, &again); err != nil {
		tb.Fatal(err)
	}
	if same, err := json.Marshal(again); err != nil || !sameJSON(tb, same, text) {
		tb.Errorf("YAML and JSON differ (%v):\n%s\n%s", err, asYAML, text)
	}
}

func sameJSON(tb testing.TB, a, b []byte) bool {
	tb.Helper()
	var x, y any
	if err := json.Unmarshal(a, &x); err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(b, &y); err != nil {
		tb.Fatal(err)
	}
	one, _ := json.Marshal(x)
	other, _ := json.Marshal(y)
	return bytes.Equal(one, other)
}

func payloads(samples ...string) *Schema {
	s := &Schema{}
	for _, sample := range samples {
		s.Add([]byte(sample))
	}
	return s
}

func orders() Source {
	return Source{
		Name: "public.outbox", Literals: []string{"outbox.event.", ""}, Parameters: []string{"aggregate type"},
		Headers: []string{"id", "eventType", "tidemark-position", "tidemark-source", "tenant"}, OwnHeaders: true, Key: true, KeyText: "{aggregateid}",
		Topics: []Topic{
			{Name: "outbox.event.order", Partitions: 3, Replicas: 1, Configs: map[string]string{"cleanup.policy": "compact,delete", "retention.ms": "-1", "max.message.bytes": "1048588", "segment.bytes": "7"}, Payload: payloads(`{"total": 12.5, "lines": [{"sku": "a"}]}`)},
			{Name: "outbox.event.bill"},
		},
		Payload: payloads(`{"total": 12.5}`, `{"paid": true}`), Sampled: "Learnt from 2 rows.",
	}
}

func TestDocumentsAreValid(t *testing.T) {
	t.Parallel()
	schema := official(t)
	offline := orders()
	offline.Topics, offline.Payload, offline.Key = nil, nil, false
	fixed := Source{Name: "messages with the prefix app", Literals: []string{"fixed topic"}, Headers: []string{"ce_id", "content-type", "tidemark-position"}, ContentType: "application/cloudevents+json"}
	anywhere := Source{Name: "a.b", Literals: []string{"", ""}, Parameters: []string{"dest"}, Topics: []Topic{{Name: "x"}}, Payload: payloads("no JSON")}
	twice := Source{Name: "a.c", Literals: []string{"", "-", ".", ""}, Parameters: []string{"a", "b", "a"}}
	for name, api := range map[string]API{
		"all":      {Title: "Orders", Version: "1", Description: "d", Servers: []Server{{"a:9092", false, ""}, {"b:9093", true, "SCRAM-SHA-512"}, {"c:1", true, "OAUTHBEARER"}}, Sources: []Source{orders(), fixed, anywhere, twice, orders()}},
		"offline":  {Title: "Orders", Version: "1", Servers: []Server{{"a", true, "PLAIN"}}, Sources: []Source{offline}},
		"one text": {Title: "Orders", Version: "1", Sources: []Source{fixed}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mustBeValid(t, schema, api.Document())
		})
	}
	broken := (&API{Title: "Orders", Version: "1"}).Document()
	broken[0].Value = "2.0.0"
	text, err := json.Marshal(broken)
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if schema.Validate(value) == nil {
		t.Error("the schema takes anything")
	}
}

func TestDocumentSaysWhatIsLive(t *testing.T) {
	t.Parallel()
	text, err := (&API{Title: "Orders", Version: "1", Sources: []Source{orders()}}).Document().YAML()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"address: outbox.event.{aggregate_type}", "- order\n", "- bill\n", "address: outbox.event.order", "partitions: 3", "replicas: 1", "retention.ms: -1",
		"- compact\n", "max.message.bytes: 1048588", "tenant:", "pattern: ^[0-9a-f]{16}-[0-9a-f]{8}$", "contentType: application/json", "Made of {aggregateid}",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the document has no %q:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "segment.bytes") {
		t.Error("a setting is in the document that the binding has no place for")
	}
}

func TestSchemaLearnsTypesAndNoValues(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		samples []string
		want    string
	}{
		"types": {
			[]string{`{"s": "SECRET", "n": 1, "f": 1.5, "b": true, "x": null, "l": [1, "SECRET"], "o": {"deep": "SECRET"}}`},
			`{"type":"object","properties":{"b":{"type":"boolean"},"f":{"type":"number"},"l":{"type":"array","items":{"type":["integer","string"]}},` +
				`"n":{"type":"integer"},"o":{"type":"object","properties":{"deep":{"type":"string"}},"required":["deep"]},"s":{"type":"string"},"x":{"type":"null"}},` +
				`"required":["b","f","l","n","o","s","x"]}`,
		},
		"what every sample has is required": {
			[]string{`{"a": 1, "b": "x"}`, `{"a": 2.5, "c": null}`},
			`{"type":"object","properties":{"a":{"type":"number"},"b":{"type":"string"},"c":{"type":"null"}},"required":["a"]}`,
		},
		"formats": {
			[]string{`{"id": "a0000000-0000-4000-8000-000000000001", "at": "2026-11-22T10:00:00Z", "mixed": "2026-11-22"}`, `{"id": "A0000000-0000-4000-8000-00000000000f", "at": "2026-11-22T10:00:00.5+01:00", "mixed": "SECRET"}`},
			`{"type":"object","properties":{"at":{"type":"string","format":"date-time"},"id":{"type":"string","format":"uuid"},"mixed":{"type":"string"}},"required":["at","id","mixed"]}`,
		},
		"names that are values": {
			[]string{`{"a0000000-0000-4000-8000-000000000001": {"n": 1}, "4711": {"n": 2, "m": "SECRET"}}`},
			`{"type":"object","additionalProperties":{"type":"object","properties":{"m":{"type":"string"},"n":{"type":"integer"}},"required":["n"]}}`,
		},
		"several types":   {[]string{`1`, `"SECRET"`, `{"a": 1}`, `null`}, `{"type":["integer","null","object","string"],"properties":{"a":{"type":"integer"}},"required":["a"]}`},
		"no JSON":         {[]string{`{"a": 1}`, `SECRET`}, `{"type":"string"}`},
		"more than one":   {[]string{`1 2`}, `{"type":"string"}`},
		"an empty object": {[]string{`{}`, `[]`}, `{"type":["array","object"]}`},
		"nothing":         {nil, `null`},
	} {
		got, err := json.Marshal(payloads(c.samples...).Document())
		if string(got) == "{}" {
			got = []byte("null")
		}
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, got, c.want)
		}
		if strings.Contains(string(got), "SECRET") {
			t.Errorf("%s: a value is in the schema", name)
		}
	}
}

// What was learnt holds for what it was learnt from.
func FuzzSchema(f *testing.F) {
	f.Add([]byte(`{"a": [1, 2.5, {"b": null}], "id": "a0000000-0000-4000-8000-000000000001"}`), []byte(`{"a": "x"}`))
	f.Add([]byte(`{"4711": 1}`), []byte(`[]`))
	f.Fuzz(func(t *testing.T, one, other []byte) {
		s := payloads(string(one), string(other))
		document := s.Document()
		text, err := json.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		if !s.IsJSON() {
			return
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		c := jsonschema.NewCompiler()
		if err := c.AddResource("learnt", value); err != nil {
			t.Fatal(err)
		}
		schema, err := c.Compile("learnt")
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		for _, sample := range [][]byte{one, other} {
			v, err := jsonschema.UnmarshalJSON(bytes.NewReader(sample))
			if err != nil {
				return // a number that no double holds
			}
			if err := schema.Validate(v); err != nil {
				t.Fatalf("%v\n%s\n%s", err, sample, text)
			}
		}
	})
}
