package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sys/unix"

	"github.com/tidemark/tidemark/devstack/stacktest"
)

// TestTheImageRunsOnAReadOnlyTree does what a container engine would do with the Dockerfile: it builds the binary with the
// Dockerfile's own command, puts it into a folder tree in which there is nothing else, no /etc/passwd, no /tmp and no C library,
// and runs the entrypoint there: as the image's user, without HOME, and with nothing that it could write to but its volume.
//
// Only root can do all of that; for another user it is the same tree, but not the only one that the relay sees.
func TestTheImageRunsOnAReadOnlyTree(t *testing.T) {
	d := parseDockerfile(t, read(t, filepath.Join(root, "Dockerfile")))
	box := &container{dockerfile: d, tree: makeImage(t, &d), environ: relayEnvironment(t)}
	before := box.listing(t)

	relay := box.start(t, slices.Concat(d.entrypoint, d.command)...)
	await(t, "the health check says healthy", func() bool {
		if relay.ended() {
			t.Fatalf("the relay has ended with status %d:\n%s", relay.status(), relay.output())
		}
		check := box.start(t, d.healthcheck...)
		return check.wait(t) == 0
	})

	insert(t, box.environ["TIDEMARK_SOURCE_DSN"])
	if got := consume(t, box.environ["TIDEMARK_KAFKA_BROKERS"]); got != `{"total": 42}` {
		t.Errorf("the record's value is %q", got)
	}
	if check := box.start(t, d.healthcheck...); check.wait(t) != 0 {
		t.Errorf("the health check says after a row: %s", check.output())
	}

	relay.signal(t, syscall.SIGTERM)
	if status := relay.wait(t); status != 0 {
		t.Errorf("SIGTERM ends it with status %d:\n%s", status, relay.output())
	}
	check := box.start(t, d.healthcheck...)
	if check.wait(t) == 0 {
		t.Error("the health check says healthy when there is no relay any more")
	}
	checkpoint := box.environ["TIDEMARK_CHECKPOINT_PATH"]
	if _, err := os.Stat(filepath.Join(box.tree, d.volume, filepath.Base(checkpoint))); err != nil {
		t.Errorf("no checkpoint in the volume: %v", err)
	}
	if after := box.listing(t); !slices.Equal(before, after) {
		t.Errorf("outside of the volume the tree was %v, and is %v", before, after)
	}

	// Elsewhere it cannot keep a checkpoint, and says so, or the tree was not what it seemed to be.
	box.environ["TIDEMARK_CHECKPOINT_PATH"] = "/checkpoint"
	relay = box.start(t, slices.Concat(d.entrypoint, d.command)...)
	await(t, "the relay names the file that it cannot write", func() bool {
		if relay.ended() {
			t.Fatalf("the relay has ended with status %d:\n%s", relay.status(), relay.output())
		}
		return regexp.MustCompile(`save checkpoint \S*/checkpoint: .*(read-only file system|permission denied)`).MatchString(relay.output())
	})
	relay.signal(t, syscall.SIGTERM)
	if status := relay.wait(t); status != 0 {
		t.Errorf("SIGTERM ends it with status %d:\n%s", status, relay.output())
	}
}

// relayEnvironment is what docker-compose.yml gives the relay, with servers of this test.
func relayEnvironment(t *testing.T) map[string]string {
	t.Helper()
	env := environment(t, load(t).Services["tidemark"])
	env["TIDEMARK_SOURCE_DSN"] = stacktest.Database(t)
	env["TIDEMARK_KAFKA_BROKERS"] = strings.Join(stacktest.FakeKafka(t), ",")
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // does not wait
	if err != nil {
		t.Fatal(err)
	}
	env["TIDEMARK_HTTP_LISTEN"] = listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), env["TIDEMARK_SOURCE_DSN"])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // everything has been said by then
	if _, err := conn.Exec(t.Context(), read(t, filepath.Join(root, "deploy/compose/outbox.sql"))); err != nil {
		t.Fatal(err)
	}
	return env
}

