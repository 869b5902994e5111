// Package release_test tries what .goreleaser.yaml builds, as far as that needs no goreleaser; `make snapshot` does it with one.
package release_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// root is the module's directory.
const root = "../.."

// TestTwoBuildsOfACommitAreTheSame builds two clones as a release does, in folders of different names, and compares the bytes. What a
// compiler does with the same input is Go's promise, so that both may take it from one build cache; `make reproducible` does not.
func TestTwoBuildsOfACommitAreTheSame(t *testing.T) {
	if _, err := os.Stat(filepath.Join(root, ".git")); err != nil {
		t.Skipf("not a clone: %v", err)
	}
	dir := t.TempDir()
	one := build(t, filepath.Join(dir, "one"))
	another := build(t, filepath.Join(dir, "a", "longer", "way"))
	first, second := read(t, one), read(t, another)
	if sha256.Sum256(first) != sha256.Sum256(second) {
		t.Errorf("two builds of one commit differ, the first time in byte %d of %d and %d", difference(first, second), len(first), len(second))
	}
	if bytes.Contains(first, []byte(dir)) {
		t.Errorf("the binary has the path %s of its build", dir)
	}

	var version struct{ Version, Commit string }
	if err := json.Unmarshal([]byte(run(t, dir, nil, one, "version", "--json")), &version); err != nil {
		t.Fatal(err)
	}
	commit := strings.TrimSpace(run(t, root, nil, "git", "rev-parse", "HEAD"))
	if version.Version != tag || version.Commit != commit {
		t.Errorf("the binary calls itself %s of %s, want the tag %s of commit %s", version.Version, version.Commit, tag, commit)
	}
}

// tag is one that nothing has.
const tag = "v0.98.7"

// build clones what is committed into dir, tags it, and builds it there, for this machine, as .goreleaser.yaml says.
func build(t *testing.T, dir string) (binary string) {
	t.Helper()
	var release struct {
		Builds []struct{ Env, Flags, Ldflags []string }
	}
	if err := yaml.Unmarshal(read(t, filepath.Join(root, ".goreleaser.yaml")), &release); err != nil {
		t.Fatal(err)
	}
	if len(release.Builds) != 1 {
		t.Fatalf(".goreleaser.yaml has %d builds, want 1", len(release.Builds))
	}
	how := release.Builds[0]
	run(t, root, nil, "git", "clone", "--quiet", "--no-tags", ".", dir)
	run(t, dir, nil, "git", "tag", "--no-sign", tag)
	binary = filepath.Join(dir, "dist", "tidemark")
	args := slices.Concat([]string{"build", "-o", binary}, how.Flags, []string{"-ldflags=" + strings.Join(how.Ldflags, " "), "."})
	run(t, dir, how.Env, "go", args...)
	return binary
}

func run(t *testing.T, dir string, environ []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), environ...)
	var said bytes.Buffer
	cmd.Stderr = &said
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, said.String())
	}
	return string(output)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path) //nolint:gosec // the test's own
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// difference is the place of the first byte in which they differ.
func difference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}
