package cli

import (
	"context"
	"errors"
	"math"
	"os"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/relay"
	"github.com/tidemark/tidemark/tracing"
)

func (a *app) runCommand() *cobra.Command {
	var once bool
	command := &cobra.Command{
		Use:   "run",
		Short: "Publish the outbox to Kafka until stopped",
		Long: `run tails the outbox tables through the write-ahead log, publishes each committed row to Kafka and stores how far it
has come, until SIGTERM or SIGINT. It then waits for what is in flight and ends with exit status 0; a second signal
ends it at once, which loses nothing either.

Servers that are away are waited for. What needs a person ends it: with exit status 1, with 2 for the configuration,
and with 3 where going on would lose or hide events; the message says what to do.`,
		Example: "  tidemark run --config config.yaml\n  tidemark run --once   # before an upgrade: end when all that is committed is in Kafka",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, log, err := a.load()
			if err != nil {
				return err
			}
			return run(cmd.Context(), c, log, once)
		},
	}
	command.Flags().BoolVar(&once, "once", false, "end when everything committed before the start is in Kafka")
	return command
}

// job is a relay at work. What is beside it knows it by this.
type job struct {
	config  *config.Config
	relay   *relay.Relay
	metrics *relay.Metrics
	log     zerolog.Logger
}

// run runs the relay, with the HTTP server beside it. The first of them that ends, ends the other.
func run(ctx context.Context, c *config.Config, log zerolog.Logger, once bool) error {
	store, err := checkpointStore(c)
	if err != nil {
		return err
	}
	defer store.Close()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfoMetric())
	o := relayOptions(c, store, log.With().Str("component", "relay").Logger())
	o.Once = once
	o.Metrics = relay.NewMetrics(registry)
	if c.HTTP.Listen != "" {
		o.Kafka.Metrics = registry
	}
	stopTracing, err := trace(ctx, &o, registry, log)
	if err != nil {
		return err
	}
	defer stopTracing()
	r := relay.New(o)
	r.RegisterGauges(registry)

	j := &job{config: c, relay: r, metrics: o.Metrics, log: log}
	care := &upkeep{job: j}
	limitMemory(c.Kafka.MaxBufferedBytes, care.memory())
	group, ctx := errgroup.WithContext(ctx)
	if c.HTTP.Listen != "" {
		desk := &parkedDesk{config: c}
		defer desk.close()
		server, err := j.listen(ctx, registry, care, desk)
		if err != nil {
			return err
		}
		log.Info().Str("listen", server.Addr()).Msg("HTTP is served")
		group.Go(func() error { return server.Serve(ctx) })
	}
	if !once {
		group.Go(func() error { return care.run(ctx) })
	}
	group.Go(func() error {
		if err := r.Run(ctx); err != nil {
			return err
		}
		return errDone
	})
	if err := group.Wait(); !errors.Is(err, errDone) {
		return err
	}
	return nil
}

// trace has spans made of events, where the environment asks for it, until the function that it returns is called.
func trace(ctx context.Context, o *relay.Options, registry *prometheus.Registry, log zerolog.Logger) (stop func(), err error) {
	tracer, err := tracing.Open(ctx, tracing.Options{Version: buildInfo().Version, Log: log.With().Str("component", "tracing").Logger(), Metrics: registry})
	switch {
	case tracing.IsInvalid(err):
		return nil, &usageError{err}
	case err != nil:
		return nil, err
	case tracer == nil:
		return func() {}, nil
	}
	o.Traced = tracer.Published
	return tracer.Close, nil
}

// limitMemory lets the garbage collector work harder when more memory is in use than the buffers and what is around them
// need, and what is done besides; without it, garbage may double that. It is no bound: where more is needed, as for a row of 50 MB, more is taken.
// Who sets GOMEMLIMIT knows better.
func limitMemory(buffered, besides int64) {
	const around = 24 << 20
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(min(buffered, math.MaxInt64/4)/2*3 + around + besides)
	}
}

// errDone ends the HTTP server when the relay has ended well.
var errDone = errors.New("done")

func buildInfoMetric() prometheus.Collector {
	b := buildInfo()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tidemark_build_info", Help: "1, labelled with what this binary was built from.",
		ConstLabels: prometheus.Labels{"version": b.Version, "commit": b.Commit, "go": b.Go},
	})
	gauge.Set(1)
	return gauge
}
