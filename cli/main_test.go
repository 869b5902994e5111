package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/config"
)

const dsn = "TIDEMARK_SOURCE_DSN=postgres://relay:hunter2@db:5432/shop"

// tidemark runs a command as the process would, in an empty directory, and returns its output and exit status.
func tidemark(t *testing.T, args []string, environ ...string) (stdout, stderr string, status int) {
	t.Helper()
	defaults, err := os.ReadFile("../config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	defer t.Chdir(here)
	var out, errs bytes.Buffer
	status = Main(t.Context(), defaults, args, &out, &errs, environ)
	return out.String(), errs.String(), status
}

func TestExitStatusAndTheOneLineAboutIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("source:\n  slto: a\nlog: {level: loud}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		args   string
		status int
		stderr string // its last line, or all of it after the last "tidemark: "
	}{
		"no command":            {"", 2, "no command given"},
		"unknown command":       {"frobnicate", 2, `unknown command "frobnicate" (see tidemark --help)`},
		"nearly a command":      {"confg", 2, `unknown command "confg"; is config meant? (see tidemark --help)`},
		"unknown flag":          {"version --jsn", 2, "unknown flag: --jsn (see tidemark version --help)"},
		"flag before command":   {"--jsn version", 2, "unknown flag: --jsn (see tidemark --help)"},
		"argument missing":      {"config --config", 2, "flag needs an argument: --config (see tidemark config --help)"},
		"argument too many":     {"version now", 2, `unexpected argument "now" (see tidemark version --help)`},
		"unknown shell":         {"completion cobol", 2, `unknown command "cobol" (see tidemark completion --help)`},
		"help for nothing":      {"help frobnicate", 2, `unknown command "frobnicate" (see tidemark --help)`},
		"help for less":         {"help config now", 2, `unknown command "now" (see tidemark config --help)`},
		"configuration missing": {"config --config missing.yaml", 2, "the configuration has a problem:\n  the configuration file cannot be read: open missing.yaml: no such file or directory"},
		"configuration wrong": {
			"config --config " + file, 2,
			"the configuration has 2 problems:\n" +
				"  " + file + ":2: source.slto: unknown key; the nearest known key is source.slot\n" +
				"  " + file + `:3: log.level: "loud" is none of trace, debug, info, warn, error`,
		},
		"verify, no time": {
			"verify --since soon", 2,
			"--since soon: give a duration such as 24h, or a time such as 2026-11-22T10:00:00Z (see tidemark verify --help)",
		},
		"verify, no share":         {"verify --sample 120%", 2, "--sample 120%: give a share such as 1% or 0.01 (see tidemark verify --help)"},
		"verify, half of two":      {"verify --repair-undecidable", 2, "--repair-undecidable goes with --repair (see tidemark verify --help)"},
		"verify, less than nobody": {"verify --limit -1", 2, "--limit -1: give 0 for all, or a number above it (see tidemark verify --help)"},

		"prune, how old":    {"prune", 2, "--older-than is required, such as 72h (see tidemark prune --help)"},
		"prune, the future": {"prune --older-than 2200-01-01T00:00:00Z", 2, "--older-than 2200-01-01T00:00:00Z: that is still to come (see tidemark prune --help)"},
		"replay, what":      {"replay", 2, "say which rows: --id, --key, --type, --from, --to; or --all (see tidemark replay --help)"},
		"replay, what now":  {"replay --all --id 1", 2, "--all goes with none of --id, --key, --type, --from and --to (see tidemark replay --help)"},
		"replay, when": {
			"replay --from soon", 2,
			"--from soon: give a duration such as 24h, or a time such as 2026-11-22T10:00:00Z, or a position such as 00000000016b3748-00000000 (see tidemark replay --help)",
		},
		"receipt, of what":       {"receipt", 2, "give the ID of an event (see tidemark receipt --help)"},
		"receipt, a key of what": {"receipt 1 --key 2", 2, "--key goes with --topic (see tidemark receipt --help)"},

		"help":          {"help config", 0, ""},
		"help, a flag":  {"config --help", 0, ""},
		"all is well":   {"config", 0, ""},
		"version":       {"version", 0, ""},
		"the built-ins": {"config --defaults --config missing.yaml", 0, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, status := tidemark(t, strings.Fields(test.args), dsn)
			if status != test.status {
				t.Errorf("exit status %d, want %d", status, test.status)
			}
			want := ""
			if test.stderr != "" {
				want = "tidemark: " + test.stderr + "\n"
			}
			if test.args == "" { // the help comes first
				_, stderr, _ = strings.Cut(stderr, "\ntidemark: ")
				stderr = "tidemark: " + stderr
			}
			if stderr != want {
				t.Errorf("stderr %q, want %q", stderr, want)
			}
			if (stdout == "") != (status != 0) {
				t.Errorf("stdout after exit status %d: %q", status, stdout)
			}
		})
	}
}

// refused is what a part returns where going on would hide a gap.
type refused bool

func (refused) Error() string   { return "slot tidemark is missing" }
func (r refused) Refused() bool { return bool(r) }

