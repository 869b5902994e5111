package devstack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// JavaProgram is a program for a test that judges by software of the Java world. Nothing but Java's virtual machine and Maven
// has to be there: the compiler is fetched with the libraries.
type JavaProgram struct {
	Class     string   // with the main method; in no package
	Source    string   // of Class.java
	Libraries []string // group:artifact:version, at Maven Central
	Alone     []string // the same, fetched without what they depend on
}

// javaCompiler is Eclipse's, which runs where only the virtual machine is installed.
const javaCompiler = "org.eclipse.jdt:ecj:3.40.0"

func (p *JavaProgram) pom() string {
	return pomOf(append(slices.Clone(p.Libraries), "org.slf4j:slf4j-simple:1.7.36", javaCompiler), p.Alone)
}

// librariesEntry and classesEntry name both halves in the cache, by what they are made of.
func (p *JavaProgram) librariesEntry() string { return "java-libraries-" + digest(p.pom()) }

func (p *JavaProgram) classesEntry() string {
	return "java-" + strings.ToLower(p.Class) + "-" + digest(p.pom()+p.Source)
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:6])
}

// Have says why the program cannot be run here, or returns nil if nothing stands against it but the network.
func (p *JavaProgram) Have() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) //nolint:forbidigo // asks a program for its version, no more
	defer cancel()
	if _, err := java(ctx); err != nil {
		return err
	}
	if cache, err := cacheDir(); err == nil && exists(filepath.Join(cache, p.librariesEntry())) {
		return nil // Maven has done its work
	}
	if _, err := exec.LookPath("mvn"); err != nil {
		return fmt.Errorf("find Maven, which fetches what %s needs: %w; install it", p.Class, err)
	}
	return nil
}

// Command returns what runs the program, fetched and compiled once on each machine. It ends with ctx. Its virtual machine
// is told to start quickly rather than to run fast, and its loggers write warnings to stderr.
func (p *JavaProgram) Command(ctx context.Context, progress func(string), args ...string) (*exec.Cmd, error) {
	program, err := java(ctx)
	if err != nil {
		return nil, err
	}
	libraries, err := cached(ctx, p.librariesEntry(), progress, func(dir string) error {
		ctx, cancel := context.WithTimeoutCause(ctx, fetchLimit, fmt.Errorf("no end after %v", fetchLimit))
		defer cancel()
		if err := runMaven(ctx, dir, p.pom(), "fetching the libraries of "+p.Class+" (once)…", progress); err != nil {
			return fmt.Errorf("fetch the libraries of %s: %w; check the network and Maven, or set %s to a cache that has them", p.Class, err, CacheEnv)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	libraries = filepath.Join(libraries, "libs", "*")
	classes, err := cached(ctx, p.classesEntry(), progress, func(dir string) error {
		file := filepath.Join(dir, p.Class+".java")
		if err := os.WriteFile(file, []byte(p.Source), 0o644); err != nil {
			return err
		}
		compiler := exec.CommandContext(ctx, program, "-cp", libraries, "org.eclipse.jdt.internal.compiler.batch.Main",
			"-17", "-nowarn", "-encoding", "UTF-8", "-cp", jars(libraries), "-d", dir, file)
		if output, err := compiler.CombinedOutput(); err != nil {
			return fmt.Errorf("compile %s.java: %w%s", p.Class, err, quoteLog(string(output)))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, program, append([]string{
		"-Xms64m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", classes + string(filepath.ListSeparator) + libraries,
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", p.Class,
	}, args...)...), nil
}

// jars spells a class path with a * out for the compiler, which does not know it.
func jars(pattern string) string {
	files, _ := filepath.Glob(pattern + ".jar") // the pattern is well-formed
	return strings.Join(files, string(filepath.ListSeparator))
}
