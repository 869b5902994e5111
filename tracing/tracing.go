// Package tracing makes an OpenTelemetry span of each event that Kafka has acknowledged, in the trace that the row's
// traceparent names, and sends it by OTLP over HTTP. It is configured by the standard OTEL_ variables, and off without.
//
// The one rule: nothing of it slows the relay or stops it. A span for which there is no room, or that nobody takes, is
// dropped and counted; and the record is not touched, so that a consumer continues the trace of whoever wrote the row.
package tracing

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/tidemark/tidemark/decode"
)

// Options are what a tracer is built from, besides the environment.
type Options struct {
	Version string // of tidemark
	Log     zerolog.Logger
	Metrics prometheus.Registerer
}

// Tracer makes spans of events, on a goroutine of its own.
type Tracer struct {
	all      bool // the configured sampler decides, also on events that are in no trace
	queue    chan publication
	crowded  prometheus.Counter
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	out      *outbound
	cancel   context.CancelFunc
	closing  chan struct{}
	done     chan struct{}
	patience time.Duration // of Close
}

// publication is what a span says of an event, without any of the event's memory.
type publication struct {
	parent, state string // the headers traceparent and tracestate
	topic, table  string
	id            string
	position      decode.Position
	partition     int32
	offset        int64
	size          int // of the value, in bytes
	tombstone     bool
	committed     time.Time
	acked         time.Time
}

const (
	mostText   = 512             // bytes of an id or a tracestate
	flushLimit = 5 * time.Second // how long Close lets the last spans be sent
)

// Open returns a tracer as the environment asks for it, nil if it asks for none. It does not wait for who takes the spans.
// An error of which IsInvalid is true says which variable is wrong.
func Open(ctx context.Context, o Options) (*Tracer, error) {
	env, err := readEnvironment()
	if err != nil || !env.on {
		return nil, err
	}
	speakTo(o.Log)
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(env.endpoint.String()))
	if err != nil {
		return nil, fmt.Errorf("send traces to %s: %w", env.endpoint.Redacted(), err)
	}
	about, err := resource.New(ctx, resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", "tidemark"), attribute.String("service.version", o.Version)), resource.WithFromEnv())
	if err != nil {
		return nil, &invalid{fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)}
	}
	t := &Tracer{all: env.sampler != "", queue: make(chan publication, env.queue), closing: make(chan struct{}), done: make(chan struct{}), patience: flushLimit}
	t.out = newOutbound(exporter, env, o)
	t.crowded = t.out.dropped.WithLabelValues("queue")
	with := []sdktrace.TracerProviderOption{sdktrace.WithResource(about), sdktrace.WithSpanProcessor(t.out)}
	if !t.all { // or else the provider makes the sampler of OTEL_TRACES_SAMPLER
		with = append(with, sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())))
	}
	t.provider = sdktrace.NewTracerProvider(with...)
	t.tracer = t.provider.Tracer("github.com/tidemark/tidemark", trace.WithInstrumentationVersion(o.Version))
	ctx, t.cancel = context.WithCancel(context.WithoutCancel(ctx)) // ends in Close: spans come until the relay has drained
	go t.run(ctx, env.every)                                       // ends with Close
	o.Log.Info().Str("endpoint", env.endpoint.Redacted()).Str("sampler", env.samplerName()).Stringer("resource", about).
		Msg("spans of sampled events are sent (OTEL_ variables)")
	return t, nil
}

// speakTo leads what the SDK has to say into our log.
func speakTo(log zerolog.Logger) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn().Err(err).Msg("tracing") }))
	const warnings = 1
	otel.SetLogger(funcr.New(func(_, text string) { log.Warn().Str("said", text).Msg("tracing") }, funcr.Options{Verbosity: warnings}))
}

