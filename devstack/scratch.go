package devstack

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// scratch is a temporary directory that is known to be in use for as long as its owner, or a server that was started with
// its lock, is alive. What a killed owner leaves behind is removed by the next newScratch of the same user.
type scratch struct {
	dir  string
	lock *os.File // inherited by the servers: flock belongs to the open file, so the last one to end gives it up
}

// scratchLock is the file whose lock says that a scratch directory is in use.
const scratchLock = "in-use"

// scratchPrefix is short because paths of unix sockets must fit into about 104 bytes.
const scratchPrefix = "tidemark-"

func newScratch(kind string) (*scratch, error) {
	base := os.TempDir()
	if err := serverAccount().canReach(base); err != nil || len(base) > 60 {
		base = "/tmp"
	}
	sweepScratch(base, kind)

	dir, err := os.MkdirTemp(base, scratchPrefix+kind+"-")
	if err != nil {
		return nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	s := &scratch{dir: dir}
	if err := s.claim(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

// claim takes the lock under another name first: a lock file that exists and is not locked would be swept.
func (s *scratch) claim() error {
	path := filepath.Join(s.dir, scratchLock)
	lock, err := os.OpenFile(path+".new", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("claim %s: %w", s.dir, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("claim %s: %w", s.dir, err), lock.Close())
	}
	if err := os.Rename(lock.Name(), path); err != nil {
		return errors.Join(fmt.Errorf("claim %s: %w", s.dir, err), lock.Close())
	}
	s.lock = lock
	// Servers of another account pass through to their own directories below, which are closed to the rest.
	if err := os.Chmod(s.dir, 0o711); err != nil {
		return errors.Join(fmt.Errorf("claim %s: %w", s.dir, err), lock.Close())
	}
	return nil
}

func (s *scratch) remove() error {
	if err := errors.Join(os.RemoveAll(s.dir), s.lock.Close()); err != nil {
		return fmt.Errorf("remove temporary directory: %w", err)
	}
	return nil
}

// sweepScratch removes the directories of dead owners. It is a courtesy: what it cannot remove (another user's) it leaves.
func sweepScratch(base, kind string) {
	dirs, err := filepath.Glob(filepath.Join(base, scratchPrefix+kind+"-*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		if info, err := os.Lstat(dir); err != nil || !ours(info) {
			continue
		}
		lock, err := os.OpenFile(filepath.Join(dir, scratchLock), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			removeSharedMemory(filepath.Join(dir, "data"))
			_ = os.RemoveAll(dir)
		}
		_ = lock.Close()
	}
}

// freePort returns a TCP port of 127.0.0.1 on which nobody listens at the moment; the caller tries another if it is taken
// by the time it is used. It is below the ephemeral range: a port in that range can be taken by an outgoing connection
// while its server restarts, and a client that dials it meanwhile can even be connected to itself.
func freePort(ctx context.Context) (int, error) {
	var last error
	for range 100 {
		port := 15000 + rand.IntN(17000)
		var config net.ListenConfig
		listener, err := config.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			last = err
			continue
		}
		if err := listener.Close(); err != nil {
			return 0, fmt.Errorf("free port %d: %w", port, err)
		}
		return port, nil
	}
	return 0, fmt.Errorf("find a free port: %w", last)
}
