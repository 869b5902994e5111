package park

import (
	"flag"
	"testing"

	"github.com/tidemark/tidemark/devstack/stacktest"
)

func TestMain(m *testing.M) {
	// Each step of the model is a statement of a real server: a hundred runs, rapid's default, would take half a minute.
	// -rapid.checks=1000 says otherwise.
	if err := flag.Set("rapid.checks", "30"); err != nil {
		panic(err)
	}
	stacktest.Main(m)
}
