package trial

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Config is what a tidemark is started with. Everything reaches it through its environment.
type Config struct {
	Binary     string
	Args       []string // of the command line; default run
	DSN        string
	Slot       string
	Brokers    []string
	Checkpoint string
	DeadLetter string            // the dead letter topic
	Dir        string            // where it runs; default where we do
	Env        map[string]string // more variables; an empty value takes one away
	Output     io.Writer         // gets what it writes to stderr, besides Relay.Log
}

// With returns c with more variables.
func (c Config) With(env ...string) Config {
	c.Env = maps.Clone(c.Env)
	if c.Env == nil {
		c.Env = make(map[string]string)
	}
	for i := 0; i+1 < len(env); i += 2 {
		c.Env[env[i]] = env[i+1]
	}
	return c
}

func (c *Config) environ(listen string) []string {
	env := map[string]string{
		"TIDEMARK_SOURCE_DSN":                 c.DSN,
		"TIDEMARK_SOURCE_SLOT":                c.Slot,
		"TIDEMARK_KAFKA_BROKERS":              strings.Join(c.Brokers, ","),
		"TIDEMARK_CHECKPOINT_PATH":            c.Checkpoint,
		"TIDEMARK_DELIVERY_DEAD_LETTER_TOPIC": c.DeadLetter,
		"TIDEMARK_HTTP_LISTEN":                listen,
		"TIDEMARK_LOG_FORMAT":                 "json",
	}
	maps.Copy(env, c.Env)
	var out []string
	for _, variable := range os.Environ() { // without what belongs to the one who runs the tests
		if !strings.HasPrefix(variable, "TIDEMARK_") && !strings.HasPrefix(variable, "PG") {
			out = append(out, variable)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if env[name] != "" {
			out = append(out, name+"="+env[name])
		}
	}
	return out
}

// Relay is a tidemark, running or ended. Any goroutine may call its methods.
type Relay struct {
	*Process
	URL string // of its HTTP server
}

// portTaken is what tidemark says, and why a start is tried again, when another has taken the port meanwhile.
const portTaken = "listen for HTTP"

// Start starts tidemark and returns when its HTTP server answers or it has ended. It dies with this process. ctx limits
// the start alone.
func Start(ctx context.Context, c Config) (*Relay, error) {
	for range 10 {
		port, err := freePort(ctx)
		if err != nil {
			return nil, err
		}
		r, err := launch(ctx, &c, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return nil, err
		}
		select {
		case <-r.log.said("HTTP is served"):
			return r, nil
		case <-r.done:
			if !strings.Contains(r.Log(), portTaken) {
				return r, nil
			}
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), r.Kill())
		}
	}
	return nil, errors.New("start tidemark: no port is free")
}

// Command runs another command than run to its end, and returns what it has written to stdout. Another exit status than 0
// is an error.
func Command(ctx context.Context, c Config, args ...string) (string, error) {
	c.Args = args
	r, err := launch(ctx, &c, "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	status, err := r.Wait(3 * time.Minute)
	if err == nil && status != 0 {
		err = fmt.Errorf("tidemark %s: exit status %d: %s", strings.Join(args, " "), status, strings.TrimSpace(r.Log()))
	}
	return r.Stdout(), err
}

// Run starts tidemark with the given HTTP address and returns without waiting for anything.
func Run(ctx context.Context, c Config, listen string) (*Relay, error) {
	return launch(ctx, &c, listen)
}

func freePort(ctx context.Context) (int, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	address := listener.Addr().(*net.TCPAddr) //nolint:forcetypeassert // of a TCP listener
	return address.Port, listener.Close()
}

func launch(ctx context.Context, c *Config, listen string) (*Relay, error) {
	args := c.Args
	if len(args) == 0 {
		args = []string{"run"}
	}
	p, err := StartProcess(ctx, Program{Name: "tidemark", Path: c.Binary, Args: args, Environ: c.environ(listen), Dir: c.Dir, Output: c.Output})
	if err != nil {
		return nil, err
	}
	return &Relay{p, "http://" + listen}, nil
}

// Get asks its HTTP server.
func (r *Relay) Get(ctx context.Context, path string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL+path, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close() //nolint:errcheck // read to its end
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// AwaitReady waits until /readyz answers 200.
func (r *Relay) AwaitReady(ctx context.Context) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	last := "it does not answer"
	for {
		status, body, err := r.Get(ctx, "/readyz")
		switch {
		case err == nil && status == http.StatusOK:
			return nil
		case err == nil:
			last = strings.TrimSpace(body)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("tidemark is not ready: %s: %w", last, ctx.Err())
		case <-r.done:
			return fmt.Errorf("tidemark ended with status %d before it was ready", r.Status())
		case <-ticker.C:
		}
	}
}

// Metric returns the sum of a metric's values over all its labels; 0 if it has none yet.
func (r *Relay) Metric(ctx context.Context, name string) (float64, error) {
	status, body, err := r.Get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	if status != http.StatusOK {
		return 0, fmt.Errorf("/metrics answers %d", status)
	}
	sum := 0.0
	lines := bufio.NewScanner(strings.NewReader(body))
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		value, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", name, err)
		}
		sum += value
	}
	return sum, lines.Err()
}

// tail keeps the end of what is written to it, and tells when a text came by.
type tail struct {
	to   io.Writer
	keep int // bytes, at least

	mu      sync.Mutex
	buf     []byte
	waiting map[string]chan struct{}
}

const (
	logBytes    = 256 << 10
	stdoutBytes = 64 << 20 // JSON cannot be read from its end: a name for each of many thousand rows
)

func newTail(to io.Writer, keep int) *tail {
	return &tail{to: to, keep: keep, waiting: make(map[string]chan struct{})}
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	for text, ch := range t.waiting {
		if strings.Contains(string(t.buf[max(0, len(t.buf)-len(b)-len(text)):]), text) {
			close(ch)
			delete(t.waiting, text)
		}
	}
	if len(t.buf) > 2*t.keep {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-t.keep:]...)
	}
	if t.to != nil {
		_, _ = t.to.Write(b) // a copy for somebody who reads along
	}
	return len(b), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf[max(0, len(t.buf)-t.keep):])
}

// said returns a channel that is closed as soon as the text has been written.
func (t *tail) said(text string) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	ch := t.waiting[text]
	if ch == nil {
		ch = make(chan struct{})
		if strings.Contains(string(t.buf), text) {
			close(ch)
			return ch
		}
		t.waiting[text] = ch
	}
	return ch
}
