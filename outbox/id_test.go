package outbox

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestIDsAreOfVersion7AndGrow(t *testing.T) {
	before := time.Now().Add(-time.Millisecond)
	const each = 2000
	var wg sync.WaitGroup
	ids := make([][]string, 4)
	for i := range ids {
		wg.Go(func() {
			for range each {
				ids[i] = append(ids[i], NewID())
			}
		})
	}
	wg.Wait()
	for _, own := range ids {
		if !slices.IsSorted(own) {
			t.Error("the ids of one goroutine do not grow")
		}
	}
	all := slices.Concat(ids...)
	slices.Sort(all)
	if len(slices.Compact(all)) != 4*each {
		t.Error("an id was given twice")
	}
	for _, id := range all {
		ms, err := strconv.ParseInt(strings.ReplaceAll(id[:13], "-", ""), 16, 64)
		if at := time.UnixMilli(ms); err != nil || at.Before(before) || at.After(time.Now().Add(time.Second)) {
			t.Fatalf("%s says %v, %v", id, at, err)
		}
		if !isUUID(id) || id[14] != '7' || !strings.ContainsRune("89ab", rune(id[19])) {
			t.Fatalf("%s is no UUID of version 7", id)
		}
	}
}

func TestIDsGrowWhenTheClockIsSetBack(t *testing.T) {
	var last atomic.Uint64
	var got []uint64
	for _, now := range []uint64{10, 10, 9, 20, 5} {
		got = append(got, next(&last, now))
	}
	if want := []uint64{10, 11, 12, 20, 21}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
