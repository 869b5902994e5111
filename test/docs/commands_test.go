package docs_test

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// command is what --help says of one.
type command struct {
	path     string // such as parked list; "" is tidemark itself
	short    string // from the list of its parent
	long     string
	usage    string
	examples []string
	flags    []commandFlag // its own, and those that its subcommands have from it
	parent   *command
}

type commandFlag struct {
	name  string // --json
	value string // what it takes: string, int, duration; "" if nothing
	usual string // the default, as it is said; "" if none is said
	usage string
}

// ask runs tidemark and returns what it prints on stdout.
func ask(t *testing.T, env []string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary(t), args...)
	cmd.Env = environment(env...)
	cmd.Dir = t.TempDir() // where no config.yaml is
	out, err := cmd.Output()
	if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Output wraps nothing
		t.Fatalf("tidemark %s: %v\n%s", strings.Join(args, " "), err, exit.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// commands are all commands, each before its own subcommands.
func commands(t *testing.T) []*command {
	t.Helper()
	return subtree(t, &command{})
}

func subtree(t *testing.T, c *command) []*command {
	t.Helper()
	subs := c.read(ask(t, nil, append([]string{"help"}, strings.Fields(c.path)...)...))
	all := []*command{c}
	for _, sub := range subs {
		sub.parent = c
		sub.path = strings.TrimSpace(c.path + " " + sub.path)
		all = append(all, subtree(t, sub)...)
	}
	return all
}

var (
	headings = regexp.MustCompile(`(?m)^(Usage|Examples|Available Commands|Flags|Global Flags):\n`)
	helpFlag = regexp.MustCompile(`^ +(?:-\w, )?(--[a-z-]+)(?: (\S+))? {2,}(.*)$`)
	standard = regexp.MustCompile(` \(default ([^()]*)\)$`)
)

// read takes apart what --help prints, and returns the subcommands, of which it knows the name and the short text.
func (c *command) read(help string) (subs []*command) {
	cuts := headings.FindAllStringSubmatchIndex(help, -1)
	c.long = strings.TrimSpace(help[:cuts[0][0]])
	for i, cut := range cuts {
		end := len(help)
		if i+1 < len(cuts) {
			end = cuts[i+1][0]
		}
		var lines []string
		for line := range strings.Lines(help[cut[1]:end]) {
			if line = strings.TrimRight(line, "\n"); line != "" && !strings.HasPrefix(line, "Use ") {
				lines = append(lines, line)
			}
		}
		switch help[cut[2]:cut[3]] {
		case "Usage":
			c.usage = strings.TrimSpace(lines[0])
		case "Examples":
			for _, line := range lines {
				c.examples = append(c.examples, strings.TrimPrefix(line, "  "))
			}
		case "Available Commands":
			for _, line := range lines {
				name, short, _ := strings.Cut(strings.TrimSpace(line), " ")
				subs = append(subs, &command{path: name, short: strings.TrimSpace(short)})
			}
		case "Flags":
			for _, line := range lines {
				c.flags = append(c.flags, readFlag(line))
			}
		default: // the parent's flags, which it has itself
		}
	}
	return subs
}

func readFlag(line string) commandFlag {
	m := helpFlag.FindStringSubmatch(line)
	if m == nil {
		return commandFlag{name: "not read: " + line}
	}
	f := commandFlag{name: m[1], value: m[2], usage: m[3]}
	if d := standard.FindStringSubmatch(f.usage); d != nil {
		f.usual, f.usage = d[1], strings.TrimSuffix(f.usage, d[0])
	}
	return f
}

// takes reports whether the command knows a flag.
func (c *command) takes(flag string) bool {
	for at := c; at != nil; at = at.parent {
		if slices.ContainsFunc(at.flags, func(f commandFlag) bool { return f.name == flag }) {
			return true
		}
	}
	return false
}

// commandPages is the part of docs/reference/commands.md that is made from what --help says.
func commandPages(p *program) string {
	var b strings.Builder
	b.WriteString("| command | does |\n|---|---|\n")
	for _, c := range p.commands {
		if c.path != "" {
			fmt.Fprintf(&b, "| [`%s`](#tidemark-%s) | %s |\n", c.path, strings.ReplaceAll(c.path, " ", "-"), cell(c.short))
		}
	}
	for _, c := range p.commands {
		if c.path != "" {
			c.write(&b)
		}
	}
	return b.String()
}

func (c *command) write(b *strings.Builder) {
	fmt.Fprintf(b, "\n%s tidemark %s\n\n```text\n%s\n```\n\n", strings.Repeat("#", 2+strings.Count(c.path, " ")), c.path, c.usage)
	b.WriteString(prose(c.long))
	first := true
	for _, f := range c.flags {
		if f.name == "--help" {
			continue
		}
		if first {
			b.WriteString("\n| flag | default | |\n|---|---|---|\n")
			first = false
		}
		name := strings.TrimSpace(f.name + " " + f.value)
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", name, code(strings.Trim(f.usual, `"`)), cell(f.usage))
	}
	if len(c.examples) > 0 {
		fmt.Fprintf(b, "\n<!-- not run: examples of the help, with ids and servers of nobody -->\n```sh\n%s\n```\n", strings.Join(c.examples, "\n"))
	}
}

// prose is text of the help as Markdown: what is indented there stands as it is.
func prose(text string) string {
	var b strings.Builder
	verbatim := false
	for line := range strings.SplitSeq(text, "\n") {
		indented := strings.HasPrefix(line, " ")
		if indented != verbatim && (line != "" || !verbatim) {
			b.WriteString(map[bool]string{true: "```text\n", false: "```\n"}[indented])
			verbatim = indented
		}
		if verbatim && line == "" {
			b.WriteString("```\n")
			verbatim = false
		}
		if !verbatim {
			line = strings.NewReplacer("*", `\*`, "<", `\<`, "_ ", `\_ `, "`", "\\`").Replace(line)
		}
		b.WriteString(line + "\n")
	}
	if verbatim {
		b.WriteString("```\n")
	}
	return b.String()
}

// cell is text that may stand in a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "*", `\*`, "<", `\<`).Replace(text)
}

// code is a value in a table; what is words stays so.
func code(value string) string {
	if value == "" || strings.Contains(value, " ") {
		return value
	}
	return "`" + strings.ReplaceAll(value, "|", `\|`) + "`"
}
