package cli

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidemark/tidemark/admin"
	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/handshake"
)

// listen takes the address of the HTTP server, and has it show and do what each path is for.
func (j *job) listen(ctx context.Context, registry prometheus.Gatherer, care *upkeep, desk *parkedDesk) (*admin.Server, error) {
	secure, err := httpTLS(j.config)
	if err != nil {
		return nil, err
	}
	c := j.config
	report := func() *statusReport {
		now := liveReport(c, j.relay)
		now.Upkeep = care.status()
		return now
	}
	return admin.Listen(ctx, admin.Options{
		TLS: secure, Listen: c.HTTP.Listen, Token: string(c.HTTP.Token), Ready: j.relay.Ready, Gatherer: registry,
		Status: func() any { return report() },
		Event:  func(ctx context.Context, id string) (any, error) { return eventOf(ctx, c, id) },
		Replay: func(ctx context.Context, body json.RawMessage) (any, error) { return answerReplay(ctx, c, j.log, body) },
		Doctor: doctorFor(c),
		Live:   liveFeed(c, j.relay, j.metrics, report),
		Parked: desk.list, ParkedEvent: desk.show, Release: desk.release, Discard: desk.discard,
		Log: j.log.With().Str("component", "admin").Logger(),
	})
}

// httpTLS is the relay's side of HTTPS, nil if it is not configured.
func httpTLS(c *config.Config) (*tls.Config, error) {
	if c.HTTP.TLS.CertFile == "" {
		return nil, nil //nolint:nilnil // nil is HTTP
	}
	secure, err := handshake.Server(c.HTTP.TLS.CertFile, c.HTTP.TLS.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("http.tls.cert_file and http.tls.key_file: %w", err)
	}
	return secure, nil
}

// relayHTTP returns the base URL of the relay with this configuration, and a client for it, which keeps no connection. With
// TLS that is the relay which shows the configured certificate, and no other.
func relayHTTP(c *config.Config) (url string, client *http.Client, err error) {
	host, port, err := net.SplitHostPort(c.HTTP.Listen)
	if err != nil {
		return "", nil, fmt.Errorf("http.listen: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() { // which stands for all of a host's
		host = "localhost"
	}
	address := net.JoinHostPort(host, port)
	transport := &http.Transport{DisableKeepAlives: true, TLSHandshakeTimeout: 2 * time.Second}
	client = &http.Client{Transport: transport}
	if c.HTTP.TLS.CertFile == "" {
		return "http://" + address, client, nil
	}
	transport.TLSClientConfig, err = relayTLS(c)
	return "https://" + address, client, err
}

// relayTLS is what it takes to speak to that relay. An error is one of the configured files.
func relayTLS(c *config.Config) (*tls.Config, error) {
	if _, err := httpTLS(c); err != nil {
		return nil, err
	}
	pinned, err := handshake.Pinned(c.HTTP.TLS.CertFile)
	if err != nil {
		return nil, fmt.Errorf("http.tls.cert_file: %w", err)
	}
	return pinned, nil
}
