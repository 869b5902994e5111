package cli

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/handshake"
)

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
