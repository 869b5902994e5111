package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/config"
)

// app is what every command has at hand.
type app struct {
	defaults       []byte    // the text of config.yaml
	stdout, stderr io.Writer // Main looks after the errors of stdout
	environ        []string
	configFile     string // --config; empty is the usual place
}

// root returns the command tree. A new command is a file with a method that returns it, and a line here.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tidemark",
		Short: "Publish the rows of a Postgres outbox table to Kafka",
		Long: `tidemark follows the outbox tables of a Postgres database by logical replication and publishes each committed
row to Kafka: in order for each key, and confirmed to Postgres only when Kafka has it.`,
		Example:           "  TIDEMARK_SOURCE_DSN=postgres://relay@localhost/shop tidemark run",
		SilenceErrors:     true, // Main prints them
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.PersistentFlags().StringVar(&a.configFile, "config", "", "the configuration file (default ./config.yaml, if it is there)")
	root.AddCommand(
		a.runCommand(),
		a.demoCommand(),
		a.initCommand(),
		a.doctorCommand(),
		a.statusCommand(),
		a.checkpointCommand(),
		a.parkedCommand(),
		a.verifyCommand(),
		a.receiptCommand(),
		a.replayCommand(),
		a.pruneCommand(),
		a.benchCommand(),
		a.asyncapiCommand(),
		a.configCommand(),
		a.versionCommand(),
	)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(wrongUsage)
	root.SetHelpCommand(helpCommand())
	root.InitDefaultHelpCmd() // now, so that finish sees them
	root.InitDefaultCompletionCmd()
	a.finish(root)
	return root
}

// finish gives a command, and those under it, what would else be repeated in each. Every complaint of cobra becomes a
// usageError, and a command that only holds others complains about an unknown one, which cobra would answer with help
// and exit status 0.
func (a *app) finish(c *cobra.Command) {
	for _, sub := range c.Commands() {
		a.finish(sub)
	}
	if c.HasSubCommands() && !c.Runnable() {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return wrongUsage(c, unknownCommand(c, args[0]))
			}
			c.SetOut(a.stderr) // help that was not asked for is no result
			if err := c.Help(); err != nil {
				return fmt.Errorf("print the help: %w", err)
			}
			return &usageError{errors.New("no command given")}
		}
		return
	}
	args := c.Args
	if args == nil {
		args = func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unexpected argument %q", args[0])
			}
			return nil
		}
	}
	c.Args = func(c *cobra.Command, given []string) error {
		if err := args(c, given); err != nil {
			return wrongUsage(c, err)
		}
		return nil
	}
	before := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error {
		// Cobra checks these only after PreRunE, and what it returns could not be told from the command's own error.
		if err := c.ValidateRequiredFlags(); err != nil {
			return wrongUsage(c, err)
		}
		if err := c.ValidateFlagGroups(); err != nil {
			return wrongUsage(c, err)
		}
		if before == nil {
			return nil
		}
		return before(c, args)
	}
}

// helpCommand is cobra's, but for the exit status after an unknown command.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [command]",
		Short:   "Explain a command",
		Long:    "help explains a command, as --help does.",
		Example: "  tidemark help config",
		Args:    cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			about := c.Root()
			for _, name := range args {
				sub, _, err := about.Find([]string{name})
				if err != nil || sub == about {
					return wrongUsage(about, unknownCommand(about, name))
				}
				about = sub
			}
			about.InitDefaultHelpFlag() // or the help lists no --help
			return about.Help()
		},
	}
}

func unknownCommand(c *cobra.Command, name string) error {
	meant := ""
	c.SuggestionsMinimumDistance = 2 // cobra sets it on its own way to suggestions, which this is not
	if suggestions := c.SuggestionsFor(name); len(suggestions) > 0 {
		meant = "; is " + strings.Join(suggestions, " or ") + " meant?"
	}
	return fmt.Errorf("unknown command %q%s", name, meant)
}

// wrongUsage marks an error as the caller's, and says where to read more.
func wrongUsage(c *cobra.Command, err error) error {
	return &usageError{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
}

// load reads the configuration and builds the logger that it asks for. What looks wrong in the configuration is logged
// before anything else.
func (a *app) load() (*config.Config, zerolog.Logger, error) {
	cfg, err := config.Load(a.defaults, a.configFile, a.environ)
	if err != nil {
		return nil, zerolog.Nop(), err
	}
	log, err := newLogger(cfg.Log, a.stderr, isTerminal(a.stderr))
	if err != nil {
		return nil, zerolog.Nop(), err
	}
	for _, w := range cfg.Warnings {
		log.Warn().Str("component", "config").Str("warning", w).Msg("the configuration may not say what is meant")
	}
	return cfg, log, nil
}

// printf prints a result.
func (a *app) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(a.stdout, format, args...) // Main looks after the error
}
