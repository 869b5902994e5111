package devstack_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

// victimEnv makes this test binary the owner of a server that waits to be killed.
const victimEnv = "DEVSTACK_TEST_VICTIM"

func TestMain(m *testing.M) {
	if kind := os.Getenv(victimEnv); kind != "" {
		victim(kind)
	}
	goleak.VerifyTestMain(m)
}

func startPostgres(t *testing.T, opts devstack.PostgresOptions) *devstack.Postgres {
	t.Helper()
	opts.Progress = func(line string) { t.Log(line) }
	pg, err := devstack.StartPostgres(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	return pg
}

func exec1(ctx context.Context, dsn, sql string) (err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, sql)
	return err
}

func query1[T any](t *testing.T, dsn, sql string) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // read only
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	value, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// processesOf lists the processes that run in a directory below dir, as those of a server do.
func processesOf(t *testing.T, dir string) []int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(target, dir+"/") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, pid)
	}
	return found
}

func TestPostgresStartsReadyForLogicalReplication(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"16", "17", "18"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			pg := startPostgres(t, devstack.PostgresOptions{Version: version, Settings: map[string]string{"work_mem": "5MB", "cluster_name": `it's a \ test`}})
			if err := pg.CreateDatabase(t.Context(), "Shop \"1\""); err != nil {
				t.Fatal(err)
			}
			for _, dsn := range []string{pg.DSN(`Shop "1"`), pg.SocketDSN(`Shop "1"`)} {
				got := query1[string](t, dsn, `select current_setting('server_version_num')::int/10000 || ' ' || current_setting('wal_level') || ' ' ||
					current_setting('work_mem') || ' ' || current_setting('cluster_name') || ' ' || current_database() || ' ' || current_setting('server_encoding')`)
				if want := version + ` logical 5MB it's a \ test Shop "1" UTF8`; got != want {
					t.Errorf("%s: got %q, want %q", dsn, got, want)
				}
			}
			if err := exec1(t.Context(), pg.DSN("postgres"), "select pg_create_logical_replication_slot('s', 'pgoutput')"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPostgresRestartKeepsDataAndPort(t *testing.T) {
	t.Parallel()
	pg := startPostgres(t, devstack.PostgresOptions{})
	dsn := pg.DSN("postgres")
	if err := exec1(t.Context(), dsn, "create table t (i int)"); err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		name string
		do   func() error
	}{
		{"fast", func() error { return pg.Restart(t.Context(), devstack.StopFast) }},
		{"immediate", func() error { return pg.Restart(t.Context(), devstack.StopImmediate) }},
		{"kill", func() error { return errors.Join(pg.Kill(), pg.Restart(t.Context(), devstack.StopFast)) }},
		{"stop", func() error {
			return errors.Join(pg.Stop(devstack.StopFast), pg.Restart(t.Context(), devstack.StopFast))
		}},
		{"pause", func() error { return errors.Join(pg.Pause(), pg.Restart(t.Context(), devstack.StopFast)) }},
	}
	for i, step := range steps {
		if err := exec1(t.Context(), dsn, "insert into t values (1)"); err != nil {
			t.Fatal(err)
		}
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got := query1[int](t, dsn, "select count(*) from t"); got != i+1 {
			t.Errorf("after %s: %d rows, want %d", step.name, got, i+1)
		}
	}
}

func TestPostgresSaysThatItsPortIsTaken(t *testing.T) {
	t.Parallel()
	pg := startPostgres(t, devstack.PostgresOptions{})
	if err := pg.Stop(devstack.StopFast); err != nil {
		t.Fatal(err)
	}
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(pg.Port())))
	if err != nil {
		t.Fatal(err)
	}
	if err := pg.Restart(t.Context(), devstack.StopFast); err == nil || !strings.Contains(err.Error(), "the port is taken") {
		t.Errorf("got %v", err)
	}
	if err := errors.Join(listener.Close(), pg.Restart(t.Context(), devstack.StopFast)); err != nil {
		t.Error(err)
	}
}

