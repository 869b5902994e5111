package deploy_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidemark/tidemark/devstack/stacktest"
)

// TestTheUnitIsValidAndConfined asks systemd itself what it thinks of the unit. What it cannot judge is that there is a binary:
// it gets a copy that starts one that is there.
func TestTheUnitIsValidAndConfined(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	stacktest.Require(t, "systemd", err)
	unit := filepath.Join(t.TempDir(), "tidemark.service")
	text := strings.ReplaceAll(read(t, filepath.Join(root, "deploy/systemd/tidemark.service")), "/usr/local/bin/tidemark", "/bin/true")
	if err := os.WriteFile(unit, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// It also speaks of units of this host that ours is to start after.
	if said, err := exec.CommandContext(ctx, analyze, "verify", unit).CombinedOutput(); err != nil || strings.Contains(string(said), "tidemark") { //nolint:gosec // found on the PATH
		t.Errorf("systemd-analyze verify: %v\n%s", err, said)
	}
	said, err := exec.CommandContext(ctx, analyze, "security", "--offline=true", "--no-pager", unit).CombinedOutput() //nolint:gosec // found on the PATH
	if err != nil {
		t.Fatalf("systemd-analyze security: %v\n%s", err, said)
	}
	found := regexp.MustCompile(`exposure level for tidemark.service: ([0-9.]+)`).FindSubmatch(said)
	if found == nil {
		t.Fatalf("systemd-analyze names no exposure level:\n%s", said)
	}
	// 10 is a service without any sandbox; systemd calls what is below 2.0 OK.
	if level, err := strconv.ParseFloat(string(found[1]), 64); err != nil || level >= 2 {
		t.Errorf("the exposure level is %s", found[1])
	}
}
