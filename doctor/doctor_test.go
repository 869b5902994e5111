package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
	"github.com/tidemark/tidemark/wal"
)

// TestAllIsWell looks at a setup before its first start: nothing fails, every check is there, in the same order each time,
// and everything is as it was.
func TestAllIsWell(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.exec("create table outbox " + outboxColumns)
	p.exec("insert into outbox (aggregatetype, aggregateid, type, payload) select 'order', g::text, 'placed', repeat('x', g) from generate_series(1, 1000) g")
	var orders []string
	for range 2 {
		r := p.examine()
		order := ""
		for _, f := range r.Checks {
			order += f.Check + " "
			if f.State == Fail || f.State == Skipped || (f.State == Warn && f.Check != checkRole) {
				t.Errorf("%+v", f)
			}
		}
		orders = append(orders, order)
		must(t, r.Checks, checkRole, Warn, "is a superuser", "create role", `grant select on "public"."outbox"`)
		must(t, r.Checks, checkRows, OK, "1000 rows", "1 topics")
		must(t, r.Checks, checkTopics, OK, "the first event creates outbox.event.order")
		must(t, r.Checks, checkPublication, OK, "the first start creates it")
		must(t, r.Checks, checkSize, OK, "the largest record takes 1") // some header and 1000 bytes
		if n := r.Counts[OK] + r.Counts[Warn]; n != len(r.Checks) || n < 25 {
			t.Errorf("%d checks, counted %v", len(r.Checks), r.Counts)
		}
	}
	if orders[0] != orders[1] {
		t.Errorf("another order:\n%s\n%s", orders[0], orders[1])
	}
	var left int
	err := p.db.QueryRow(t.Context(), `select (select count(*) from pg_replication_slots where database = current_database()) + (select count(*) from pg_publication)
		+ (select count(*) from pg_tables where tablename like 'tidemark%')`).Scan(&left)
	if err != nil || left != 0 {
		t.Errorf("%d things were created, %v", left, err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(p.options.Kafka.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if topics, err := kadm.NewClient(client).ListTopics(t.Context()); err != nil || len(topics) != 0 {
		t.Errorf("topics were created: %v, %v", topics.Names(), err)
	}
}

// TestItWaitsForNobody holds a lock on the table, as ALTER TABLE does.
func TestItWaitsForNobody(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.exec("create table outbox " + outboxColumns)
	p.exec("begin")
	p.exec("lock table outbox in access exclusive mode")
	r := p.examine()
	must(t, r.Checks, checkRows, Fail, "lock timeout")
	p.exec("rollback")
}

// TestItEndsWhateverDoesNotAnswer has both sides take connections and say nothing.
func TestItEndsWhateverDoesNotAnswer(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // nobody accepts; the kernel does
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	p.options.Source.DSN = "postgres://postgres@" + silent.Addr().String() + "/x"
	p.options.Kafka.Brokers = []string{silent.Addr().String()}
	p.options.Store = store{load: func() (*checkpoint.Checkpoint, error) { return nil, errors.New("must not be asked") }}
	done := make(chan *Report, 1)
	go func() { done <- p.examine() }()
	select {
	case r := <-done:
		must(t, r.Checks, checkSource, Fail, "connect")
		must(t, r.Checks, checkKafka, Fail, "no broker of")
		if r.Counts[Fail] != 2 || r.Counts[Skipped] != len(r.Checks)-3 { // the third is this host's own
			t.Errorf("counted %v", r.Counts)
		}
		for _, f := range r.Checks {
			if f.State == Skipped && !strings.HasPrefix(f.Finding, "because ") {
				t.Errorf("skipped for no reason: %+v", f)
			}
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("it does not end")
	}
}

// TestTheLogIsLookedAtBehindTheCheckpoint has a relay go on while doctor looks: what it stores meanwhile must not seem to be
// ahead of the log.
func TestTheLogIsLookedAtBehindTheCheckpoint(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.exec("create table outbox " + outboxColumns)
	var stored pglogrepl.LSN
	p.options.Store = store{load: func() (*checkpoint.Checkpoint, error) {
		p.exec("select pg_logical_emit_message(true, 'test', 'the log goes on')")
		var text string
		if err := p.db.QueryRow(t.Context(), "select pg_current_wal_flush_lsn()::text").Scan(&text); err != nil {
			return nil, err
		}
		var err error
		stored, err = pglogrepl.ParseLSN(text)
		return nil, err
	}}
	judged := false
	p.options.Judge = func(_ *wal.Slot, _ *checkpoint.Checkpoint, sys wal.System, _ wal.History) (string, error) {
		judged = true
		if sys.Flushed < stored {
			t.Errorf("the log is thought to end at %s, before what is stored, %s", sys.Flushed, stored)
		}
		return "", nil
	}
	if r := p.examine(); !judged {
		t.Errorf("it was not judged: %+v", r.Checks)
	}
}

// TestOneSideIsAway has what the other one tells be there all the same.
func TestOneSideIsAway(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.exec("create table outbox " + outboxColumns)
	kafka := p.options.Kafka.Brokers
	p.options.Kafka.Brokers = []string{"127.0.0.1:1"}
	p.options.CheckpointTopic = "tidemark.checkpoints"
	r := p.examine()
	must(t, r.Checks, checkKafka, Fail, "127.0.0.1:1", "check kafka.brokers")
	must(t, r.Checks, checkTables, OK)
	must(t, r.Checks, checkStore, Skipped, checkKafka)
	p.options.Kafka.Brokers, p.options.CheckpointTopic = kafka, ""
	p.options.Source.DSN = "postgres://postgres@127.0.0.1:1/x"
	r = p.examine()
	must(t, r.Checks, checkSource, Fail, "127.0.0.1:1", "check host and port")
	must(t, r.Checks, checkBrokers, OK)
	must(t, r.Checks, checkTopics, Skipped)
}

// TestAnAdvertisedAddressThatCannotBeReached is the classic: the seeds answer, and send to where nobody is.
func TestAnAdvertisedAddressThatCannotBeReached(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(2))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	p := newPatientOf(t, cluster)
	cluster.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		resp := req.ResponseKind().(*kmsg.MetadataResponse) //nolint:forcetypeassert // of its key
		for node, port := range []string{strings.Split(cluster.ListenAddrs()[0], ":")[1], "1"} {
			b := kmsg.NewMetadataResponseBroker()
			b.NodeID, b.Host = int32(node), "127.0.0.1" //nolint:gosec // 0 or 1
			if _, err := fmt.Sscan(port, &b.Port); err != nil {
				return nil, err, true
			}
			resp.Brokers = append(resp.Brokers, b)
		}
		return resp, nil, true
	})
	r := p.examine()
	must(t, r.Checks, checkKafka, OK, "2 brokers")
	must(t, r.Checks, checkBrokers, Fail, "broker 1 cannot be reached at 127.0.0.1:1", "advertised.listeners")
}

// TestTheEndOfATableIsSampled has rows in partitions, and the largest of a topic compressed.
func TestTheEndOfATableIsSampled(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.exec("create table outbox " + outboxColumns + " partition by list (aggregatetype)")
	for _, name := range []string{"a", "b"} {
		p.exec("create table outbox_" + name + " partition of outbox for values in ('" + name + "')")
		p.exec("insert into outbox (aggregatetype, aggregateid, type, payload) select $1, g::text, 'placed', repeat('x', 2000) from generate_series(1, 3000) g", name)
	}
	p.exec("insert into outbox (id, aggregatetype, aggregateid, type, payload) values ('00000000-0000-0000-0000-000000000001', 'b', 'k', 'placed', repeat('large ', 500000))")
	p.exec("create table outbox_none partition of outbox for values in (null)")
	p.exec("insert into outbox (aggregateid, type) values ('k', 'placed')")
	p.options.OnPoison = "park"
	r := p.examine()
	must(t, r.Checks, checkRows, Warn, "1 of the", `column "aggregatetype" is null`, "they are parked")
	must(t, r.Checks, checkTopics, OK, "outbox.event.a", "outbox.event.b")
	must(t, r.Checks, checkSize, Warn, "00000000-0000-0000-0000-000000000001", "takes 3000", "--add-config max.message.bytes=")
}

func TestListen(t *testing.T) {
	t.Parallel()
	relay := httptest.NewServer(http.NewServeMux()) // answers 404 to everything
	t.Cleanup(relay.Close)
	n := &notes{}
	n.listen(t.Context(), strings.TrimPrefix(relay.URL, "http://"), nil)
	must(t, n.found, checkListen, Fail, "something else answers")
	n = &notes{}
	n.listen(t.Context(), "127.0.0.1:0", nil)
	must(t, n.found, checkListen, OK, "is free")
	n = &notes{}
	n.listen(t.Context(), "192.0.2.1:80", nil) // reserved for documents
	must(t, n.found, checkListen, Fail, "no relay answers")
}

// TestRightsOnTopics has a user who may look and not write.
func TestRightsOnTopics(t *testing.T) {
	t.Parallel()
	allow := func(resource kmsg.ACLResourceType, name string, op kmsg.ACLOperation) kfake.ACL {
		return kfake.ACL{Resource: resource, Name: name, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "admin"), kfake.SeedTopics(1, "outbox.event.order"),
		kfake.User("PLAIN", "relay", "secret",
			allow(kmsg.ACLResourceTypeTopic, "outbox.event.order", kmsg.ACLOperationDescribe),
			allow(kmsg.ACLResourceTypeTopic, "outbox.event.order", kmsg.ACLOperationDescribeConfigs),
			allow(kmsg.ACLResourceTypeCluster, "kafka-cluster", kmsg.ACLOperationDescribe)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	p := newPatientOf(t, cluster)
	p.exec("create table outbox " + outboxColumns)
	p.exec("insert into outbox (aggregatetype, aggregateid, type, payload) values ('order', 'k', 'placed', 'x'), ('other', 'k', 'placed', 'x')")
	r := p.examine()
	must(t, r.Checks, checkKafka, Fail, "SASL") // no login
	p.options.Kafka.SASL = login("wrong")
	r = p.examine()
	must(t, r.Checks, checkKafka, Fail, "kafka.sasl")
	p.options.Kafka.SASL = login("secret")
	r = p.examine()
	must(t, r.Checks, checkRights, Fail, "WRITE on outbox.event.order", "READ on outbox.event.order", "kafka-acls --add")
	must(t, r.Checks, checkRights, Warn, "ClusterAction")
	must(t, r.Checks, checkTopics, Fail, "outbox.event.other")
}

// TestAStandbyAsTheSource has the same setup looked at from a read replica.
func TestAStandbyAsTheSource(t *testing.T) {
	t.Parallel()
	primary := stacktest.NewPostgres(t)
	if err := primary.CreateDatabase(t.Context(), "app"); err != nil {
		t.Fatal(err)
	}
	p := newPatient(t)
	db, err := pgx.Connect(t.Context(), primary.DSN("app"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	p.db = db
	p.exec("create table outbox " + outboxColumns)
	standby, err := primary.Standby(t.Context(), devstack.StandbyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := standby.Close(); err != nil {
			t.Error(err)
		}
	})
	p.options.Source.DSN = standby.DSN("app")
	r := p.examine()
	must(t, r.Checks, checkAdmin, Fail, "leads to a standby", "source.admin_dsn")
	p.options.Source.AdminDSN = standby.DSN("app") + "&application_name=other"
	r = p.examine()
	must(t, r.Checks, checkAdmin, Fail, "source.admin_dsn leads to a standby")
	p.options.Source.AdminDSN = primary.DSN("app")
	r = p.examine()
	must(t, r.Checks, checkAdmin, OK)
	must(t, r.Checks, checkClock, OK)
	must(t, r.Checks, checkFailover, OK, "the standby's own")
	if len(of(r.Checks, checkServer)) != 1 || r.Counts[Fail] > 0 {
		t.Errorf("%+v", r.Checks)
	}
}

// TestTransactionsAreLookedAt has delivery.mode: exactly_once.
func TestTransactionsAreLookedAt(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.exec("create table outbox " + outboxColumns)
	p.options.ExactlyOnce, p.options.Kafka.TransactionalID, p.options.CheckpointTopic = true, "tidemark-checkpoint-t/app/slot", "tidemark.checkpoints"
	r := p.examine()
	must(t, r.Checks, checkTransactions, OK, "is free")
	must(t, r.Checks, checkTopics, OK, "tidemark.checkpoints")
	p.options.Kafka.Settings = map[string]string{"transaction.timeout.ms": "999999999"}
	r = p.examine()
	must(t, r.Checks, checkTransactions, Fail, "transaction.timeout.ms is 999999999", "lower transaction.timeout.ms")
}

// TestARoleWithTooMuch has every right that reading does not take named, with the statements that take it away: when they
// have been run, nothing is left to say.
func TestARoleWithTooMuch(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	name := p.db.Config().Database // as unique as a database
	role, group, owner := name+"_reader", name+"_group", name+"_owner"
	t.Cleanup(func() {
		for _, sql := range []string{"drop owned by %s cascade", "drop role %s"} {
			for _, r := range []string{role, group, owner} {
				if _, err := p.db.Exec(context.Background(), fmt.Sprintf(sql, quote(r))); err != nil {
					t.Error(err)
				}
			}
		}
	})
	p.exec("create table outbox " + outboxColumns)
	p.exec(fmt.Sprintf("create role %s login replication createdb createrole bypassrls; create role %s; create role %s", quote(role), quote(group), quote(owner)))
	p.exec(fmt.Sprintf("grant select, insert on outbox to %[1]s; grant usage on schema public to %[1]s; grant update, delete on outbox to %[2]s; grant %[2]s to %[1]s", quote(role), quote(group)))
	config, err := pgx.ParseConfig(p.options.Source.DSN)
	if err != nil {
		t.Fatal(err)
	}
	p.options.Source.AdminDSN = p.options.Source.DSN
	p.options.Source.DSN = fmt.Sprintf("host=%s port=%d dbname=%s user=%s sslmode=disable", config.Host, config.Port, config.Database, role)
	warned := func(words ...string) {
		t.Helper()
		r := p.examine()
		must(t, r.Checks, checkRole, Warn, words...)
		for _, f := range of(r.Checks, checkRole) {
			for _, sql := range f.SQL {
				p.exec(strings.ReplaceAll(sql, "OWNER", quote(owner)))
			}
		}
	}
	warned("may create roles", "may create databases", "passes row level security by", "may insert, update, delete in public.outbox", "nobypassrls", "from "+group)
	must(t, p.examine().Checks, checkRole, OK, "no more")
	p.exec("alter table outbox owner to " + quote(group))
	warned("is in role "+group+", which owns public.outbox", "revoke")
	p.exec(fmt.Sprintf("alter table outbox owner to %s", quote(role)))
	warned("owns public.outbox", "owner to OWNER", "grant")
	must(t, p.examine().Checks, checkRole, OK, "no more")
}
