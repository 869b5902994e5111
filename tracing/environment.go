package tracing

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// environment is what the standard variables say of traces, as far as the SDK does not read it itself. It reads
// OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER and what else there is of OTEL_EXPORTER_OTLP_.
// https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
type environment struct {
	on       bool
	endpoint *url.URL
	sampler  string        // "" is ours
	queue    int           // spans
	batch    int           // spans
	every    time.Duration // at most so long does a span wait for others
	timeout  time.Duration // of a batch
}

// invalid marks an error in a variable.
type invalid struct{ error }

func (e *invalid) Unwrap() error { return e.error }

// IsInvalid reports whether err says that a variable is wrong: starting again changes nothing.
func IsInvalid(err error) bool {
	_, ok := errors.AsType[*invalid](err)
	return ok
}

// readEnvironment reads the variables. Traces are on where an exporter or an endpoint is named.
func readEnvironment() (*environment, error) {
	endpoint := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"))
	e := &environment{sampler: os.Getenv("OTEL_TRACES_SAMPLER")}
	switch exporter := os.Getenv("OTEL_TRACES_EXPORTER"); exporter {
	case "":
		e.on = endpoint != ""
	case "otlp":
		e.on = true
	case "none":
	default:
		return nil, &invalid{fmt.Errorf("OTEL_TRACES_EXPORTER: %q is none of otlp, none", exporter)}
	}
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		e.on = false
	}
	if !e.on {
		return e, nil
	}
	if protocol := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL")); protocol == "grpc" {
		return nil, &invalid{errors.New("OTEL_EXPORTER_OTLP_PROTOCOL: tidemark sends http/protobuf or http/json, not grpc: name the receiver's HTTP endpoint, usually port 4318")}
	}
	return e, errors.Join(e.readEndpoint(), e.readBatches())
}

// readEndpoint finds out where to. The SDK would take localhost, with a line in the log, for what it cannot read.
func (e *environment) readEndpoint() error {
	name, text := "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
	if text == "" {
		name, text = "OTEL_EXPORTER_OTLP_ENDPOINT", cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"), "http://localhost:4318")
		text = strings.TrimSuffix(text, "/") + "/v1/traces"
	}
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" { // not the error, which would show a password
		return &invalid{fmt.Errorf("%s: is no URL such as http://localhost:4318", name)}
	}
	e.endpoint = u
	return nil
}

func (e *environment) readBatches() error {
	var problems []error
	number := func(name string, otherwise int) int {
		text := os.Getenv(name)
		if text == "" {
			return otherwise
		}
		n, err := strconv.ParseUint(text, 10, 24)
		if err != nil || n == 0 {
			problems = append(problems, &invalid{fmt.Errorf("%s: %q is no whole number above 0", name, text)})
		}
		return int(n) //nolint:gosec // 24 bits
	}
	e.queue = number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)
	e.batch = number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)
	e.every = time.Duration(number("OTEL_BSP_SCHEDULE_DELAY", 5000)) * time.Millisecond
	e.timeout = time.Duration(number("OTEL_BSP_EXPORT_TIMEOUT", 30000)) * time.Millisecond
	return errors.Join(problems...)
}

// samplerName is the sampler in the words of OTEL_TRACES_SAMPLER. Ours makes spans in traces that are sampled, and begins none.
func (e *environment) samplerName() string { return cmp.Or(e.sampler, "parentbased_always_off") }
