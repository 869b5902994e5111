package trial

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tidemark/tidemark/devstack"
)

// Setting is how a run was made, and on what: the beginning of every report.
type Setting struct {
	Date     time.Time `json:"date"`
	Seed     uint64    `json:"seed"`
	Command  string    `json:"command"` // runs it again, as far as a seed can
	Tidemark string    `json:"tidemark"`
	System   string    `json:"system"`
	Cores    int       `json:"cores"`
	Memory   string    `json:"memory"` // of the machine
}

// NewSetting describes a run of the command in folder (./test/…), with these arguments, that begins now.
func NewSetting(ctx context.Context, folder string, args []string, binary string, seed uint64) Setting {
	s := Setting{
		Date: time.Now().UTC().Truncate(time.Second), Seed: seed, Command: command(folder, args, seed), Tidemark: "unknown",
		System: devstack.System(), Cores: runtime.NumCPU(), Memory: memory(),
	}
	if out, err := exec.CommandContext(ctx, binary, "version").Output(); err == nil {
		s.Tidemark = strings.Join(strings.Fields(string(out)), " ")
	}
	return s
}

func command(folder string, args []string, seed uint64) string {
	text := strings.Join(args, " ")
	if !strings.Contains(text, "-seed") {
		text = strings.TrimSpace(fmt.Sprintf("--seed %d %s", seed, text))
	}
	return "go run " + folder + " " + text
}

// memory is the machine's, where /proc tells it.
func memory() string {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return "unknown"
	}
	var kilobytes int64
	if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kilobytes); err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%.0f GiB", float64(kilobytes)/(1<<20))
}

// WriteReports writes report as JSON and as Markdown, each to its file; "" is none.
func WriteReports(report interface{ Markdown(w io.Writer) error }, jsonPath, markdownPath string) error {
	var errs []error
	if jsonPath != "" {
		errs = append(errs, write(jsonPath, func(w io.Writer) error {
			encoder := json.NewEncoder(w)
			encoder.SetIndent("", "  ")
			return encoder.Encode(report)
		}))
	}
	if markdownPath != "" {
		errs = append(errs, write(markdownPath, report.Markdown))
	}
	return errors.Join(errs...)
}

// write writes a file beside its place first, so that a report is never half of one.
func write(path string, content func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	err = errors.Join(content(f), f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}

// Choose returns those of known that are named, with commas between the names. What says what they are, for the error.
func Choose[T any](what, names string, known []T, nameOf func(*T) string) ([]T, error) {
	var chosen []T
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(known, func(v T) bool { return nameOf(&v) == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("no %s is called %q; --list lists them", what, name)
		}
		chosen = append(chosen, known[i])
	}
	return chosen, nil
}
