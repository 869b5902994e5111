// Command memory holds tidemark to its promise that memory is bounded, whatever the size of a transaction, of a row, of the
// backlog or of the outage: it runs the built binary with its default configuration on a real Postgres and a real Kafka,
// asks the kernel for the most memory that the process has ever held, and has the ledger judge what became of every row.
//
// A case is a value in cases.go; stage.go is what a case plays on; report.go writes down what was seen. The exit status
// is 1 if a limit or another promise was broken, or if a case could not be run.
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
	"syscall"
	"time"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/test/trial"
)

type options struct {
	cases    []testCase
	length   time.Duration
	seed     uint64
	report   string
	json     string
	postgres string
	verbose  bool
	list     bool
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "memory:", err)
		}
		os.Exit(2)
	}
	if o.list {
		for _, c := range o.cases {
			fmt.Printf("%-12s %s\n", c.Name, c.What)
		}
		return
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = run(ctx, o)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "memory:", err)
		os.Exit(1)
	}
}

func parse(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("memory", flag.ContinueOnError)
	flags.SetOutput(stderr)
	names := flags.String("case", "all", "names with commas between, or all")
	flags.BoolVar(&o.list, "list", false, "list the cases and end")
	flags.DurationVar(&o.length, "for", 2*time.Minute, "how long the broker is away, and how long it is slow")
	flags.Uint64Var(&o.seed, "seed", 0, "chooses rows; 0 draws one")
	flags.StringVar(&o.report, "report", "", "write the report to this file, as Markdown")
	flags.StringVar(&o.json, "json", "", "write the report to this file, as JSON, with the memory of each second")
	flags.StringVar(&o.postgres, "postgres", os.Getenv("TIDEMARK_TEST_POSTGRES"), "version of Postgres: 16, 17 or 18")
	flags.BoolVar(&o.verbose, "verbose", false, "show what tidemark logs")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	o.cases = cases()
	if *names == "all" {
		return o, nil
	}
	var err error
	o.cases, err = trial.Choose("case", *names, o.cases, func(c *testCase) string { return c.Name })
	return o, err
}

// run runs every case that was asked for, each on servers of its own, and writes the report.
func run(ctx context.Context, o *options) error {
	if err := devstack.HaveKafka(); err != nil {
		return fmt.Errorf("a real Kafka is needed: %w", err)
	}
	binary, err := trial.Build(ctx)
	if err != nil {
		return err
	}
	r := &report{Setting: trial.NewSetting(ctx, "./test/memory", os.Args[1:], binary, o.seed)}
	fmt.Printf("seed %d, %s, %d cores, %s\n", o.seed, r.Tidemark, r.Cores, r.Memory)
	for i := range o.cases {
		c := &o.cases[i]
		fmt.Printf("%-12s ", c.Name)
		result := runCase(ctx, o, binary, c)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: %w", ctx.Err())
		}
		fmt.Println(result.line())
		r.Cases = append(r.Cases, result)
	}
	errs := []error{trial.WriteReports(r, o.json, o.report)}
	for i := range r.Cases {
		if c := &r.Cases[i]; c.Broken != "" {
			errs = append(errs, fmt.Errorf("%s: %s", c.Name, c.Broken))
		}
	}
	return errors.Join(errs...)
}
