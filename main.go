// Command tidemark publishes the rows of a Postgres outbox table to Kafka.
package main

import (
	"context"
	_ "embed"
	"os"
	"os/signal"
	"syscall"

	"github.com/tidemark/tidemark/cli"
)

// defaults is the configuration that holds where nothing else is said.
//
//go:embed config.yaml
var defaults []byte

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go obey(signals, cancel, os.Exit) // ends with the process
	os.Exit(cli.Main(ctx, defaults, os.Args[1:], os.Stdout, os.Stderr, os.Environ()))
}

// obey cancels at the first signal, so that what is under way is drained. At the second it ends the process at once,
// with status 1 because the draining has not been done; what was published since the last checkpoint is met again at
// the next start.
func obey(signals <-chan os.Signal, cancel func(), exit func(status int)) {
	<-signals
	cancel()
	<-signals
	exit(1)
}
