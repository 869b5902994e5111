package devstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// fetchLimit is how long a download may take. The library sets none.
const fetchLimit = 10 * time.Minute

// postgresRelease turns a major version into the release that is fetched for it; "" is the newest.
func postgresRelease(version string) (string, error) {
	switch version {
	case "", "18":
		return "18.4.0", nil
	case "17":
		return "17.6.0", nil
	case "16":
		return "16.10.0", nil
	}
	if regexp.MustCompile(`^\d+\.\d+\.\d+$`).MatchString(version) {
		return version, nil
	}
	return "", fmt.Errorf("choose a Postgres release for version %q: use 16, 17, 18 or a full one such as 18.4.0", version)
}

// postgresBinaries returns a directory with bin/postgres and bin/initdb, fetched once.
func postgresBinaries(ctx context.Context, release string, progress func(string)) (string, error) {
	dir, err := cached(ctx, "postgres-"+release, progress, func(part string) error {
		ctx, cancel := context.WithTimeoutCause(ctx, fetchLimit, fmt.Errorf("no end after %v", fetchLimit))
		defer cancel()
		if err := fetchPostgres(ctx, release, part, progress); err != nil {
			return fmt.Errorf("fetch Postgres %s: %w; check the network, or set %s to a cache that has it", release, err, CacheEnv)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "dist"), nil
}

// fetchPostgres makes dir/dist. When ctx ends it returns at once and leaves the download, which nothing can interrupt, to
// end by itself; what that still writes into dir is removed by the next run.
func fetchPostgres(ctx context.Context, release, dir string, progress func(string)) error {
	done := make(chan error, 1)
	// Ends with the library's call.
	go func() {
		defer func() {
			// The library panics when its temporary files go away, as they do when we have given up on it.
			if problem := recover(); problem != nil {
				done <- fmt.Errorf("panic: %v", problem)
			}
		}()
		done <- extractPostgres(release, dir)
	}()

	started := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	label := "fetching Postgres " + strings.TrimSuffix(release, ".0") + " (about 15 MB, once)…"
	progress(label)
	for {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			progress(fmt.Sprintf("%s %d s", label, int(time.Since(started).Seconds())))
		}
	}
}

// extractPostgres has the library fetch a release into dir/dist. Its only way in is to start a server, which it does with
// pg_ctl, and as root not at all. So it is given a data directory that is nothing but a version: that spares initdb, and
// makes the start fail once the binaries are there.
func extractPostgres(release, dir string) error {
	work := filepath.Join(dir, "work")
	data := filepath.Join(work, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	major, _, _ := strings.Cut(release, ".")
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte(major+"\n"), 0o600); err != nil {
		return err
	}
	dist := filepath.Join(dir, "dist")
	server := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(embeddedpostgres.PostgresVersion(release)).
		Port(0). // it checks that nobody listens on its port
		CachePath(filepath.Join(work, "download")).
		RuntimePath(filepath.Join(work, "runtime")).
		BinariesPath(dist).
		DataPath(data).
		Logger(io.Discard))
	startErr := server.Start()
	http.DefaultClient.CloseIdleConnections() // the library's; it has no further use, and looks like a leak to tests
	for _, name := range []string{"postgres", "initdb"} {
		if !exists(filepath.Join(dist, "bin", name)) {
			return errors.Join(startErr, fmt.Errorf("there is no bin/%s in it", name))
		}
	}
	return os.RemoveAll(work)
}

// confName is the file in the data directory that holds our settings. It is written anew at each start and included by
// postgresql.conf, rather than passed as arguments, so that ALTER SYSTEM still overrides it.
const confName = "tidemark.conf"

// postgresTemplate returns a fresh data directory to copy from, made once: initdb takes a second, a copy a tenth.
func postgresTemplate(ctx context.Context, release, dist string, progress func(string)) (string, error) {
	// The last digit is ours: another when the arguments below change.
	dir, err := cached(ctx, "postgres-"+release+"-data-1", progress, func(part string) error {
		progress("preparing the first database (initdb, once)…")
		account := serverAccount()
		if err := os.Chmod(part, 0o711); err != nil { // the account must get through to the part that is its own
			return err
		}
		data := filepath.Join(part, "data")
		if err := os.Mkdir(data, 0o700); err != nil {
			return err
		}
		if err := account.own(data); err != nil {
			return err
		}
		initdb := exec.CommandContext(ctx, filepath.Join(dist, "bin", "initdb"), "--pgdata", data, "--username", "postgres",
			"--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions")
		initdb.Dir = data
		initdb.Env = postgresEnv()
		account.run(initdb)
		if output, err := initdb.CombinedOutput(); err != nil {
			return fmt.Errorf("run initdb: %w%s", err, quoteLog(string(output)))
		}
		conf, err := os.OpenFile(filepath.Join(data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(conf, "\ninclude = '%s'\n", confName)
		if err := errors.Join(err, conf.Close()); err != nil {
			return err
		}
		// What every later server starts from must not be changed by another process of the account.
		if account.other {
			return chownTree(data, os.Geteuid(), os.Getegid())
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "data"), nil
}

// postgresEnv is the environment of initdb and postgres: none of the caller's PG*, and messages in English, which are searched.
func postgresEnv() []string {
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "PG") || strings.HasPrefix(entry, "LC_") || strings.HasPrefix(entry, "LANG")
	})
	return append(env, "LC_ALL=C", "TZ=UTC")
}

// writeConf writes settings in the syntax of postgresql.conf.
func writeConf(path string, settings map[string]string) error {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `''`, "\n", `\n`)
	name := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)
	var text strings.Builder
	keys := make([]string, 0, len(settings))
	for key := range settings {
		if !name.MatchString(key) {
			return fmt.Errorf("write server settings: %q is no name of a setting", key)
		}
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		fmt.Fprintf(&text, "%s = '%s'\n", key, quote.Replace(settings[key]))
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil { // in a directory that is closed to others
		return fmt.Errorf("write server settings: %w", err)
	}
	return nil
}

// quoteLog makes the end of a server's output part of an error.
func quoteLog(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return "; its log is empty"
	}
	return "; the end of its log:\n\t" + strings.ReplaceAll(text, "\n", "\n\t")
}
