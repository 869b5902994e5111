package login_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/test/trial"
)

// rotate replaces everybody's certificates and authorities under a running relay, and cuts its connections: it has to come
// back by itself, which it can with the new files alone.
func (s *servers) rotate(t *testing.T) {
	t.Helper()
	const number = 1000
	issue := func(authority *devstack.Authority) {
		s.file("rotated-ca.crt", authority.Certificate())
		s.pair("rotated-postgres", authority, devstack.IssueOptions{Name: "certified"})
		s.pair("rotated-kafka", authority, devstack.IssueOptions{Name: "orders"})
	}
	issue(s.ours)
	path := func(name string) string { return s.dir + "/rotated-" + name }
	c := s.config(number, &login{
		dsn: s.dsn("certified", "127.0.0.1", "sslmode", "verify-full", "sslrootcert", path("ca.crt"), "sslcert", path("postgres.crt"), "sslkey", path("postgres.key")),
		env: []string{
			"TIDEMARK_KAFKA_BROKERS", strings.Join(s.kafka.BrokersAt(devstack.ListenerMutual), ","),
			"TIDEMARK_KAFKA_TLS_ENABLED", "true", "TIDEMARK_KAFKA_TLS_CA_FILE", path("ca.crt"),
			"TIDEMARK_KAFKA_TLS_CERT_FILE", path("kafka.crt"), "TIDEMARK_KAFKA_TLS_KEY_FILE", path("kafka.key"),
		},
	})
	r, err := trial.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Kill() //nolint:errcheck // it has ended, or the test has failed
	arrived := func(want int64) {
		t.Helper()
		var last error
		err := trial.Await(t.Context(), "the event arrives", 2*time.Minute, func() (bool, error) {
			n, err := s.count(t.Context(), prefix(number)+"order") // not at once: there is no such topic, or the broker has just started
			last = err
			return n >= want, nil
		})
		if err != nil {
			t.Fatalf("%v, %v; its log:\n%s", err, last, r.Log())
		}
	}
	arrived(1)

	next, err := devstack.NewAuthority("next")
	s.must(err)
	served, err := next.ServerTLS()
	s.must(err)
	issue(next)
	s.must(s.pg.SetTLS(t.Context(), served))
	s.must(s.kafka.Stop(0))
	s.must(s.kafka.SetTLS(served))
	s.must(s.kafka.Start(t.Context(), 0))
	s.exec("select pg_terminate_backend(pid) from pg_stat_replication where application_name = 'tidemark'",
		"insert into outbox (id, aggregatetype, aggregateid, type, payload) values (gen_random_uuid(), 'order', '1', 'Paid', '{}')")
	arrived(2)
	if status, err := r.Stop(2 * time.Minute); err != nil || status != 0 {
		t.Errorf("exit status %d, %v", status, err)
	}
}
