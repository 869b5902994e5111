package checkpoint_test

import (
	"os"
	"testing"

	"github.com/tidemark/tidemark/devstack/stacktest"
)

// childEnv makes the test binary play a part in another process, see children.
const childEnv = "CHECKPOINT_TEST_CHILD"

func TestMain(m *testing.M) {
	if part := os.Getenv(childEnv); part != "" {
		os.Exit(child(part, os.Args[1:]))
	}
	stacktest.Main(m)
}
