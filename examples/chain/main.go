// Command chain runs the whole chain on servers of its own, with nothing installed: orders writes, tidemark publishes,
// billing reads, each of them a process, between a Postgres and a Kafka. In the end it holds the two services' databases
// against each other: each order has to be billed, once.
//
//	go run ./examples/chain                                         # 5,000 orders, an in-process Kafka
//	go run ./examples/chain --kill --orders 100000 --kafka real     # and every process is killed again and again
//
// The exit status is 1 if an order was lost or billed twice.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// Options say what is run.
type Options struct {
	Orders    int
	Readers   int           // instances of billing
	KillEvery time.Duration // about that often one of the processes; 0: never
	Rounds    int           // how often each of them; 0: until everything has arrived
	RealKafka bool
	Seed      uint64
	Out       io.Writer
	Log       io.Writer // what the services write; nil: nowhere
}

func (o *Options) say(format string, args ...any) {
	_, _ = fmt.Fprintf(o.Out, format, args...) // whoever has closed it does not want to know
}

func main() {
	o := Options{Out: os.Stdout}
	kafka := flag.String("kafka", "fake", "fake: in this process, without Java; real: a broker, with Java 17 and Maven")
	kill := flag.Bool("kill", false, "kill every process again and again, with SIGKILL")
	verbose := flag.Bool("verbose", false, "show what the services write")
	flag.IntVar(&o.Orders, "orders", 5000, "how many orders are placed")
	flag.IntVar(&o.Readers, "readers", 2, "how many instances of billing share the topics")
	flag.DurationVar(&o.KillEvery, "kill-every", time.Second, "with --kill: how long until the next one, on average")
	flag.Uint64Var(&o.Seed, "seed", rand.Uint64(), "chooses the moments; printed, to run it again")
	flag.Parse()
	if flag.NArg() > 0 || *kafka != "fake" && *kafka != "real" || o.Orders < 1 || o.Readers < 1 {
		flag.Usage()
		os.Exit(2)
	}
	if o.RealKafka = *kafka == "real"; !*kill {
		o.KillEvery = 0
	}
	if *verbose {
		o.Log = os.Stderr
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	account, err := Run(ctx, o)
	stop()
	if err == nil {
		err = account.Err()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chain:", err)
		os.Exit(1)
	}
}

// Run runs the chain until every order has gone through it, and returns the account. An error is one of the run, not of
// what the account shows.
func Run(ctx context.Context, o Options) (a Account, err error) {
	o.say("starting Postgres and Kafka, building the services (seed %d)…\n", o.Seed)
	stack, err := open(ctx, o)
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, stack.Close()) }()
	dir, err := os.MkdirTemp("", "tidemark-chain-")
	if err != nil {
		return a, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // everything has been said by then
	cast, err := stack.cast(ctx, filepath.Join(dir, "checkpoint"))
	if err != nil {
		return a, err
	}
	began := time.Now()
	if err := cast.perform(ctx); err != nil {
		return a, err
	}
	took := time.Since(began)
	a, err = stack.account(ctx)
	a.Kills = cast.kills()
	o.say("\nafter %v:\n%s\n", took.Round(time.Second), a)
	return a, err
}
