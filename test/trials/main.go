// Command trials breaks what a running tidemark stands between, one fault after the other and all of them mixed, on a real
// Postgres and a real Kafka, and has the ledger judge what became of every row.
//
// A fault is a value in one of the files faults_*.go; run.go runs a trial of it; report.go writes down what was seen.
// The exit status is 1 if a promise was broken, or if a trial could not be run that nothing stands against.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/tidemark/tidemark/test/trial"
)

type options struct {
	seed     uint64
	mode     string
	store    string
	faults   []fault
	length   time.Duration
	rate     float64
	short    bool
	kills    int
	rows     int
	all      string // the folder for every run of the document
	args     []string
	report   string
	json     string
	postgres string
	verbose  bool
}

const exactlyOnce = "exactly_once"

// Where the checkpoint may be.
const (
	inFile     = "file"
	inPostgres = "postgres"
	inKafka    = "kafka"
)

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "trials:", err)
		}
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if o.all != "" {
		err = runAll(ctx, o)
	} else {
		err = run(ctx, o)
	}
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "trials:", err)
		os.Exit(1)
	}
}

func parse(args []string, stderr io.Writer) (*options, error) {
	o := &options{args: args}
	flags := flag.NewFlagSet("trials", flag.ContinueOnError)
	flags.SetOutput(stderr)
	names := flags.String("faults", "all", "names with commas between, or all; mixed draws from all the others")
	list := flags.Bool("list", false, "list the faults and end")
	flags.Uint64Var(&o.seed, "seed", 0, "chooses moments, faults and rows; 0 draws one")
	flags.DurationVar(&o.length, "for", time.Minute, "how long each fault is repeated")
	flags.Float64Var(&o.rate, "rate", 1000, "rows a second")
	flags.BoolVar(&o.short, "short", false, "a quick run: the faults that need no long waits, once each")
	flags.IntVar(&o.kills, "kills", 0, "instead of the faults: that many SIGKILLs at random moments, in runs of 100")
	flags.IntVar(&o.rows, "rows", 0, "with --kills: at least so many committed events in all")
	flags.StringVar(&o.all, "all", "", "instead: every run of docs/trials.md, one after the other, each with a report in this folder; --for is how long each fault is repeated there")
	flags.StringVar(&o.report, "report", "", "write the report to this file, as Markdown")
	flags.StringVar(&o.json, "json", "", "write the report to this file, as JSON")
	flags.StringVar(&o.postgres, "postgres", os.Getenv("TIDEMARK_TEST_POSTGRES"), "version of Postgres: 16, 17 or 18")
	flags.StringVar(&o.mode, "mode", "at_least_once", "delivery.mode; with exactly_once the judge reads committed records alone, and wants no database transaction torn")
	flags.StringVar(&o.store, "store", "", "checkpoint.store: file, postgres or kafka (default file, and kafka with exactly_once, which knows no other)")
	flags.BoolVar(&o.verbose, "verbose", false, "show what tidemark logs")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err := o.checkMode(); err != nil {
		return nil, err
	}
	if *list {
		for _, f := range faults() {
			fmt.Printf("%-22s %s\n", f.Name, f.What)
		}
		os.Exit(0)
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	var err error
	o.faults, err = choose(*names, o.short)
	return o, err
}

// checkMode looks at mode and store, and fills in the store.
func (o *options) checkMode() error {
	switch o.mode {
	case "at_least_once":
		o.store = cmp.Or(o.store, inFile)
	case exactlyOnce:
		o.store = cmp.Or(o.store, inKafka)
	default:
		return fmt.Errorf("--mode %s: at_least_once or %s", o.mode, exactlyOnce)
	}
	switch {
	case !slices.Contains([]string{inFile, inPostgres, inKafka}, o.store):
		return fmt.Errorf("--store %s: %s, %s or %s", o.store, inFile, inPostgres, inKafka)
	case o.mode == exactlyOnce && o.store != inKafka:
		return fmt.Errorf("--store %s: with %s the checkpoint is in the Kafka transaction", o.store, exactlyOnce)
	}
	return nil
}

// choose returns the named faults.
func choose(names string, short bool) ([]fault, error) {
	known := faults()
	if names == "all" {
		if short {
			known = slices.DeleteFunc(known, func(f fault) bool { return !f.Quick })
		}
		return known, nil
	}
	return trial.Choose("fault", names, known, func(f *fault) string { return f.Name })
}

// run runs every trial that was asked for, on servers that they share, and writes the report.
func run(ctx context.Context, o *options) (err error) {
	s, err := startServers(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r := newReport(ctx, o, s)
	fmt.Printf("seed %d, %s, Postgres %s, Kafka %s, %d cores\n", o.seed, r.Tidemark, r.Postgres, r.Kafka, r.Cores)
	if o.kills > 0 {
		r.runKills(ctx, o, s)
	} else {
		r.runFaults(ctx, o, s)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted: %w", ctx.Err())
	}
	errs := []error{trial.WriteReports(r, o.json, o.report)}
	for _, t := range r.Trials {
		if t.Broken != "" {
			errs = append(errs, fmt.Errorf("%s: %s", t.Fault, t.Broken))
		}
	}
	return errors.Join(errs...)
}
