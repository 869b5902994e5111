package tracing

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// outbound gathers spans and sends them. But for counting it is the SDK's batch processor, which drops in silence. Only the
// tracer's goroutine uses it.
type outbound struct {
	exporter sdktrace.SpanExporter
	log      zerolog.Logger
	endpoint string
	sent     prometheus.Counter
	dropped  *prometheus.CounterVec
	refused  prometheus.Counter
	timeout  time.Duration
	spans    []sdktrace.ReadOnlySpan
	since    time.Time // of the first batch that was not taken; zero while all is well
}

var _ sdktrace.SpanProcessor = (*outbound)(nil)

func newOutbound(exporter sdktrace.SpanExporter, env *environment, o Options) *outbound {
	out := &outbound{
		exporter: exporter, log: o.Log, endpoint: env.endpoint.Redacted(), timeout: env.timeout,
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidemark_spans_sent_total", Help: "OpenTelemetry spans that were sent; only where tracing is on.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidemark_spans_dropped_total", Help: "OpenTelemetry spans that were dropped: queue, because too many waited; export, because they could not be sent.",
		}, []string{"reason"}),
		spans: make([]sdktrace.ReadOnlySpan, 0, env.batch),
	}
	out.refused = out.dropped.WithLabelValues("export")
	o.Metrics.MustRegister(out.sent, out.dropped)
	return out
}

// OnStart does nothing.
func (*outbound) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd takes a span, which has been sampled or would not come.
func (o *outbound) OnEnd(s sdktrace.ReadOnlySpan) { o.spans = append(o.spans, s) }

// ForceFlush does nothing: the tracer sends.
func (*outbound) ForceFlush(context.Context) error { return nil }

// Shutdown does nothing: close does.
func (*outbound) Shutdown(context.Context) error { return nil }

func (o *outbound) full() bool { return len(o.spans) == cap(o.spans) }

// send sends what is there, or drops it. It says so once, and once more when spans are taken again.
func (o *outbound) send(ctx context.Context) {
	if len(o.spans) == 0 {
		return
	}
	limited, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	err := o.exporter.ExportSpans(limited, o.spans)
	n := len(o.spans)
	clear(o.spans)
	o.spans = o.spans[:0]
	switch {
	case err != nil:
		o.refused.Add(float64(n))
		if o.since.IsZero() {
			o.since = time.Now()
			o.log.Warn().Err(err).Str("endpoint", o.endpoint).Int("spans", n).
				Msg("spans cannot be sent and are dropped, which tidemark_spans_dropped_total counts; events are published as ever (check OTEL_EXPORTER_OTLP_ENDPOINT, and that it is the receiver's HTTP port)")
		}
	default:
		o.sent.Add(float64(n))
		if !o.since.IsZero() {
			o.log.Info().Dur("lasted", time.Since(o.since)).Msg("recovered: spans are sent again")
			o.since = time.Time{}
		}
	}
}

// close ends the exporter, which has nothing under way.
func (o *outbound) close(ctx context.Context) {
	if err := o.exporter.Shutdown(ctx); err != nil && ctx.Err() == nil {
		o.log.Debug().Err(err).Msg("tracing has not ended well")
	}
}
