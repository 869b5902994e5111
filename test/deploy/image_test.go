package deploy_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// dockerfile is what the Dockerfile says, as far as this package builds and runs it without a container engine.
type dockerfile struct {
	build       []string // the commands of the build stage that leave something in /out
	copies      []imageFile
	uid, gid    int
	workdir     string
	volume      string
	entrypoint  []string
	command     []string
	healthcheck []string
}

// imageFile is a file or folder of the image, and where it is in the build stage.
type imageFile struct {
	from, to string
	owned    bool // by the image's user; else by root
}

// parseDockerfile understands the instructions that ours has, and fails on any other: what it would leave out, the test would not see.
func parseDockerfile(t *testing.T, text string) dockerfile {
	t.Helper()
	var d dockerfile
	stage := 0
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\\\n", " "), "\n") {
		instruction, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case instruction == "" || instruction[0] == '#', instruction == "EXPOSE":
		case instruction == "FROM":
			stage++
		case stage == 1 && instruction == "RUN":
			if strings.Contains(rest, "/out/") {
				d.build = append(d.build, rest)
			}
		case stage == 1 && (instruction == "COPY" || instruction == "WORKDIR"): // the checkout, into /src
		case instruction == "COPY":
			d.copies = append(d.copies, parseCopy(t, rest))
		case instruction == "USER":
			d.uid, d.gid = parseUser(t, rest)
		case instruction == "WORKDIR":
			d.workdir = rest
		case instruction == "VOLUME":
			d.volume = rest
		case instruction == "ENTRYPOINT":
			d.entrypoint = parseArguments(t, rest)
		case instruction == "CMD":
			d.command = parseArguments(t, rest)
		case instruction == "HEALTHCHECK":
			_, arguments, _ := strings.Cut(rest, "CMD ")
			d.healthcheck = parseArguments(t, arguments)
		default:
			t.Fatalf("the Dockerfile has an instruction that this test does not know: %s", line)
		}
	}
	return d
}

func parseCopy(t *testing.T, text string) imageFile {
	t.Helper()
	var f imageFile
	fields := strings.Fields(text)
	for len(fields) > 0 && strings.HasPrefix(fields[0], "--") {
		f.owned = f.owned || strings.HasPrefix(fields[0], "--chown=")
		fields = fields[1:]
	}
	if len(fields) != 2 {
		t.Fatalf("COPY %s: want one source and one destination", text)
	}
	f.from, f.to = fields[0], fields[1]
	return f
}

func parseUser(t *testing.T, text string) (uid, gid int) {
	t.Helper()
	user, group, _ := strings.Cut(text, ":")
	uid, err := strconv.Atoi(user)
	if err != nil {
		t.Fatalf("USER %s: an image without /etc/passwd needs numbers", text)
	}
	if gid, err = strconv.Atoi(group); err != nil {
		t.Fatalf("USER %s: an image without /etc/group needs numbers", text)
	}
	return uid, gid
}

func parseArguments(t *testing.T, text string) []string {
	t.Helper()
	var arguments []string
	if err := json.Unmarshal([]byte(text), &arguments); err != nil || len(arguments) == 0 {
		t.Fatalf("%s is no command that runs without a shell, which the image does not have", text)
	}
	return arguments
}

// makeImage runs the Dockerfile's build in this checkout and puts together the folder tree that it makes of it. All of it is
// root's, as in the image, and nobody may write to it, but for what is given to the image's user.
func makeImage(t *testing.T, d *dockerfile) (tree string) {
	t.Helper()
	out := t.TempDir()
	for _, command := range d.build {
		build := exec.CommandContext(t.Context(), "/bin/sh", "-ec", strings.ReplaceAll(command, "/out/", out+"/")) //nolint:gosec // ours
		build.Dir = root
		if said, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, said)
		}
	}
	tree = t.TempDir()
	for _, file := range d.copies {
		from := file.from
		if rest, ours := strings.CutPrefix(from, "/src/"); ours {
			from = filepath.Join(root, rest)
		} else if rest, built := strings.CutPrefix(from, "/out/"); built {
			from = filepath.Join(out, rest)
		} else if _, err := os.Stat(from); err != nil {
			t.Logf("the tree is without %s, which the build image has and this machine has not", file.to)
			continue
		}
		put(t, from, filepath.Join(tree, file.to))
		if file.owned && os.Geteuid() == 0 {
			if err := os.Chown(filepath.Join(tree, file.to), d.uid, d.gid); err != nil {
				t.Fatal(err)
			}
		}
	}
	forbidWriting(t, tree, filepath.Join(tree, d.volume))
	return tree
}

// put copies a file, or makes an empty folder for a folder.
func put(t *testing.T, from, to string) {
	t.Helper()
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil { //nolint:gosec // the image's user goes through
		t.Fatal(err)
	}
	if info.IsDir() {
		if err := os.Mkdir(to, 0o755); err != nil { //nolint:gosec // as Docker makes it
			t.Fatal(err)
		}
		return
	}
	content, err := os.ReadFile(from) //nolint:gosec // the test's own
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, info.Mode().Perm()); err != nil { //nolint:gosec // the image's user reads it
		t.Fatal(err)
	}
}

// forbidWriting takes the right to make files from everybody, but in the volume.
func forbidWriting(t *testing.T, tree, volume string) {
	t.Helper()
	set := func(mode fs.FileMode) {
		for _, dir := range folders(t, tree) {
			if dir == volume {
				continue
			}
			if err := os.Chmod(dir, mode); err != nil {
				t.Error(err)
			}
		}
	}
	set(0o555)
	t.Cleanup(func() { set(0o755) }) // or an ordinary user could not remove it
}

func folders(t *testing.T, tree string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(tree, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