func TestExitStatusByError(t *testing.T) {
	_, invalid := config.Load(nil, "", nil)
	tests := []struct {
		err  error
		want int
	}{
		{errors.New("any"), 1},
		{invalid, 2},
		{fmt.Errorf("load: %w", invalid), 2},
		{&usageError{errors.New("any")}, 2},
		{refused(true), 3},
		{fmt.Errorf("start: %w", errors.Join(errors.New("first"), refused(true))), 3},
		{refused(false), 1},
	}
	for _, test := range tests {
		if got := exitStatus(test.err); got != test.want {
			t.Errorf("%v: exit status %d, want %d", test.err, got, test.want)
		}
	}
}

// TestFinishTellsUsageFromFailure: what cobra finds wrong is the caller's mistake, what a command returns is not.
func TestFinishTellsUsageFromFailure(t *testing.T) {
	tests := map[string]int{
		"group":                   2,
		"group nope":              2,
		"group leaf":              2, // the flag is required
		"group leaf --id":         2,
		"group leaf --id=1 --all": 2, // not together
		"group leaf --id=1 x y":   2,
		"group leaf --id=1 x":     1,
	}
	for args, want := range tests {
		a := &app{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
		root := a.root()
		leaf := &cobra.Command{
			Use: "leaf ID", Args: cobra.MaximumNArgs(1),
			RunE: func(*cobra.Command, []string) error { return errors.New("failed") },
		}
		leaf.Flags().String("id", "", "")
		leaf.Flags().Bool("all", false, "")
		if err := leaf.MarkFlagRequired("id"); err != nil {
			t.Fatal(err)
		}
		leaf.MarkFlagsMutuallyExclusive("id", "all")
		group := &cobra.Command{Use: "group"}
		group.AddCommand(leaf)
		a.finish(group)
		root.AddCommand(group)
		root.SetArgs(strings.Fields(args))
		err := root.ExecuteContext(t.Context())
		if err == nil {
			t.Errorf("%s: no error", args)
		} else if got := exitStatus(err); got != want {
			t.Errorf("%s: exit status %d, want %d: %v", args, got, want, err)
		}
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Name() == "completion" { // cobra's own
			return
		}
		if c.Short == "" || !strings.HasSuffix(strings.TrimSpace(c.Long), ".") || c.Example == "" {
			t.Errorf("%s lacks a sentence or an example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit((&app{}).root())
}

// brokenPipe is a stdout that is gone.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestAResultThatCannotBeWrittenIsAFailure(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"version", "--json"}, {"config", "--defaults"}, {"help"}} {
		var stderr bytes.Buffer
		status := Main(t.Context(), []byte("log: {}"), args, brokenPipe{}, &stderr, nil)
		if status != exitFailed || stderr.String() != "tidemark: write the result: broken pipe\n" {
			t.Errorf("%v: exit status %d, %q", args, status, stderr.String())
		}
	}
}

func TestConfigPrintsWhatIsInEffectWithoutSecrets(t *testing.T) {
	stdout, stderr, status := tidemark(t, []string{"config"}, dsn, "TIDEMARK_HTTP_TOKEN=hunter2", "TIDEMARK_SOURCE_SLOT=orders", "TIDMARK_HTTP_TOKEN=hunter2")
	if status != 0 {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	if strings.Contains(stdout+stderr, "hunter2") {
		t.Errorf("shows a secret:\n%s%s", stdout, stderr)
	}
	for _, want := range []string{"dsn: postgres://relay:[redacted]@db:5432/shop", "token: '[redacted]'", "slot: orders", "table: public.outbox"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %s in:\n%s", want, stdout)
		}
	}
	var line struct{ Level, Component, Warning, Time string }
	if err := json.Unmarshal([]byte(stderr), &line); err != nil {
		t.Fatalf("no JSON line: %v\n%s", err, stderr)
	}
	if line.Level != "warn" || line.Component != "config" || !strings.Contains(line.Warning, "TIDMARK_HTTP_TOKEN") || line.Time == "" {
		t.Errorf("warning: %s", stderr)
	}
}

func TestConfigDefaultsIsTheFileItself(t *testing.T) {
	stdout, stderr, status := tidemark(t, []string{"config", "--defaults"})
	want, err := os.ReadFile("../config.yaml")
	if err != nil || status != 0 || stderr != "" || stdout != string(want) {
		t.Errorf("exit status %d, %q, %v\n%s", status, stderr, err, stdout)
	}
}

func TestVersion(t *testing.T) {
	stdout, _, _ := tidemark(t, []string{"version"})
	if lines := strings.Split(stdout, "\n"); len(lines) != 4 || !strings.HasPrefix(lines[0], "tidemark ") || !strings.HasPrefix(lines[1], "commit ") || lines[2] != runtime.Version() {
		t.Errorf("printed %q", stdout)
	}
	stdout, _, _ = tidemark(t, []string{"version", "--json"})
	var got map[string]string
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || len(got) != 3 || got["version"] == "" || got["commit"] == "" || got["go"] != runtime.Version() {
		t.Errorf("printed %q: %v", stdout, err)
	}
}

func TestNewBuild(t *testing.T) {
	info := &debug.BuildInfo{}
	if got := newBuild(info); got.Version != "(devel)" || got.Commit != "unknown" {
		t.Errorf("nothing known: %+v", got)
	}
	info.Main.Version = "v1.2.3"
	info.Settings = []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "false"}}
	if got := newBuild(info); got.Version != "v1.2.3" || got.Commit != "abc" {
		t.Errorf("a release: %+v", got)
	}
	info.Settings[1].Value = "true"
	if got := newBuild(info); got.Commit != "abc-dirty" {
		t.Errorf("changed: %+v", got)
	}
}
