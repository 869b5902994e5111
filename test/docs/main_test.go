// Package docs_test holds the documents against the program: what they link to is there, the commands that they show have
// been run, what they name exists, and the reference is what the program says.
//
// The built binary is asked, as a reader would ask it. CONTRIBUTING.md tells what a block of a document can say about
// itself.
package docs_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/test/trial"
)

// root is the module's directory.
const root = "../.."

// TestMain is the main of the tests, and under other names that of the programs that stand in for those which a reader has
// and the machine of the tests need not have.
func TestMain(m *testing.M) {
	if program := standIns()[filepath.Base(os.Args[0])]; program != nil {
		os.Exit(program(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	stacktest.Main(m)
}

//nolint:gochecknoglobals // built once for all tests, when the first one asks
var built = sync.OnceValues(func() (string, error) { return trial.Build(context.Background()) })

func binary(t *testing.T) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
