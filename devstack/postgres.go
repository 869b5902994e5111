package devstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Limits of what a local server may take. They only turn a hang into an error, so they are generous.
const (
	readyLimit = 2 * time.Minute
	stopLimit  = 30 * time.Second
)

// StopMode says how Postgres is told to stop.
type StopMode string

const (
	// StopFast ends sessions, waits until connected walsenders have sent everything, and writes a checkpoint.
	StopFast StopMode = "fast"
	// StopImmediate ends at once; the next start recovers from the WAL, as after a crash.
	StopImmediate StopMode = "immediate"
)

func (m StopMode) signal() (syscall.Signal, error) {
	switch m {
	case StopFast:
		return syscall.SIGINT, nil
	case StopImmediate:
		return syscall.SIGQUIT, nil
	}
	return 0, fmt.Errorf("stop Postgres: unknown mode %q; use %q or %q", string(m), string(StopFast), string(StopImmediate))
}

// PostgresOptions are what StartPostgres can be told; the zero value is a fresh Postgres 18.
type PostgresOptions struct {
	// Version is 16, 17 or 18, or a full release such as 18.4.0.
	Version string
	// Settings are added to, and override, those that make logical replication work and start-up quick. The address,
	// the port and the socket directory are not theirs to choose.
	Settings map[string]string
	// TLS makes the server take encrypted connections, too; see SecureDSN.
	TLS *TLS
	// HBA are lines of pg_hba.conf that take the place of those that let everybody in over TCP. The socket stays open.
	HBA []string
	// Dir keeps the data and the log after Close, and a later StartPostgres with it takes the data up again; so does one
	// whose Dir holds a copy of another server's data directory as Dir/data. By default a temporary directory is used,
	// which Close removes. As root, Dir must be reachable for the unprivileged account that runs Postgres; below
	// the temporary directory that is seen to.
	Dir string
	// Log gets the server's output instead of the file postgres.log in Dir.
	Log io.Writer
	// Progress is told, by a goroutine of StartPostgres's own and never after it returned, what the first start waits for.
	Progress func(string)
}

// Postgres is a server of this process's own, on 127.0.0.1 and on a unix socket, with the superuser postgres and no password,
// unless PostgresOptions.HBA asks for one.
// Its methods may be called by any goroutine.
type Postgres struct {
	settings map[string]string
	tls      *TLS
	hba      []string
	bin      string
	dir      string
	data     string
	keep     bool // dir is the caller's
	scratch  *scratch
	account  account
	port     int
	log      *serverLog

	mu     sync.Mutex
	proc   *process // nil before the first start
	paused bool
	closed bool
}

// errPortTaken is why a start is tried again with another port.
var errPortTaken = errors.New("the port is taken")

