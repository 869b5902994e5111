package devstack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// pom makes Maven fetch artifacts (group:artifact:version) with what they need to run.
func pom(artifacts ...string) string { return pomOf(artifacts, nil) }

// pomOf is pom with artifacts that are fetched alone.
func pomOf(artifacts, alone []string) string {
	var dependencies strings.Builder
	for i, a := range slices.Concat(artifacts, alone) {
		exclusions := ""
		if i >= len(artifacts) {
			exclusions = `
      <exclusions>
        <exclusion>
          <groupId>*</groupId>
          <artifactId>*</artifactId>
        </exclusion>
      </exclusions>`
		}
		group, rest, _ := strings.Cut(a, ":")
		artifact, version, _ := strings.Cut(rest, ":")
		fmt.Fprintf(&dependencies, `
    <dependency>
      <groupId>%s</groupId>
      <artifactId>%s</artifactId>
      <version>%s</version>%s
    </dependency>`, group, artifact, version, exclusions)
	}
	return `<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>tidemark</groupId>
  <artifactId>devstack</artifactId>
  <version>1</version>
  <dependencies>` + dependencies.String() + `
  </dependencies>
  <build>
    <plugins>
      <plugin>
        <groupId>org.apache.maven.plugins</groupId>
        <artifactId>maven-dependency-plugin</artifactId>
        <version>3.8.1</version>
      </plugin>
    </plugins>
  </build>
</project>
`
}

// runMaven puts the jars of a pom into dir/libs. label is what progress is told meanwhile.
func runMaven(ctx context.Context, dir, pom, label string, progress func(string)) error {
	file := filepath.Join(dir, "pom.xml")
	if err := os.WriteFile(file, []byte(pom), 0o644); err != nil {
		return err
	}
	args := []string{
		"--batch-mode", "--quiet", "--file", file, "dependency:copy-dependencies",
		"-DincludeScope=runtime", "-DoutputDirectory=" + filepath.Join(dir, "libs"),
	}
	// An account without a home (CI, containers) has no place for Maven's own cache either.
	if home, err := os.UserHomeDir(); err != nil || usableCache(filepath.Join(home, ".m2")) != nil {
		repository := filepath.Join(dir, "m2")
		defer os.RemoveAll(repository) //nolint:errcheck // only wastes space
		args = append(args, "-Dmaven.repo.local="+repository)
	}
	mvn := exec.CommandContext(ctx, "mvn", args...)
	mvn.Dir = dir

	progress(label)
	finished := make(chan struct{})
	var output []byte
	var err error
	// Ends with Maven, which ctx ends.
	go func() {
		defer close(finished)
		output, err = mvn.CombinedOutput()
	}()
	started := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			progress(fmt.Sprintf("%s %d s", label, int(time.Since(started).Seconds())))
			continue
		case <-finished:
		}
		break
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		text := strings.TrimSpace(string(output))
		return fmt.Errorf("run mvn: %w%s", err, quoteLog(text[max(0, len(text)-tailBytes):]))
	}
	return nil
}
