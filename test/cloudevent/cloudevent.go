// Package cloudevent reads Kafka records with the official SDK of CloudEvents, for tests. The SDK's own Kafka module is made
// for another client; this is as much of the protocol binding as a reader needs, the rest is the SDK's.
package cloudevent

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/binding/format"
	"github.com/cloudevents/sdk-go/v2/binding/spec"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/twmb/franz-go/pkg/kgo"
)

const prefix = "ce_"

// Read makes an event of a record and validates it. It says in which mode the record is.
func Read(value []byte, headers []kgo.RecordHeader) (*event.Event, binding.Encoding, error) {
	m := &message{value: value, headers: map[string][]byte{}}
	for _, h := range headers { // as the SDK's Kafka module does: in any case, and the last one wins
		m.headers[strings.ToLower(h.Key)] = h.Value
	}
	m.format = format.Lookup(string(m.headers["content-type"]))
	if specs := spec.WithPrefix(prefix); m.format == nil {
		m.version = specs.Version(string(m.headers[specs.PrefixedSpecVersionName()]))
	}
	ev, err := binding.ToEvent(context.Background(), m)
	if err != nil {
		return nil, m.ReadEncoding(), fmt.Errorf("read a CloudEvent: %w", err)
	}
	return ev, m.ReadEncoding(), ev.Validate()
}

// message is a record as the SDK reads it.
type message struct {
	value   []byte
	headers map[string][]byte
	format  format.Format
	version spec.Version
}

var (
	_ binding.MessageReader         = (*message)(nil)
	_ binding.MessageMetadataReader = (*message)(nil)
)

// GetAttribute implements binding.MessageMetadataReader.
func (m *message) GetAttribute(k spec.Kind) (spec.Attribute, any) {
	if attribute := m.version.AttributeFromKind(k); attribute != nil {
		return attribute, string(m.headers[attribute.PrefixedName()])
	}
	return nil, nil
}

// GetExtension implements binding.MessageMetadataReader.
func (m *message) GetExtension(name string) any { return string(m.headers[prefix+name]) }

// ReadEncoding implements binding.MessageReader.
func (m *message) ReadEncoding() binding.Encoding {
	switch {
	case m.format != nil:
		return binding.EncodingStructured
	case m.version != nil:
		return binding.EncodingBinary
	default:
		return binding.EncodingUnknown
	}
}

// ReadStructured implements binding.MessageReader.
func (m *message) ReadStructured(ctx context.Context, w binding.StructuredWriter) error {
	if m.format == nil {
		return binding.ErrNotStructured
	}
	return w.SetStructuredEvent(ctx, m.format, bytes.NewReader(m.value))
}

// ReadBinary implements binding.MessageReader.
func (m *message) ReadBinary(_ context.Context, w binding.BinaryWriter) error {
	if m.version == nil {
		return binding.ErrNotBinary
	}
	for key, value := range m.headers {
		var err error
		name, isAttribute := strings.CutPrefix(key, prefix)
		switch attribute := m.version.Attribute(key); {
		case key == "content-type":
			err = w.SetAttribute(m.version.AttributeFromKind(spec.DataContentType), string(value))
		case isAttribute && attribute != nil:
			err = w.SetAttribute(attribute, string(value))
		case isAttribute:
			err = w.SetExtension(name, string(value))
		}
		if err != nil {
			return fmt.Errorf("header %s: %w", key, err)
		}
	}
	if m.value == nil {
		return nil
	}
	return w.SetData(bytes.NewBuffer(m.value))
}
