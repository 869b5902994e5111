package main

import (
	"os"
	"slices"
	"syscall"
	"testing"
)

func TestTheFirstSignalDrainsAndTheSecondEnds(t *testing.T) {
	signals := make(chan os.Signal)
	did := make(chan string)
	go obey(signals, func() { did <- "cancel" }, func(status int) {
		did <- map[int]string{1: "exit 1"}[status]
		close(did)
	})
	var got []string
	for _, s := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		signals <- s
		got = append(got, <-did)
	}
	if want := []string{"cancel", "exit 1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
