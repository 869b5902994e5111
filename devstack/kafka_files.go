package devstack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

const (
	// kafkaRelease is the Kafka that is fetched and run.
	kafkaRelease = "4.4.0"
	// kafkaJava is the oldest Java whose virtual machine runs its broker.
	kafkaJava = 17
	// kafkaEntry names the jars in the cache. The last digit is ours: another when what is fetched changes.
	kafkaEntry = "kafka-" + kafkaRelease + "-1"
)

// HaveKafka says why a real Kafka cannot be started here, or returns nil if nothing stands against it but the network.
func HaveKafka() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) //nolint:forbidigo // asks two programs for their versions, no more
	defer cancel()
	if _, err := java(ctx); err != nil {
		return err
	}
	if cache, err := cacheDir(); err == nil && exists(filepath.Join(cache, kafkaEntry)) {
		return nil // Maven has done its work
	}
	if _, err := exec.LookPath("mvn"); err != nil {
		return fmt.Errorf("find Maven, which fetches Kafka: %w; install it", err)
	}
	return nil
}

// java returns the program, which is new enough.
func java(ctx context.Context) (string, error) {
	path := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		path = filepath.Join(home, "bin", "java")
	}
	hint := fmt.Sprintf("install Java %d or newer, or point JAVA_HOME at it", kafkaJava)
	output, err := exec.CommandContext(ctx, path, "-version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("run %s, which runs Kafka: %w; %s", path, err, hint)
	}
	// 17.0.15 and 25-ea, but 1.8.0 for Java 8.
	version := regexp.MustCompile(`version "(?:1\.)?(\d+)`).FindSubmatch(output)
	if version == nil {
		return "", fmt.Errorf("find the version of %s in %q; %s", path, output, hint)
	}
	if major, err := strconv.Atoi(string(version[1])); err != nil || major < kafkaJava {
		return "", fmt.Errorf("run Kafka: %s is Java %s; %s", path, version[1], hint)
	}
	return path, nil
}

// kafkaJars returns the class path, fetched once.
func kafkaJars(ctx context.Context, progress func(string)) (string, error) {
	dir, err := cached(ctx, kafkaEntry, progress, func(part string) error {
		ctx, cancel := context.WithTimeoutCause(ctx, fetchLimit, fmt.Errorf("no end after %v", fetchLimit))
		defer cancel()
		if err := fetchKafka(ctx, part, progress); err != nil {
			return fmt.Errorf("fetch Kafka %s: %w; check the network and Maven, or set %s to a cache that has it", kafkaRelease, err, CacheEnv)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "libs", "*"), nil
}

func fetchKafka(ctx context.Context, dir string, progress func(string)) error {
	kafka := pom("org.apache.kafka:kafka_2.13:"+kafkaRelease, "org.slf4j:slf4j-simple:1.7.36") // and a logger, which it comes without
	if err := runMaven(ctx, dir, kafka, "fetching Kafka "+kafkaRelease+" (about 45 MB, once)…", progress); err != nil {
		return err
	}
	if !exists(filepath.Join(dir, "libs", "kafka_2.13-"+kafkaRelease+".jar")) {
		return errors.New("run mvn: it succeeded but there is no Kafka")
	}
	return nil
}
