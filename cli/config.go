package cli

import "github.com/spf13/cobra"

func (a *app) configCommand() *cobra.Command {
	var defaults bool
	c := &cobra.Command{
		Use:   "config",
		Short: "Print the effective configuration, secrets redacted",
		Long: `config prints the configuration that the other commands would run with: the built-in defaults, the file above
them and the environment above both, secrets redacted. If anything in it is wrong, all of it is told at once.`,
		Example: `  tidemark config --defaults > config.yaml   # a commented file to start from
  TIDEMARK_LOG_LEVEL=debug tidemark config   # what is in effect`,
		RunE: func(*cobra.Command, []string) error {
			text := a.defaults
			if !defaults {
				cfg, _, err := a.load()
				if err != nil {
					return err
				}
				text = cfg.Redacted()
			}
			a.printf("%s", text)
			return nil
		},
	}
	c.Flags().BoolVar(&defaults, "defaults", false, "print the built-in config.yaml with its comments instead")
	return c
}
