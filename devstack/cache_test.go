package devstack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func quiet(string) {}

// ownCache gives the test a cache, empty and readable for the account that runs Postgres.
func ownCache(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := serverAccount().openWay(dir); err != nil {
		t.Fatal(err)
	}
	t.Setenv(CacheEnv, dir)
	return dir
}

func TestCacheShowsAllOrNothing(t *testing.T) {
	dir := ownCache(t)
	broken := errors.New("broken in the middle")
	half := func(part string) error {
		if err := os.WriteFile(filepath.Join(part, "first"), nil, 0o600); err != nil {
			return err
		}
		return broken
	}
	if _, err := cached(t.Context(), "thing", quiet, half); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	// What a killed process leaves.
	leftover := filepath.Join(dir, "thing.part-123")
	if err := os.Mkdir(leftover, 0o700); err != nil {
		t.Fatal(err)
	}

	var fills atomic.Int64
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			got, err := cached(t.Context(), "thing", quiet, func(part string) error {
				fills.Add(1)
				return os.WriteFile(filepath.Join(part, "whole"), nil, 0o600)
			})
			if err != nil || got != filepath.Join(dir, "thing") {
				t.Errorf("got %q, %v", got, err)
			}
			if info, err := os.Stat(filepath.Join(got, "whole")); err != nil || info.Mode().Perm()&0o044 != 0o044 {
				t.Errorf("the file is %v, %v; everybody must be able to read it", info, err)
			}
		})
	}
	callers.Wait()
	if fills.Load() != 1 {
		t.Errorf("filled %d times", fills.Load())
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 { // the thing and its lock
		t.Errorf("the cache holds %v, %v", entries, err)
	}
}

func TestCacheWaitIsInterrupted(t *testing.T) {
	ownCache(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	_, err := cached(t.Context(), "thing", quiet, func(string) error {
		_, err := cached(ctx, "thing", func(string) { cancel(enough) }, func(string) error { return nil })
		return err
	})
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
}

func TestCacheThatCannotBeUsedSaysSo(t *testing.T) {
	file := filepath.Join(ownCache(t), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(CacheEnv, file)
	if _, err := cacheDir(); err == nil || !strings.Contains(err.Error(), CacheEnv) {
		t.Errorf("got %v", err)
	}
}

func TestHaveKafkaTellsWhatIsMissing(t *testing.T) {
	ownCache(t) // without Kafka, so that Maven is needed
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(home, "bin", "java")
	t.Setenv("JAVA_HOME", home)
	if err := HaveKafka(); err == nil || !strings.Contains(err.Error(), "install Java 17") {
		t.Errorf("without java: %v", err)
	}
	for _, version := range []string{"1.8.0_292", "17.0.15", "25-ea"} {
		script := fmt.Sprintf("#!/bin/sh\necho 'openjdk version \"%s\" 2025-04-15' >&2\n", version)
		if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", "")
		err := HaveKafka()
		want := "find Maven"
		if strings.HasPrefix(version, "1.") {
			want = "is Java 8;"
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Java %s, no Maven: %v", version, err)
		}
	}
}
