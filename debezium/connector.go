// Package debezium reads the configuration of a Debezium connector and writes tidemark's. It owns the knowledge of
// Debezium's options, and knows neither Kafka Connect nor the parts that it configures.
//
// The one rule: nothing is lost in silence. Each key of the connector is carried over, named as one that is not needed, or
// named as one that could not be carried over, with what to do.
package debezium

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Connector is a connector's configuration, by the keys of Kafka Connect.
type Connector map[string]string

// Read reads a connector's configuration: the JSON that Kafka Connect's REST API takes and gives ({"name", "config"}, or the
// bare config), or a file of properties. The keys of Debezium Server (debezium.source.…) become those of a connector. Its
// errors name keys, never values.
func Read(text []byte) (Connector, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("it is not UTF-8")
	}
	var c Connector
	var err error
	if trimmed := strings.TrimSpace(string(text)); strings.HasPrefix(trimmed, "{") {
		c, err = readJSON([]byte(trimmed))
	} else {
		c, err = readProperties(string(text))
	}
	if err != nil {
		return nil, err
	}
	c = ofServer(c)
	switch class := c["connector.class"]; {
	case len(c) == 0:
		return nil, errors.New("it holds no keys")
	case strings.HasSuffix(class, "PostgresConnector"):
	case class == "":
		return nil, errors.New("it has no connector.class, so it is not a connector's configuration (the answer of GET /connectors/NAME/config is one)")
	default:
		return nil, fmt.Errorf("connector.class is %q, and tidemark reads Postgres: io.debezium.connector.postgresql.PostgresConnector", class)
	}
	return c, nil
}

func readJSON(text []byte) (Connector, error) {
	var object map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	if err := decoder.Decode(&object); err != nil {
		return nil, fmt.Errorf("it is no JSON object: %w", err)
	}
	if decoder.More() {
		return nil, errors.New("something follows the JSON object")
	}
	if config, ok := object["config"].(map[string]any); ok {
		object = config
	}
	c := Connector{}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		switch v := object[key].(type) {
		case nil:
		case string:
			c[key] = v
		case json.Number, bool:
			c[key] = fmt.Sprint(v)
		default:
			return nil, fmt.Errorf("the value of %q is no text, number or boolean, which all options of a connector are", key)
		}
	}
	return c, nil
}

// ofServer translates the keys of Debezium Server, where there are some.
func ofServer(c Connector) Connector {
	prefixes := []struct{ from, to string }{
		{"debezium.source.", ""},
		{"debezium.sink.kafka.producer.", "producer.override."},
		{"debezium.transforms", "transforms"},
		{"debezium.predicates", "predicates"},
		{"debezium.format.", "debezium.format."}, // says what the converters do; named as unknown
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(c)), func(k string) bool { return strings.HasPrefix(k, "debezium.source.") }) {
		return c
	}
	out := Connector{}
	for key, value := range c {
		for _, p := range prefixes {
			if rest, ok := strings.CutPrefix(key, p.from); ok {
				key = p.to + rest
				break
			}
		}
		out[key] = value
	}
	return out
}