// Published is told of an event that Kafka has acknowledged. It does not block. The event is the caller's again when it
// returns. One goroutine calls it.
func (t *Tracer) Published(ev *decode.Event, partition int32, offset int64) {
	parent := header(ev, "traceparent")
	if !t.all && !sampled(parent) {
		return
	}
	state := header(ev, "tracestate")
	if len(state) > mostText {
		state = nil // a part of it would say something else
	}
	p := publication{
		parent: string(parent[:min(len(parent), mostText)]), state: string(state), topic: ev.Topic, table: ev.Table,
		id: strings.Clone(ev.ID[:min(len(ev.ID), mostText)]), position: ev.Position, partition: partition, offset: offset,
		size: len(ev.Value), tombstone: ev.Value == nil, committed: ev.CommitTime, acked: time.Now(),
	}
	select {
	case t.queue <- p:
	default:
		t.crowded.Inc()
	}
}

// header returns the last header of that name, which is the one that consumers take, or else a CloudEvent's.
func header(ev *decode.Event, name string) []byte {
	for i := len(ev.Headers) - 1; i >= 0; i-- {
		if h := &ev.Headers[i]; h.Key == name || (len(h.Key) == len("ce_")+len(name) && h.Key[:3] == "ce_" && h.Key[3:] == name) {
			return h.Value
		}
	}
	return nil
}

// sampled reports whether a traceparent may say so: at a glance, since most say no. What is malformed is found out later.
// https://www.w3.org/TR/trace-context/#traceparent-header-field-values
func sampled(parent []byte) bool {
	const flags = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0")
	return len(parent) > flags && strings.IndexByte("13579bdf", parent[flags]) >= 0
}

// run makes spans of what comes and has them sent, until Close.
func (t *Tracer) run(ctx context.Context, every time.Duration) {
	defer close(t.done)
	defer t.out.close(ctx)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case p := <-t.queue:
			t.make(ctx, &p)
		case <-ticker.C:
			t.out.send(ctx)
		case <-t.closing:
			for len(t.queue) > 0 {
				p := <-t.queue
				t.make(ctx, &p)
			}
			t.out.send(ctx)
			return
		}
	}
}

// make makes the span, from the commit to the acknowledgement, and sends a batch when it is full.
func (t *Tracer) make(ctx context.Context, p *publication) {
	// What is malformed is no parent; without one the sampler makes no span.
	parent := propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": p.parent, "tracestate": p.state})
	if p.committed.After(p.acked) { // by the clock of another host
		p.committed = p.acked
	}
	_, span := t.tracer.Start(parent, "send "+p.topic, trace.WithSpanKind(trace.SpanKindProducer), trace.WithTimestamp(p.committed), trace.WithAttributes(p.attributes()...))
	span.End(trace.WithTimestamp(p.acked)) // out has it
	if t.out.full() {
		t.out.send(ctx)
	}
}

// attributes are those of the conventions for messaging, and what identifies the row. Keys and payloads are none: they are
// often about persons.
// https://opentelemetry.io/docs/specs/semconv/messaging/kafka/
func (p *publication) attributes() []attribute.KeyValue {
	out := []attribute.KeyValue{
		attribute.String("messaging.system", "kafka"),
		attribute.String("messaging.operation.type", "send"),
		attribute.String("messaging.operation.name", "send"),
		attribute.String("messaging.destination.name", p.topic),
		attribute.String("messaging.destination.partition.id", fmt.Sprint(p.partition)),
		attribute.Int64("messaging.kafka.offset", p.offset),
		attribute.String("messaging.message.id", p.id),
		attribute.Int("messaging.message.body.size", p.size),
		attribute.String("tidemark.table", p.table),
		attribute.String("tidemark.position", p.position.String()),
	}
	if p.tombstone {
		out = append(out, attribute.Bool("messaging.kafka.message.tombstone", true))
	}
	return out
}

// Close sends what is still there, for some seconds at most. Published must not be called any more.
func (t *Tracer) Close() {
	close(t.closing)
	timer := time.AfterFunc(t.patience, t.cancel)
	<-t.done
	timer.Stop()
	t.cancel()
}