func insert(t *testing.T, dsn string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // everything has been said by then
	_, err = conn.Exec(t.Context(), `insert into outbox (aggregatetype, aggregateid, type, payload)
		values ('order', '17', 'OrderPlaced', '{"total": 42}')`)
	if err != nil {
		t.Fatal(err)
	}
}

func consume(t *testing.T, brokers string) string {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.ConsumeTopics("outbox.event.order"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatal("the row has not arrived within a minute")
		}
		if records := fetches.Records(); len(records) > 0 {
			return string(records[0].Value)
		}
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-limit.C:
			t.Fatalf("a minute, and not yet: %s", what)
		}
	}
}

// container runs commands in the image's tree.
type container struct {
	dockerfile
	tree    string
	environ map[string]string // with paths of the image
}

// confined says whether the tree is all that a command sees.
func (*container) confined() bool { return os.Geteuid() == 0 }

// path is where a command finds a path of the image.
func (c *container) path(inside string) string {
	if c.confined() {
		return inside
	}
	return filepath.Join(c.tree, inside)
}

// start runs a command, which is killed in the end.
func (c *container) start(t *testing.T, arguments ...string) *contained {
	t.Helper()
	// Not the test's context: it ends before the clean-up, which waits for the command.
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), c.path(arguments[0]), arguments[1:]...) //nolint:gosec // the Dockerfile's
	cmd.Dir = c.path(c.workdir)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"} // what Docker gives to each
	for name, value := range c.environ {
		if name == "TIDEMARK_CHECKPOINT_PATH" {
			value = c.path(value)
		}
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	p := &contained{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.said, &p.said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if c.confined() {
		cmd.SysProcAttr.Chroot = c.tree
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(c.uid), Gid: uint32(c.gid)} //nolint:gosec // of the Dockerfile
	}

	started := make(chan error)
	// Ends with the command. Its thread sees mounts of its own, and is therefore never used for anything else.
	go func() {
		runtime.LockOSThread()
		err := c.mountReadOnly()
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is asked of its state
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("run %s in the image's tree: %v", strings.Join(arguments, " "), err)
	}
	t.Cleanup(func() {
		p.signal(t, syscall.SIGKILL)
		<-p.done
	})
	return p
}

// mountReadOnly has the calling thread, and what it starts, see the tree read-only and the volume not. Where not even root may do
// that, as in many containers, the tree still belongs to somebody else.
func (c *container) mountReadOnly() error {
	if !c.confined() {
		return nil
	}
	err := unix.Unshare(unix.CLONE_NEWNS)
	if errors.Is(err, unix.EPERM) {
		return nil
	} else if err != nil {
		return fmt.Errorf("unshare the mounts: %w", err)
	}
	volume := filepath.Join(c.tree, c.volume)
	for _, mount := range []struct {
		source, target string
		flags          uintptr
	}{
		{"", "/", unix.MS_PRIVATE | unix.MS_REC}, // nothing of this gets out
		{c.tree, c.tree, unix.MS_BIND},
		{volume, volume, unix.MS_BIND},
		{"", c.tree, unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY},
	} {
		if err := unix.Mount(mount.source, mount.target, "", mount.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", mount.target, err)
		}
	}
	return nil
}

// listing is what there is outside of the volume.
func (c *container) listing(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(c.tree, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		found = append(found, strings.TrimPrefix(path, c.tree))
		if path == filepath.Join(c.tree, c.volume) {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// contained is a command in a container, running or ended.
type contained struct {
	cmd  *exec.Cmd
	said locked
	done chan struct{}
}

func (p *contained) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
}

func (p *contained) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// wait waits until it has ended, and returns its exit status.
func (p *contained) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		t.Fatalf("still running after a minute: %s\n%s", p.cmd, p.output())
	}
	return p.status()
}

func (p *contained) status() int    { return p.cmd.ProcessState.ExitCode() }
func (p *contained) output() string { return p.said.text() }

// locked is a buffer that may be read while a command writes to it.
type locked struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.data.Write(b)
}

func (l *locked) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.data.String()
}
