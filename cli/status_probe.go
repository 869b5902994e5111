package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// The two questions of an orchestrator, as admin serves them.
const (
	livePath  = "/livez"
	readyPath = "/readyz"
)

// probe asks the relay that runs on this host a question of an orchestrator's, and fails with the relay's reason if the answer
// is no. It is the health check of a container that has neither a shell nor curl.
func (a *app) probe(ctx context.Context, listen, path string) error {
	if listen == "" {
		return errors.New("http.listen is empty, so the relay cannot be asked: give it an address, such as 127.0.0.1:8642")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	response, err := get(ctx, listen, path)
	if err != nil {
		return fmt.Errorf("no relay answers on http.listen (%s): %w", listen, err)
	}
	defer func() { _ = response.Body.Close() }() // read to its end or given up
	reason, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("read the relay's answer: %w", err)
	}
	answer := strings.TrimSpace(string(reason))
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", strings.TrimPrefix(path, "/"), answer)
	}
	a.printf("%s\n", answer)
	return nil
}

// get asks the relay that listens on this host. An address that stands for all of a host's is asked on the loopback.
func get(ctx context.Context, listen, path string) (*http.Response, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, fmt.Errorf("http.listen: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the relay: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the relay: %w", err)
	}
	return response, nil
}