// StartPostgres starts a server and returns when it accepts connections. The first start of a version on a machine fetches
// it over the network; later ones take less than a second. ctx limits the start alone.
func StartPostgres(ctx context.Context, opts PostgresOptions) (*Postgres, error) {
	progress := opts.Progress
	if progress == nil {
		progress = func(string) {}
	}
	release, err := postgresRelease(opts.Version)
	if err != nil {
		return nil, err
	}
	dist, err := postgresBinaries(ctx, release, progress)
	if err != nil {
		return nil, err
	}
	template, err := postgresTemplate(ctx, release, dist, progress)
	if err != nil {
		return nil, err
	}

	scratch, err := newScratch("pg")
	if err != nil {
		return nil, err
	}
	p := &Postgres{
		settings: opts.Settings,
		tls:      opts.TLS,
		hba:      opts.HBA,
		bin:      filepath.Join(dist, "bin", "postgres"),
		dir:      scratch.dir,
		scratch:  scratch,
		account:  serverAccount(),
	}
	if opts.Dir != "" {
		p.keep = true
		if p.dir, err = filepath.Abs(opts.Dir); err != nil {
			return nil, errors.Join(fmt.Errorf("resolve data directory: %w", err), p.Close())
		}
	}
	p.data = filepath.Join(p.dir, "data")
	p.log = &serverLog{path: filepath.Join(p.dir, "postgres.log"), to: opts.Log}
	err = p.prepare(func() error { return os.CopyFS(p.data, os.DirFS(template)) })
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if err := p.startOnFreePort(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// prepare makes the data directory, with fill if it is not there, and the directory of the socket.
func (p *Postgres) prepare(fill func() error) error {
	if err := os.MkdirAll(p.dir, 0o711); err != nil { // the server's account passes through to its own
		return fmt.Errorf("make data directory: %w", err)
	}
	if err := p.account.openWay(p.dir); err != nil {
		return err
	}
	if !exists(p.data) {
		if err := fill(); err != nil {
			return errors.Join(fmt.Errorf("copy data directory: %w", err), os.RemoveAll(p.data))
		}
	}
	// Postgres refuses a directory that others can read.
	if err := os.Chmod(p.data, 0o700); err != nil {
		return fmt.Errorf("close data directory: %w", err)
	}
	if err := p.account.own(p.data); err != nil {
		return err
	}
	if err := os.Mkdir(p.SocketDir(), 0o700); err != nil {
		return fmt.Errorf("make socket directory: %w", err)
	}
	return p.account.own(p.SocketDir())
}

func (p *Postgres) startOnFreePort(ctx context.Context) error {
	var err error
	for range 10 {
		if p.port, err = freePort(ctx); err != nil {
			return err
		}
		if err = p.start(ctx); !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}

// start starts the server on p.port and waits until it accepts connections.
func (p *Postgres) start(ctx context.Context) error {
	settings := map[string]string{
		"wal_level":             "logical",
		"max_wal_senders":       "20",
		"max_replication_slots": "20",
		"shared_buffers":        "64MB",
		"fsync":                 "off", // the data outlives a killed server, not a power failure; nobody needs more here
		// Segments in /dev/shm would stay there when a killed server is never started again, and containers have little of it.
		"dynamic_shared_memory_type": "mmap",
	}
	maps.Copy(settings, p.settings)
	settings["listen_addresses"] = "127.0.0.1"
	settings["port"] = strconv.Itoa(p.port)
	settings["unix_socket_directories"] = p.SocketDir()
	settings["logging_collector"] = "off"
	if err := p.secure(settings); err != nil {
		return err
	}
	if err := writeConf(filepath.Join(p.data, confName), settings); err != nil {
		return err
	}

	output, opened, err := p.log.open()
	if err != nil {
		return err
	}
	defer opened()
	// ctx limits the start; the server lives on.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), p.bin, "-D", p.data)
	cmd.Dir = p.data
	cmd.Env = postgresEnv()
	cmd.Stdout, cmd.Stderr = output, output
	p.account.run(cmd)
	// SIGQUIT is the immediate stop, which takes the children and the shared memory along. SIGKILL would end only the first
	// process. A paused server is reached as well: the kernel continues stopped processes whose parent's death leaves
	// their group orphaned.
	proc, err := startProcess(cmd, syscall.SIGQUIT, p.scratch.lock)
	if err != nil {
		if p.account.other {
			err = fmt.Errorf("%w (as uid %d, because Postgres refuses root; if this container cannot change its user, run tidemark as an ordinary one)", err, p.account.uid)
		}
		return err
	}
	p.proc, p.paused = proc, false
	if err := p.awaitReady(ctx); err != nil {
		_ = p.proc.kill()
		if p.log.portTaken() {
			return fmt.Errorf("start Postgres on port %d: %w", p.port, errPortTaken)
		}
		return fmt.Errorf("start Postgres: %w%s", err, quoteLog(p.log.tail()))
	}
	return nil
}

// awaitReady connects until it succeeds, through the socket, which nobody else's server can have; the port might be another's.
func (p *Postgres) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("no connection after %v", readyLimit))
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, p.SocketDSN("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-p.proc.exited:
			return fmt.Errorf("it ended: %w", p.proc.err)
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// DSN returns the URL of a database over TCP.
func (p *Postgres) DSN(database string) string {
	dsn := url.URL{
		Scheme:   "postgres",
		User:     url.User("postgres"),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return dsn.String()
}

// SocketDSN returns the URL of a database over the unix socket, which reads a backlog about twice as fast as TCP.
func (p *Postgres) SocketDSN(database string) string {
	query := url.Values{"host": {p.SocketDir()}, "port": {strconv.Itoa(p.port)}, "sslmode": {"disable"}}
	dsn := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/" + database, RawQuery: query.Encode()}
	return dsn.String()
}

// Port is the TCP port on 127.0.0.1. It stays the same across restarts.
func (p *Postgres) Port() int { return p.port }

// SocketDir is the directory of the unix socket.
func (p *Postgres) SocketDir() string { return filepath.Join(p.scratch.dir, "s") }

// Dir is the directory of the log and of the data directory.
func (p *Postgres) Dir() string { return p.dir }

// DataDir is the data directory. To copy it, stop the server first.
func (p *Postgres) DataDir() string { return p.data }

// Log returns the end of what the server has written since its last start.
func (p *Postgres) Log() string { return p.log.tail() }

// CreateDatabase makes an empty database.
func (p *Postgres) CreateDatabase(ctx context.Context, name string) error {
	conn, err := pgx.Connect(ctx, p.SocketDSN("postgres"))
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	_, err = conn.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize())
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// Stop stops the server and returns when no process of it is left. One that is stopped already is left alone. A fast stop
// that takes longer than half a minute (a replication client that confirms nothing holds it up) becomes a kill and an error.
func (p *Postgres) Stop(mode StopMode) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("stop Postgres: %w", ErrClosed)
	}
	return p.stop(context.Background(), mode) //nolint:forbidigo // bounded by stopLimit; a caller's context that has ended must not turn a stop into a kill
}

func (p *Postgres) stop(ctx context.Context, mode StopMode) error {
	sig, err := mode.signal()
	if err != nil {
		return err
	}
	if p.proc == nil {
		return nil
	}
	if p.paused {
		if err := p.resume(); err != nil {
			return err
		}
	}
	if err := p.proc.end(ctx, sig, stopLimit); err != nil {
		return fmt.Errorf("stop Postgres (%s): %w; it was killed", mode, err)
	}
	return nil
}

// Restart stops the server, if it runs, and starts it again on the same data and port. When ctx ends during the stop,
// the server is killed and stays down.
func (p *Postgres) Restart(ctx context.Context, mode StopMode) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("restart Postgres: %w", ErrClosed)
	}
	if err := p.stop(ctx, mode); err != nil {
		return err
	}
	return p.start(ctx)
}

// Kill ends all processes of the server with SIGKILL and returns when none is left. Restart starts it again.
func (p *Postgres) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("kill Postgres: %w", ErrClosed)
	}
	return p.proc.kill()
}

// Pause stops all processes of the server where they are (SIGSTOP): connections stay open and answer nothing.
func (p *Postgres) Pause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("pause Postgres: %w", ErrClosed)
	}
	p.paused = true
	return p.proc.pause()
}

// Resume undoes Pause.
func (p *Postgres) Resume() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("resume Postgres: %w", ErrClosed)
	}
	return p.resume()
}

func (p *Postgres) resume() error {
	p.paused = false
	return p.proc.resume()
}

// Close stops the server and removes its files, except in a Dir that the caller chose. It may be called twice.
func (p *Postgres) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	mode := StopImmediate // nobody will need the checkpoint
	if p.keep {
		mode = StopFast
	}
	err := p.stop(context.Background(), mode) //nolint:forbidigo // as in Stop
	if !p.keep {
		removeSharedMemory(p.data)
	}
	return errors.Join(err, p.scratch.remove())
}
