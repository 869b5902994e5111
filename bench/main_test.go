package bench_test

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidemark/tidemark/cli"
)

// TestMain lets this binary stand for tidemark: Run starts it as `… run --config …`.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "run" {
		defaults, err := os.ReadFile("../config.yaml")
		if err != nil {
			panic(err)
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		status := cli.Main(ctx, defaults, os.Args[1:], os.Stdout, os.Stderr, os.Environ())
		stop()
		os.Exit(status)
	}
	goleak.VerifyTestMain(m)
}
