package bench

import (
	"errors"

	"github.com/tidemark/tidemark/devstack"
)

// secured is the way to the embedded servers through TLS, which only cases that ask for it take.
type secured struct {
	dsn     string
	brokers []string
	caFile  string // whose certificates both servers have
}

// errNoTLS is why such a case cannot be measured.
var errNoTLS = errors.New("TLS is measured between embedded servers, a real Kafka among them: leave out --source and --brokers, and have Java 17 and Maven")

// serverTLS returns certificates for embedded servers from an authority of this run's own.
func serverTLS() (*devstack.TLS, error) {
	authority, err := devstack.NewAuthority("tidemark bench")
	if err != nil {
		return nil, err
	}
	return authority.ServerTLS()
}

// settings are the relay's.
func (s *secured) settings() []string {
	return []string{"kafka.tls.enabled=true", "kafka.tls.ca_file=" + s.caFile}
}
