package cli

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// build says what this binary was made of.
type build struct {
	Version string `json:"version"` // the tag, or a pseudo-version; "(devel)" where the build had no repository
	Commit  string `json:"commit"`  // "unknown" where the build had no repository; "-dirty" if it was not all committed
	Go      string `json:"go"`
}

// buildInfo reads what the Go command has written into the binary.
func buildInfo() build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return newBuild(info)
}

func newBuild(info *debug.BuildInfo) build {
	b := build{Version: info.Main.Version, Go: runtime.Version()}
	dirty := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.Commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if b.Version == "" {
		b.Version = "(devel)"
	}
	if b.Commit == "" {
		b.Commit = "unknown"
	} else {
		b.Commit += dirty
	}
	return b
}

func (a *app) versionCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print version, commit and Go version",
		Long:    `version prints the version, the commit and the Go version that this binary was built from.`,
		Example: "  tidemark version --json",
		RunE: func(*cobra.Command, []string) error {
			b := buildInfo()
			if !asJSON {
				a.printf("tidemark %s\ncommit %s\n%s\n", b.Version, b.Commit, b.Go)
				return nil
			}
			text, err := json.Marshal(b)
			if err != nil {
				return fmt.Errorf("encode the version: %w", err)
			}
			a.printf("%s\n", text)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}
