package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tidemark/tidemark/demo"
)

// unattended is how long the demo writes where nobody is there to press Ctrl-C.
const unattended = 20 * time.Second

func (a *app) demoCommand() *cobra.Command {
	o := demo.Options{Rate: 500}
	var kill bool
	command := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole path on one screen: nothing needs to be installed",
		Long: `demo starts a Postgres and an in-process Kafka of its own, has writers commit and roll back transactions, and runs the
relay between them exactly as tidemark run does. A reader holds what arrives in Kafka against what was committed:
nothing lost, nothing doubled, each key in order, nothing that was rolled back.

In the end it lets everything drain and prints what was found; the exit status is 1 if anything was wrong. It leaves
nothing behind but the Postgres that it fetched the first time, in the user's cache. It reads no configuration.`,
		Example: `  tidemark demo                    # until Ctrl-C
  tidemark demo --for 20s --kill   # kill the relay again and again`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case cmd.Flags().Changed("config"):
				return wrongUsage(cmd, errors.New("demo reads no configuration"))
			case o.Rate < 1:
				return wrongUsage(cmd, fmt.Errorf("--rate %d: at least one row a second", o.Rate))
			case o.For < 0:
				return wrongUsage(cmd, fmt.Errorf("--for %v: not less than 0", o.For))
			}
			if !cmd.Flags().Changed("for") && a.terminal() == nil {
				o.For = unattended
			}
			if kill {
				o.KillEvery = 3 * time.Second
			}
			return a.demo(cmd.Context(), o)
		},
	}
	command.Flags().DurationVar(&o.For, "for", 0, "how long to write; 0: until Ctrl-C (the default is 20s if this is not a terminal)")
	command.Flags().IntVar(&o.Rate, "rate", o.Rate, "committed rows a second")
	command.Flags().BoolVar(&kill, "kill", false, "run the relay as a process of its own, and SIGKILL it every few seconds")
	command.Flags().BoolVar(&o.Verbose, "verbose", false, "print the relay's log; plain lines instead of the screen")
	return command
}

func (a *app) demo(ctx context.Context, o demo.Options) error {
	// A window that is closed and a pipe that nobody reads any more end the demo like Ctrl-C does: it has to clean up.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	if err := a.forgetPostgres(); err != nil {
		return err
	}
	var err error
	if o.Executable, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program, to run it again: %w", err)
	}
	o.Run = func(ctx context.Context, args, environ []string, log io.Writer) int {
		return Main(ctx, a.defaults, args, log, log, environ)
	}
	o.Out, o.Err = a.stdout, a.stderr
	if f := a.terminal(); f != nil && !o.Verbose {
		o.Terminal = &demo.Terminal{Size: sizeOf(f), Color: a.variable("NO_COLOR") == ""}
	}
	_, err = demo.Run(ctx, o)
	return err
}

// terminal returns stdout if it is a terminal that understands escape sequences, else nil.
func (a *app) terminal() *os.File {
	out, ok := a.stdout.(*results)
	if !ok || !isTerminal(out.to) || a.variable("TERM") == "dumb" {
		return nil
	}
	f, _ := out.to.(*os.File)
	return f
}

func sizeOf(f *os.File) func() (columns, rows int) {
	return func() (columns, rows int) {
		columns, rows, err := term.GetSize(int(f.Fd()))
		if err != nil || columns == 0 || rows == 0 {
			return 80, 24
		}
		return columns, rows
	}
}

func (a *app) variable(name string) string {
	for _, v := range slices.Backward(a.environ) {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}