func TestPostgresPausedAnswersNothingAndResumedGoesOn(t *testing.T) {
	t.Parallel()
	pg := startPostgres(t, devstack.PostgresOptions{})
	conn, err := pgx.Connect(t.Context(), pg.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // the server goes away anyway
	if err := pg.Pause(); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { // ends with the answer, after Resume
		_, err := conn.Exec(t.Context(), "select 1")
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Fatalf("a paused server answered: %v", err)
	case <-time.After(300 * time.Millisecond): // long enough for a running one to answer a thousand times
	}
	if err := pg.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

func TestPostgresCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	endings := map[string]func(*devstack.Postgres) error{
		"running": func(*devstack.Postgres) error { return nil },
		"paused":  (*devstack.Postgres).Pause,
		"killed":  (*devstack.Postgres).Kill,
		"stopped": func(pg *devstack.Postgres) error { return pg.Stop(devstack.StopFast) },
	}
	for name, end := range endings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pg := startPostgres(t, devstack.PostgresOptions{})
			if len(processesOf(t, pg.Dir())) < 3 {
				t.Fatal("the test sees no processes, so it would see none left")
			}
			segment := sharedMemory(t, pg)
			if err := errors.Join(end(pg), pg.Close(), pg.Close()); err != nil {
				t.Fatal(err)
			}
			if left := processesOf(t, pg.Dir()); len(left) > 0 {
				t.Errorf("processes left: %v", left)
			}
			if _, err := os.Stat(pg.Dir()); !os.IsNotExist(err) {
				t.Errorf("directory left: %v", err)
			}
			if text, err := os.ReadFile("/proc/sysvipc/shm"); err != nil || strings.Contains(string(text), " "+segment+" ") {
				t.Errorf("shared memory segment %s left: %v", segment, err)
			}
			if err := pg.Restart(t.Context(), devstack.StopFast); !errors.Is(err, devstack.ErrClosed) {
				t.Errorf("restart after Close: %v", err)
			}
		})
	}
}

// sharedMemory returns the number of the server's System V segment.
func sharedMemory(t *testing.T, pg *devstack.Postgres) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(pg.DataDir(), "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(strings.Split(string(text), "\n")[6])[1]
}

// To Linux the parent of a process is the thread that forked it, and a goroutine that ends locked takes its thread along.
func TestPostgresOutlivesTheThreadThatAskedForIt(t *testing.T) {
	t.Parallel()
	var pg *devstack.Postgres
	var err error
	asked := make(chan struct{})
	go func() { // ends when the server runs
		defer close(asked)
		runtime.LockOSThread()
		pg, err = devstack.StartPostgres(t.Context(), devstack.PostgresOptions{})
	}()
	<-asked
	if err != nil {
		t.Fatal(err)
	}
	if err := exec1(t.Context(), pg.DSN("postgres"), "select pg_sleep(0.3)"); err != nil {
		t.Error(err)
	}
	if err := pg.Close(); err != nil {
		t.Error(err)
	}
}

func TestPostgresDirOfTheCallerIsKeptAndTakenUpAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pg := startPostgres(t, devstack.PostgresOptions{Dir: dir})
	if err := errors.Join(exec1(t.Context(), pg.DSN("postgres"), "create table t (i int)"), pg.Close()); err != nil {
		t.Fatal(err)
	}
	again := startPostgres(t, devstack.PostgresOptions{Dir: dir})
	if err := exec1(t.Context(), again.DSN("postgres"), "select from t"); err != nil {
		t.Error(err)
	}
}

func TestPostgresFailureQuotesItsLog(t *testing.T) {
	t.Parallel()
	_, err := devstack.StartPostgres(t.Context(), devstack.PostgresOptions{Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("got %v", err)
	}
	_, err = devstack.StartPostgres(t.Context(), devstack.PostgresOptions{Version: "7"})
	if err == nil || !strings.Contains(err.Error(), "use 16, 17, 18") {
		t.Errorf("got %v", err)
	}
}

// victim starts a server, says where, and waits for its own death.
func victim(kind string) {
	var dir string
	var err error
	if kind == "kafka" {
		var kafka *devstack.Kafka
		if kafka, err = devstack.StartKafka(context.Background(), devstack.KafkaOptions{}); err == nil {
			dir = kafka.Dir()
		}
	} else {
		var pg *devstack.Postgres
		if pg, err = devstack.StartPostgres(context.Background(), devstack.PostgresOptions{}); err == nil {
			dir = pg.Dir()
			if kind == "paused" {
				err = pg.Pause()
			}
		}
	}
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println(dir)
	select {}
}

func TestServerDiesWithItsKilledOwner(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"running", "paused", "kafka"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			if kind == "kafka" {
				stacktest.Require(t, "kafka", devstack.HaveKafka())
			}
			owner := exec.CommandContext(t.Context(), os.Args[0])
			owner.Env = append(os.Environ(), victimEnv+"="+kind)
			output, err := owner.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := owner.Start(); err != nil {
				t.Fatal(err)
			}
			dir, err := bufio.NewReader(output).ReadString('\n')
			dir = strings.TrimSpace(dir)
			if err != nil || len(processesOf(t, dir)) == 0 {
				t.Fatalf("the owner said %q, %v", dir, err)
			}
			if err := owner.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			_ = owner.Wait()

			deadline := time.After(2 * time.Minute)
			tick := time.NewTicker(20 * time.Millisecond) // nobody tells when the orphans of another process end
			defer tick.Stop()
			for len(processesOf(t, dir)) > 0 {
				select {
				case <-tick.C:
				case <-deadline:
					t.Fatalf("processes left: %v", processesOf(t, dir))
				}
			}
			// The next server of the kind removes what the dead owner left.
			if kind == "kafka" {
				return // which would take a start of Kafka to show
			}
			startPostgres(t, devstack.PostgresOptions{})
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("directory left: %v", err)
			}
		})
	}
}
