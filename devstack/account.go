package devstack

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// account is who runs Postgres, which refuses to run as root: the caller, or, if that is root, nobody.
type account struct {
	uid, gid int
	other    bool // not the caller's own: files must be handed over, and be reachable
}

func serverAccount() account {
	if os.Geteuid() != 0 {
		return account{uid: os.Geteuid(), gid: os.Getegid()}
	}
	a := account{uid: 65534, gid: 65534, other: true}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return a // an image without /etc/passwd: the number is enough
	}
	uid, err := strconv.ParseUint(nobody.Uid, 10, 31)
	if err != nil {
		return a // macOS writes nobody as -2, which is no usable number here
	}
	gid, err := strconv.ParseUint(nobody.Gid, 10, 31)
	if err != nil {
		return a
	}
	a.uid, a.gid = int(uid), int(gid)
	return a
}

// run makes cmd run as this account.
func (a account) run(cmd *exec.Cmd) {
	if !a.other {
		return
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)} // parsed as 31 bits
}

// own hands the tree over to this account.
func (a account) own(tree string) error {
	if !a.other {
		return nil
	}
	return chownTree(tree, a.uid, a.gid)
}

// canReach tells which directory keeps this account from entering dir.
func (a account) canReach(dir string) error {
	if !a.other {
		return nil
	}
	at, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("resolve %s: %w", dir, err)
	}
	for ; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return fmt.Errorf("check %s: %w", at, err)
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		owned := ok && int64(stat.Uid) == int64(a.uid) && info.Mode().Perm()&0o100 != 0
		if !owned && info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("enter %s: uid %d, which runs Postgres because root must not, cannot; choose another directory or `chmod o+x %[1]s`", at, a.uid)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// openWay makes dir reachable for this account where that is harmless: it opens the directories on the way that lie below
// the temporary directory (testing.T makes those for its user alone). Anything else is left as it is and told by canReach.
func (a account) openWay(dir string) error {
	if !a.other {
		return nil
	}
	temp := filepath.Clean(os.TempDir())
	for at := filepath.Clean(dir); strings.HasPrefix(at, temp+string(filepath.Separator)); at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return fmt.Errorf("check %s: %w", at, err)
		}
		if err := os.Chmod(at, info.Mode().Perm()|0o011); err != nil {
			return fmt.Errorf("open the way to the data directory: %w", err)
		}
	}
	return a.canReach(dir)
}

func chownTree(tree string, uid, gid int) error {
	err := filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
	if err != nil {
		return fmt.Errorf("hand %s to uid %d: %w", tree, uid, err)
	}
	return nil
}
