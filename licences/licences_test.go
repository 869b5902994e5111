package main

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.yaml.in/yaml/v3"
)

// root is the module's directory.
const root = ".."

//nolint:gochecknoglobals // asked for once for all tests
var all = sync.OnceValues(func() ([]*module, error) { return linked(context.Background(), root) })

func modulesOfBinary(t *testing.T) []*module {
	t.Helper()
	modules, err := all()
	if err != nil {
		t.Fatal(err)
	}
	return modules
}

// TestEveryDependencyIsListedAndAllowed holds docs/dependencies.md against go.mod, against what is linked, and against the licences' texts.
func TestEveryDependencyIsListedAndAllowed(t *testing.T) {
	modules := modulesOfBinary(t)
	inBinary := make(map[string]*module)
	for _, m := range modules {
		inBinary[m.path] = m
	}
	asked, brought := tables(t)
	direct := required(t)

	for _, path := range direct {
		row, listed := asked[path]
		if !listed {
			t.Errorf("go.mod requires %s, and docs/dependencies.md does not say what for", path)
			continue
		}
		m := inBinary[path]
		if want := map[bool]string{true: "yes", false: "no"}[m != nil]; row[1] != want {
			t.Errorf("%s: docs/dependencies.md says in the binary: %s, want %s", path, row[1], want)
		}
		if len(row[2]) < 4 {
			t.Errorf("%s: docs/dependencies.md does not say what for", path)
		}
		if m != nil { // what the tests alone use is not passed on
			holdLicence(t, m, row[0])
		}
	}
	for _, m := range modules {
		if slices.Contains(direct, m.path) {
			continue
		}
		row, listed := brought[m.path]
		if !listed {
			t.Errorf("%s is linked, which %v bring along, and docs/dependencies.md does not list it", m.path, slices.Sorted(maps.Keys(m.by)))
			continue
		}
		holdLicence(t, m, row[0])
		if with := strings.Join(slices.Sorted(maps.Keys(m.by)), ", "); row[1] != with {
			t.Errorf("%s: docs/dependencies.md says that it comes with %s, want %s", m.path, row[1], with)
		}
	}
	for path := range asked {
		if !slices.Contains(direct, path) {
			t.Errorf("docs/dependencies.md lists %s, which go.mod does not require", path)
		}
	}
	for path := range brought {
		if inBinary[path] == nil || slices.Contains(direct, path) {
			t.Errorf("docs/dependencies.md says that %s is brought along, which it is not", path)
		}
	}
}

func holdLicence(t *testing.T, m *module, listed string) {
	t.Helper()
	names, err := m.licences()
	if err != nil {
		t.Error(err)
	} else if want := strings.Join(names, ", "); listed != want {
		t.Errorf("%s: docs/dependencies.md says %s, its licence files %s", m.path, listed, want)
	}
}

// tables reads docs/dependencies.md: the rows of its two tables by module, without the module's own column.
func tables(t *testing.T) (asked, brought map[string][]string) {
	t.Helper()
	asked, brought = make(map[string][]string), make(map[string][]string)
	for line := range strings.SplitSeq(read(t, "docs/dependencies.md"), "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| module ") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		switch len(cells) {
		case 4:
			asked[cells[0]] = cells[1:]
		case 3:
			brought[cells[0]] = cells[1:]
		case 2: // the standard library comes with nothing
			brought[cells[0]] = append(cells[1:], "")
		default:
			t.Errorf("docs/dependencies.md has a row of %d cells: %s", len(cells), line)
		}
	}
	return asked, brought
}

// required are the modules that go.mod requires directly.
func required(t *testing.T) []string {
	t.Helper()
	var paths []string
	for _, found := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(read(t, "go.mod"), -1) {
		paths = append(paths, found[1])
	}
	if len(paths) == 0 {
		t.Fatal("go.mod requires nothing")
	}
	return paths
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestALicenceIsKnownByItsWholeText(t *testing.T) {
	mit := "The MIT License (MIT)\n\nCopyright (c) 2020 Some Body <some@body.example>\n\n" + embedded(t, "MIT")
	bsd := "Copyright 2009 The Authors. All rights reserved.\n\n" + strings.ReplaceAll(embedded(t, "BSD-3-Clause"), "<name>", "Some Body Ltd.")
	clause := "\nThe Software may not be sold.\n"
	for name, c := range map[string]struct {
		text  string
		names []string
		rest  string
	}{
		"MIT":               {mit, []string{"MIT"}, ""},
		"BSD":               {bsd, []string{"BSD-3-Clause"}, ""},
		"reflowed":          {strings.Join(strings.Fields(embedded(t, "MIT")), " "), []string{"MIT"}, ""},
		"Apache, by notice": {"Copyright 2014 gRPC authors.\n\n" + embedded(t, "Apache-2.0_notice"), []string{"Apache-2.0"}, ""},
		"two":               {mit + "\n----\n" + bsd, []string{"BSD-3-Clause", "MIT"}, ""},
		"one more clause":   {mit + clause, []string{"MIT"}, "the software may not be sold"},
		"a clause within":   {strings.Replace(mit, "The above copyright notice", "No competitor may use it.\n\nThe above copyright notice", 1), nil, "*"},
		"a clause without":  {strings.Replace(bsd, "nor the names of its\ncontributors may be used", "", 1), nil, "*"},
		"another":           {"GNU GENERAL PUBLIC LICENSE Version 3", nil, "gnu general public license version 3"},
		"none":              {"", nil, ""},
	} {
		names, rest := identify(c.text)
		if !slices.Equal(names, c.names) || rest != c.rest && (c.rest != "*" || rest == "") {
			t.Errorf("%s: %v and %q, want %v and %q", name, names, rest, c.names, c.rest)
		}
	}
}

func embedded(t *testing.T, name string) string {
	t.Helper()
	return read(t, "licences/known/"+name+".txt")
}

func TestNoticesHaveEveryText(t *testing.T) {
	var b strings.Builder
	if err := notices(&b, modulesOfBinary(t)); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		"github.com/prometheus/client_golang ", "SoundCloud Ltd.", // of a NOTICE
		"github.com/twmb/franz-go ", "Travis Bischel",
		standardLibrary + " go", "Additional IP Rights Grant",
		"github.com/prometheus/procfs ", // linked on Linux alone
	} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("the notices have no %q", part)
		}
	}
}

func TestThePlatformsAreThoseOfTheRelease(t *testing.T) {
	var release struct {
		Builds []struct{ Goos, Goarch []string }
	}
	if err := yaml.Unmarshal([]byte(read(t, ".goreleaser.yaml")), &release); err != nil {
		t.Fatal(err)
	}
	var built []string
	for _, build := range release.Builds {
		for _, system := range build.Goos {
			for _, processor := range build.Goarch {
				built = append(built, system+"/"+processor)
			}
		}
	}
	if !slices.Equal(built, platforms) {
		t.Errorf(".goreleaser.yaml builds %v, and the notices are of %v", built, platforms)
	}
}
