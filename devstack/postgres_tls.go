package devstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// secure adds what makes the server encrypt and ask who comes, as far as it was told to.
func (p *Postgres) secure(settings map[string]string) error {
	if p.hba != nil {
		lines := append([]string{"local all all trust", "local replication all trust"}, p.hba...)
		if err := p.writeOwn("devstack_hba.conf", []byte(strings.Join(lines, "\n")+"\n")); err != nil {
			return err
		}
		settings["hba_file"] = filepath.Join(p.data, "devstack_hba.conf")
	}
	if p.tls == nil {
		return nil
	}
	settings["ssl"] = "on"
	settings["ssl_cert_file"], settings["ssl_key_file"], settings["ssl_ca_file"] = "devstack.crt", "devstack.key", "devstack_ca.crt"
	return p.writeTLS(p.tls)
}

// writeTLS writes the certificates, also the one that clients need, outside of the directory that is closed to them.
func (p *Postgres) writeTLS(t *TLS) error {
	for name, content := range map[string][]byte{"devstack.crt": t.Certificate, "devstack.key": t.Key, "devstack_ca.crt": t.CA} {
		if err := p.writeOwn(name, content); err != nil {
			return err
		}
	}
	if err := os.WriteFile(p.CAFile(), t.CA, 0o644); err != nil {
		return fmt.Errorf("write the authority of Postgres: %w", err)
	}
	return nil
}

// writeOwn writes a file in the data directory that is the server's alone.
func (p *Postgres) writeOwn(name string, content []byte) error {
	path := filepath.Join(p.data, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("write %s of Postgres: %w", name, err)
	}
	return p.account.own(path)
}

// CAFile holds the authority that PostgresOptions.TLS names, for clients.
func (p *Postgres) CAFile() string { return filepath.Join(p.scratch.dir, "ca.crt") }

// SetTLS gives the server another certificate, for all connections from now on.
func (p *Postgres) SetTLS(ctx context.Context, t *TLS) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("change the certificate of Postgres: %w", ErrClosed)
	}
	p.tls = t
	if err := p.writeTLS(t); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, p.SocketDSN("postgres"))
	if err != nil {
		return fmt.Errorf("change the certificate of Postgres: %w", err)
	}
	_, err = conn.Exec(ctx, "select pg_reload_conf()")
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		return fmt.Errorf("change the certificate of Postgres: %w", err)
	}
	return nil
}

// SecureDSN returns the URL of a database over TCP and TLS, which holds the server's certificate against CAFile.
func (p *Postgres) SecureDSN(database string) string {
	query := url.Values{"sslmode": {"verify-full"}, "sslrootcert": {p.CAFile()}}
	dsn := url.URL{
		Scheme: "postgres", User: url.User("postgres"), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)),
		Path: "/" + database, RawQuery: query.Encode(),
	}
	return dsn.String()
}
