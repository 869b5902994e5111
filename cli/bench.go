package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/bench"
)

// benchFlags are what the command line adds to what is measured.
type benchFlags struct {
	bench.Options
	json   bool
	suite  bool
	report string
}

func (a *app) benchCommand() *cobra.Command {
	f := benchFlags{Options: bench.Options{Load: bench.DefaultLoad()}}
	command := &cobra.Command{
		Use:   "bench",
		Short: "Measure how fast a backlog drains, beside a raw reader, and how long a row takes",
		Long: `bench fills a backlog in a scratch database and drains it again and again: with a raw reader, which reads the
replication protocol and throws it away, and in turns with it with tidemark run, as a process of its own, from its start
to the last record that a consumer can read. The ratio of the two is what can be compared between machines. Then it
commits rows at given rates, and measures from the moment the COMMIT is sent to the moment a consumer has the record.

It starts a Postgres and a Kafka of its own (a real one if Java 17 and Maven are there, else an imitation, which it says),
unless --source and --brokers name servers. On those it makes a database, slots and topics whose names begin with
tidemark_bench_, and leaves none of them behind, also after Ctrl-C. It reads no configuration; --set sets a key of the
relay's.

--beside measures another relay on the same backlog: a shell command that finds in its environment where the backlog is
and where it goes (BENCH_HOST, BENCH_PORT, BENCH_USER, BENCH_PASSWORD, BENCH_DATABASE, BENCH_TABLES, BENCH_SLOT,
BENCH_PUBLICATION, BENCH_BROKERS, BENCH_TOPIC_PREFIX), a scratch directory (BENCH_DIR), and ends at SIGTERM.`,
		Example: `  tidemark bench                                     # a million rows
  tidemark bench --rows 100000 --transaction 1 --runs 5
  tidemark bench --suite --rows 100000               # the cases in which a cliff would show
  tidemark bench --beside ./other-relay.sh --report bench.html`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch err := f.Load.Check(); {
			case cmd.Flags().Changed("config"):
				return wrongUsage(cmd, errors.New("bench reads no configuration; --source, --brokers and --set say what it needs to know"))
			case err != nil:
				return wrongUsage(cmd, err)
			case f.Runs < 1:
				return wrongUsage(cmd, fmt.Errorf("--runs %d: at least one", f.Runs))
			case f.Load.TLS && (f.Source != "" || len(f.Brokers) > 0):
				return wrongUsage(cmd, errors.New("--tls is between embedded servers; leave out --source and --brokers"))
			case f.For < 0 || f.Idle < 0:
				return wrongUsage(cmd, errors.New("--for and --idle: not less than 0"))
			}
			return a.bench(cmd.Context(), f)
		},
	}
	flags := command.Flags()
	l := &f.Load
	flags.IntVar(&l.Rows, "rows", l.Rows, "rows of the backlog")
	flags.IntVar(&l.Size, "size", l.Size, "bytes of a row's payload; a row has some 100 more on the wire")
	flags.IntVar(&l.PerTransaction, "transaction", l.PerTransaction, "rows a transaction")
	flags.IntVar(&l.Tables, "tables", l.Tables, "outbox tables, each with a topic of its own")
	flags.IntVar(&l.Keys, "keys", l.Keys, "keys")
	flags.IntVar(&l.Partitions, "partitions", l.Partitions, "partitions of a topic")
	flags.BoolVar(&l.TLS, "tls", false, "relay and raw reader reach Postgres and Kafka, embedded ones, through TLS")
	flags.StringArrayVar(&l.Settings, "set", nil, "a configuration key of the relay, key=value; may be repeated")
	flags.StringVar(&f.Source, "source", "", "DSN of a Postgres on which databases may be created (default an embedded one)")
	flags.StringSliceVar(&f.Brokers, "brokers", nil, "Kafka brokers, host:port (default an embedded one)")
	flags.IntVar(&f.Runs, "runs", 1, "drain the backlog so many times; medians are reported")
	flags.IntSliceVar(&f.Rates, "rates", []int{500, 0}, "rows a second for the latencies; 0: half of what writers, relay and a consumer get through together")
	flags.DurationVar(&f.For, "for", 10*time.Second, "how long each rate is kept up; 0: no latencies")
	flags.DurationVar(&f.Idle, "idle", 10*time.Second, "how long the relay is watched doing nothing; 0: not")
	flags.StringVar(&f.Beside, "beside", "", "a command that drains the same backlog")
	flags.BoolVar(&f.suite, "suite", false, "a table of cases around the given load; no latencies")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	flags.StringVar(&f.report, "report", "", "write a page with plots to this file; tables in Markdown, if its name ends in .md")
	return command
}

func (a *app) bench(ctx context.Context, f benchFlags) error {
	// A window that is closed and a pipe that nobody reads any more end it like Ctrl-C does: it has to clean up.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	if f.Source == "" {
		if err := a.forgetPostgres(); err != nil {
			return err
		}
	}
	o := f.Options
	o.Version = buildInfo().Version
	var err error
	if o.Executable, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program, to run it again: %w", err)
	}
	if f.suite {
		o.Cases = bench.Suite(o.Load)
		o.For, o.Idle = 0, 0
	}
	o.Progress = a.benchProgress()
	result, err := bench.Run(ctx, o)
	if isTerminal(a.stderr) {
		fmt.Fprint(a.stderr, "\r\x1b[K") //nolint:errcheck // as above
	}
	if ctx.Err() != nil {
		return errors.New("interrupted; everything has been removed again")
	}
	if err != nil {
		return err
	}
	if f.report != "" {
		if err := writeReport(f.report, result); err != nil {
			return err
		}
	}
	if f.json {
		return json.NewEncoder(a.stdout).Encode(result)
	}
	return result.Text(a.stdout)
}

// benchProgress returns what shows how far it is: a line that the next one takes the place of on a terminal, else a line
// now and then.
func (a *app) benchProgress() func(string) {
	began := time.Now()
	var said time.Time
	var before string
	return func(text string) {
		if isTerminal(a.stderr) {
			fmt.Fprintf(a.stderr, "\r%s\x1b[K", text) //nolint:errcheck // only somebody who waits reads it
			return
		}
		activity, _, _ := strings.Cut(text, ",")
		if activity == before && time.Since(said) < 10*time.Second {
			return
		}
		before, said = activity, time.Now()
		fmt.Fprintf(a.stderr, "%4.0fs %s\n", time.Since(began).Seconds(), text) //nolint:errcheck // as above
	}
}

func writeReport(path string, r *bench.Result) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // never half of one
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	write := r.HTML
	if filepath.Ext(path) == ".md" {
		write = r.Markdown
	}
	err = errors.Join(write(file), file.Chmod(0o644), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write the report: %w", err), os.Remove(file.Name()))
	}
	return nil
}

// forgetPostgres takes out of the environment what is about a real server: it would have a say in the connections to the
// embedded one.
func (a *app) forgetPostgres() error {
	for _, variable := range a.environ {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "PG") {
			if err := os.Unsetenv(name); err != nil {
				return fmt.Errorf("clear the environment: %w", err)
			}
		}
	}
	return nil
}
