package main

import (
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/tidemark/tidemark/devstack/stacktest"
)

func TestMain(m *testing.M) { stacktest.Main(m) }

// An instance that was killed may still be creating on the server when the next one starts.
func TestInstancesThatStartAtOnceAllRun(t *testing.T) {
	for range 5 {
		dsn := stacktest.Database(t)
		var group errgroup.Group
		for range 8 {
			group.Go(func() error { return run(t.Context(), dsn, 0, 1) })
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}
