package outbox

import "context"

// The headers of W3C trace context, as Kafka clients and tidemark spell them.
const (
	headerTraceParent = "traceparent"
	headerTraceState  = "tracestate"
)

type traceKey struct{}

type trace struct{ parent, state string }

// WithTrace returns a context with which [Write] notes that the events belong to this trace: traceparent and tracestate as
// in the request's headers (W3C trace context). It needs a place for them: see [Columns]. A service that uses OpenTelemetry
// sets [Writer.Trace] once instead.
func WithTrace(ctx context.Context, traceparent, tracestate string) context.Context {
	return context.WithValue(ctx, traceKey{}, trace{traceparent, tracestate})
}

// trace returns the trace that ctx belongs to; without one, or with one that nobody could read, it is empty: an event is
// not refused for that.
func (w *Writer) trace(ctx context.Context) trace {
	t, ok := ctx.Value(traceKey{}).(trace)
	if !ok && w.Trace != nil {
		t.parent, t.state = w.Trace(ctx)
	}
	if !isTraceParent(t.parent) {
		return trace{}
	}
	if checkText(t.state, maxTraceState) != nil {
		t.state = ""
	}
	return t
}

// maxTraceState is what a tracestate should not be longer than, in bytes, to be passed on.
const maxTraceState = 512

// isTraceParent reports whether s is version, trace id, parent id and flags; a later version may have more behind them.
func isTraceParent(s string) bool {
	const length = 55
	if len(s) < length || len(s) > 2*length || len(s) > length && s[length] != '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch i {
		case 2, 35, 52:
			if c != '-' {
				return false
			}
		default:
			if i < length && (c < '0' || c > '9') && (c < 'a' || c > 'f') || c < ' ' || c > '~' {
				return false
			}
		}
	}
	return true
}
