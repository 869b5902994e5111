package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tidemark/tidemark/config"
)

// The two questions of an orchestrator, as admin serves them.
const (
	livePath  = "/livez"
	readyPath = "/readyz"
)

// probe asks the relay that runs on this host a question of an orchestrator's, and fails with the relay's reason if the answer
// is no. It is the health check of a container that has neither a shell nor curl.
func (a *app) probe(ctx context.Context, c *config.Config, path string) error {
	if c.HTTP.Listen == "" {
		return errors.New("http.listen is empty, so the relay cannot be asked: give it an address, such as 127.0.0.1:8642")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	response, err := get(ctx, c, path)
	if err != nil {
		return fmt.Errorf("no relay answers on http.listen (%s): %w", c.HTTP.Listen, err)
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

// get asks the relay that listens on this host.
func get(ctx context.Context, c *config.Config, path string) (*http.Response, error) {
	base, client, err := relayHTTP(c)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("ask the relay: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the relay: %w", err)
	}
	return response, nil
}
