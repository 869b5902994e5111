package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// platforms are those that binaries are released for. Which modules are linked depends on them.
//
//nolint:gochecknoglobals // a constant
var platforms = []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64"}

// standardLibrary is the name under which the Go standard library is listed.
const standardLibrary = "Go standard library"

// module is something that a binary of tidemark has code of.
type module struct {
	path    string
	version string
	// files are those in which it says what its licence is, and what has to be passed on with it, sorted: of its root, and of the
	// directories of packages that are linked.
	files []string
	// by are the modules whose packages import it.
	by map[string]bool
}

// linked returns what the binary of the module in dir has code of, on any of the platforms: the standard library, and the modules,
// sorted by path.
func linked(ctx context.Context, dir string) ([]*module, error) {
	found := make(map[string]*module)
	for _, platform := range platforms {
		if err := addLinked(ctx, dir, platform, found); err != nil {
			return nil, err
		}
	}
	goroot, err := goCommand(ctx, dir, nil, "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	files, err := licenceFiles(strings.TrimSpace(goroot))
	if err != nil {
		return nil, err
	}
	version, err := goCommand(ctx, dir, nil, "env", "GOVERSION")
	if err != nil {
		return nil, err
	}
	modules := []*module{{path: standardLibrary, version: strings.TrimSpace(version), files: files}}
	for _, m := range found {
		modules = append(modules, m)
	}
	slices.SortFunc(modules, func(a, b *module) int { return cmp.Compare(a.path, b.path) })
	for _, m := range modules {
		slices.Sort(m.files)
		m.files = slices.Compact(m.files)
		if len(m.files) == 0 {
			return nil, fmt.Errorf("%s has no file that says what its licence is", m.path)
		}
	}
	return modules, nil
}

// addLinked adds what is linked on one platform.
func addLinked(ctx context.Context, dir, platform string, found map[string]*module) error {
	system, processor, _ := strings.Cut(platform, "/")
	environ := []string{"CGO_ENABLED=0", "GOOS=" + system, "GOARCH=" + processor}
	const format = "{{.ImportPath}}\t{{.Dir}}\t{{with .Module}}{{if not .Main}}{{.Path}}\t{{.Version}}\t{{.Dir}}{{else}}{{.Path}}\t\t{{end}}{{end}}\t{{join .Imports \" \"}}"
	output, err := goCommand(ctx, dir, environ, "list", "-deps", "-f", format, ".")
	if err != nil {
		return err
	}
	owner := make(map[string]string) // of a package: its module
	imports := make(map[string][]string)
	for line := range strings.Lines(output) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) != 6 {
			continue // of the standard library, which is in no module
		}
		owner[fields[0]], imports[fields[0]] = fields[2], strings.Fields(fields[5])
		if fields[4] == "" {
			continue // our own
		}
		m := found[fields[2]]
		if m == nil {
			m = &module{path: fields[2], version: fields[3], by: make(map[string]bool)}
			found[m.path] = m
		}
		for at := fields[1]; ; at = filepath.Dir(at) { // up to the module's root
			files, err := licenceFiles(at)
			if err != nil {
				return err
			}
			m.files = append(m.files, files...)
			if at == fields[4] || at == filepath.Dir(at) {
				break
			}
		}
	}
	for importer, all := range imports {
		for _, imported := range all {
			if m := found[owner[imported]]; m != nil && owner[importer] != m.path {
				m.by[owner[importer]] = true
			}
		}
	}
	return nil
}

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense|notice|patents)(\.(txt|md))?$`)

func licenceFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for a licence: %w", err)
	}
	var files []string
	for _, entry := range entries {
		if !entry.IsDir() && licenceFile.MatchString(entry.Name()) {
			files = append(files, filepath.Join(dir, entry.Name()))
		}
	}
	return files, nil
}

func goCommand(ctx context.Context, dir string, environ []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), environ...)
	var said bytes.Buffer
	cmd.Stderr = &said
	output, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), errors.Join(err, errors.New(strings.TrimSpace(said.String()))))
	}
	return string(output), nil
}
