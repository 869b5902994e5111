// Package handshake reads the certificates of TLS from files, and says what it means that a handshake has failed.
//
// The one rule: files are read when a connection is made, not when the process starts. So a certificate that is renewed, as
// they are every few weeks, takes no restart.
package handshake

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// Client says where a client has its certificates; all files are PEM, and each may be "".
type Client struct {
	CAFile             string // whose servers are trusted; "": the system's authorities
	CertFile, KeyFile  string // what the client shows; both or none
	ServerName         string // what the server's certificate must be for; "": the host that is dialled
	InsecureSkipVerify bool
	Keys               Keys
}

// Keys are the names of those settings in the configuration, for errors.
type Keys struct{ CAFile, CertFile, KeyFile, ServerName string }

// Config reads the files. The errors name the setting and the file.
func (c *Client) Config() (*tls.Config, error) {
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: c.ServerName,
		InsecureSkipVerify: c.InsecureSkipVerify, //nolint:gosec // the operator asked for it by a name that says what it is
	}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Keys.CAFile, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in %s", c.Keys.CAFile, c.CAFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", c.Keys.CertFile, c.Keys.KeyFile, err)
		}
		// Not Certificates: of those, one that the server does not trust is not shown, and the server would say that there is none.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return config, nil
}

// Own is the certificate that a client with this configuration shows, nil if it has none.
func Own(config *tls.Config) *x509.Certificate {
	if config.GetClientCertificate == nil {
		return nil
	}
	pair, err := config.GetClientCertificate(nil)
	if err != nil {
		return nil
	}
	return pair.Leaf
}

// Explain says what a failed handshake, or a refusal right after it, means and what to do, as a sentence without its end; ""
// if err is not about TLS. own is what we have shown, nil if that is nothing or unknown.
func Explain(err error, keys Keys, own *x509.Certificate) string {
	var header tls.RecordHeaderError
	if text := explainTheirs(err, keys); text != "" {
		return text
	}
	remote, ok := errors.AsType[*net.OpError](err)
	switch {
	case errors.As(err, &header):
		return "the server does not speak TLS on this port: use the port that does, or turn TLS off"
	case !ok || remote.Op != "remote error":
		return ""
	case own != nil && time.Now().After(own.NotAfter):
		return fmt.Sprintf("our certificate (%s) has expired, on %s: renew it; that takes no restart", keys.CertFile, own.NotAfter.UTC().Format(time.RFC3339))
	}
	// The types of these are crypto/tls's own.
	says := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(remote.Err.Error(), w) {
				return true
			}
		}
		return false
	}
	switch {
	case own == nil && says("certificate required", "bad certificate", "handshake failure"):
		return fmt.Sprintf("the server wants a certificate of ours: set %s and %s", keys.CertFile, keys.KeyFile)
	case says("expired certificate"):
		return fmt.Sprintf("our certificate (%s) has expired: renew it; that takes no restart", keys.CertFile)
	case says("unknown certificate authority", "unknown certificate", "bad certificate", "certificate required"):
		return fmt.Sprintf("the server does not accept our certificate (%s): it must come from an authority that the server trusts, and be valid", keys.CertFile)
	default:
		return "the server broke off the handshake: see its log"
	}
}

// explainTheirs is about the server's certificate.
func explainTheirs(err error, keys Keys) string {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return fmt.Sprintf("the server's certificate comes from an authority that is not trusted: put that authority's certificate into %s", keys.CAFile)
	case errors.As(err, &host):
		text := "the server's certificate is not for the name that it is reached by: connect by a name that it is for"
		if keys.ServerName != "" {
			text += ", or set " + keys.ServerName
		}
		return text
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("the server's certificate has expired, or is not valid yet (from %s to %s): renew it on the server, or correct the clock",
			invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	case errors.As(err, &invalid):
		return "the server's certificate is not fit for this: " + invalid.Error()
	default:
		return ""
	}
}
