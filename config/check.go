package config

import (
	"fmt"
	"net"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// check notes what is wrong with values that are all of their type. It looks only at the configuration: whether a file,
// a server or a column is there is found out by the part that needs it.
func (c *Config) check(found *problems) {
	c.Source.check(found)
	c.checkOutbox(found)
	c.checkMessages(found)
	c.Kafka.check(found)
	c.Delivery.check(found)
	c.Checkpoint.check(found)
	c.checkExactlyOnce(found)
	if c.HTTP.Listen != "" {
		if _, port, err := net.SplitHostPort(c.HTTP.Listen); err != nil || !isPort(port) {
			found.add("http.listen", `%q is not host:port such as 127.0.0.1:8642 or :8642; "" turns it off`, c.HTTP.Listen)
		}
	}
	if (c.HTTP.TLS.CertFile == "") != (c.HTTP.TLS.KeyFile == "") {
		found.add("http.tls.cert_file", "and http.tls.key_file go together: set both or neither")
	}
	c.checkUpkeep(found)
	found.oneOf("log.level", c.Log.Level, "trace", "debug", "info", "warn", "error")
	found.oneOf("log.format", c.Log.Format, "auto", "console", "json")
}

func (s *Source) check(found *problems) {
	if strings.TrimSpace(string(s.DSN)) == "" {
		found.add("source.dsn", "is required; set it in %s or as TIDEMARK_SOURCE_DSN, "+
			"such as postgres://user:password@host:5432/database", usualFile)
	}
	found.dsn("source.dsn", s.DSN)
	found.dsn("source.admin_dsn", s.AdminDSN)
	if !regexp.MustCompile(`^[a-z0-9_]{1,63}$`).MatchString(s.Slot) {
		found.add("source.slot", "%q is no slot name; Postgres wants 1 to 63 of a-z, 0-9 and _", s.Slot)
	}
	if !isIdentifier(s.Publication) {
		found.add("source.publication", "%q is no name; Postgres wants 1 to 63 bytes", s.Publication)
	}
	found.oneOf("source.existing_rows", s.ExistingRows, "publish", "skip")
	found.oneOf("source.failover", s.Failover, "auto", "true", "false")
	if s.StatusInterval <= 0 {
		found.add("source.status_interval", "%s must be more than 0", s.StatusInterval)
	}
}

func (c *Config) checkOutbox(found *problems) {
	if len(c.Outbox) == 0 && len(c.Messages) == 0 {
		found.add("outbox", "is empty; name at least one table, such as public.outbox, or a prefix under messages")
	}
	first := map[string]int{}
	for i := range c.Outbox {
		t, key := &c.Outbox[i], fmt.Sprintf("outbox[%d]", i)
		if before, twice := first[t.Table]; twice && t.Table != "" {
			found.add(key+".table", "%q is outbox[%d] already", t.Table, before)
		} else {
			first[t.Table] = i
		}
		t.check(key, found)
	}
}

func (c *Config) checkMessages(found *problems) {
	first := map[string]int{}
	for i := range c.Messages {
		m, key := &c.Messages[i], fmt.Sprintf("messages[%d]", i)
		before, twice := first[m.Prefix]
		switch {
		case m.Prefix == "":
			found.add(key+".prefix", "is required, such as outbox: the second argument of pg_logical_emit_message")
		case twice:
			found.add(key+".prefix", "%q is messages[%d] already", m.Prefix, before)
		default:
			first[m.Prefix] = i
		}
		found.oneOf(key+".non_transactional", m.NonTransactional, "poison", "publish", "skip")
		layout := m.Layout()
		layout.checkLayout(key, found, "debezium", "custom")
	}
}

func (t *Table) check(key string, found *problems) {
	schema, name, qualified := strings.Cut(t.Table, ".")
	switch {
	case t.Table == "":
		found.add(key+".table", "is required, such as public.outbox")
	case !qualified && isIdentifier(t.Table):
		found.add(key+".table", "%q has no schema; write public.%s, if that is where it is", t.Table, t.Table)
	case !isIdentifier(schema), !isIdentifier(name), strings.Contains(name, "."):
		found.add(key+".table", "%q is not schema.name", t.Table)
	}
	t.checkLayout(key, found, "debezium", "eventuate", "custom")
}

// checkLayout notes what is wrong with how rows become records.
func (t *Table) checkLayout(key string, found *problems, presets ...string) {
	found.oneOf(key+".preset", t.Preset, presets...)
	found.oneOf(key+".format", t.Format, "plain", "cloudevents", "cloudevents-structured")
	found.oneOf(key+".on_null", t.OnNull, "tombstone", "empty", "poison")
	t.checkRequired(key, found)
	t.checkCloudEvents(key, found)
	t.checkEventuate(key, found)
	if text, err := literals(t.Topic); err != nil {
		found.add(key+".topic", "%v", err)
	} else if t.Topic != "" && !isTopicText(text) {
		found.add(key+".topic", "template %q has characters that no topic name may have; Kafka allows a-z, A-Z, 0-9, '.', '_' and '-'", t.Topic)
	}
	if _, err := literals(t.Key); err != nil {
		found.add(key+".key", "%v", err)
	}
	for i, h := range t.Headers {
		key := fmt.Sprintf("%s.headers[%d]", key, i)
		switch h.Name {
		case "":
			found.add(key+".name", "is required")
		case "id", "tidemark-position", "tidemark-source", "tidemark-replay", "tidemark-transactional":
			found.add(key+".name", "%q is written by tidemark itself, and consumers rely on it; take another name", h.Name)
		}
		if _, err := literals(h.Value); err != nil {
			found.add(key+".value", "%v", err)
		}
	}
}

// checkRequired looks for what a record cannot be made without. The debezium preset fills all of it in, so it can be
// missing there only where the configuration says so.
func (t *Table) checkRequired(key string, found *problems) {
	where := "is required; which column holds it?"
	if t.Preset == "custom" {
		where = "is required with preset custom, which has no defaults; which column holds it?"
	}
	if t.Columns.ID == "" {
		found.add(key+".columns.id", "%s", where)
	}
	if t.Columns.Payload == "" {
		found.add(key+".columns.payload", "%s", where)
	}
	if t.Topic == "" {
		found.add(key+".topic", "is required; write a template such as orders.{kind}, or map columns.topic")
	}
}

// checkEventuate looks for what does not go together with Tram's table, or goes with nothing else.
func (t *Table) checkEventuate(key string, found *problems) {
	if t.Preset != "eventuate" {
		if t.OutboxID != "" {
			found.add(key+".outbox_id", "goes with preset eventuate; leave it out")
		}
		return
	}
	if t.Columns.Headers == "" {
		found.add(key+".columns.headers", "is required with preset eventuate: the message's id and its partition id are among its headers")
	}
	if t.Format != "plain" {
		found.add(key+".format", "%s does not go with preset eventuate, whose records have the form that Tram reads; leave it out", t.Format)
	}
	if t.OnNull == "tombstone" {
		found.add(key+".on_null", "tombstone does not go with preset eventuate: Tram's consumers stop at a record without a value; use poison or empty")
	}
	if n, err := strconv.ParseUint(t.OutboxID, 10, 64); t.OutboxID != "" && (err != nil || n >= 1<<48) {
		found.add(key+".outbox_id", "%q is no number from 0 to %d, as eventuate.outbox.id is", t.OutboxID, uint64(1<<48-1))
	}
}

func (k *Kafka) check(found *problems) {
	if len(k.Brokers) == 0 {
		found.add("kafka.brokers", "is empty; name at least one host:port")
	}
	for i, b := range k.Brokers {
		if !isBroker(b) {
			found.add(fmt.Sprintf("kafka.brokers[%d]", i), "%q is not host:port", b)
		}
	}
	k.TLS.check(found)
	k.SASL.check(found)
	found.oneOf("kafka.compression", k.Compression, "none", "gzip", "snappy", "lz4", "zstd")
	if k.MaxBufferedBytes <= 0 {
		found.add("kafka.max_buffered_bytes", "must be more than 0")
	}
	found.countOrDefault("kafka.create_topics.partitions", int64(k.CreateTopics.Partitions))
	found.countOrDefault("kafka.create_topics.replication_factor", int64(k.CreateTopics.ReplicationFactor))
}

func (t *TLS) check(found *problems) {
	if !t.Enabled && *t != (TLS{}) {
		found.add("kafka.tls.enabled", "is false, but other keys of kafka.tls are set; set it to true, or remove them")
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		found.add("kafka.tls.cert_file", "and kafka.tls.key_file go together: set both or neither")
	}
}

func (s *SASL) check(found *problems) {
	const mechanism = "kafka.sasl.mechanism"
	switch s.Mechanism {
	case "":
		if !s.empty() {
			found.add(mechanism, "is empty, but other keys of kafka.sasl are set; set it, or remove them")
		}
	case "OAUTHBEARER":
		s.checkBearer(found)
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
		if s.Username == "" {
			found.add("kafka.sasl.username", "is required for %s", s.Mechanism)
		}
		if s.Password == "" {
			found.add("kafka.sasl.password", "is required for %s", s.Mechanism)
		}
	default:
		found.oneOf(mechanism, s.Mechanism, "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
	}
}

// empty reports whether nothing is set.
func (s *SASL) empty() bool {
	rest := *s
	rest.Extensions = nil // may be empty without being nil
	return len(s.Extensions) == 0 && reflect.ValueOf(rest).IsZero()
}

// checkBearer wants a token, or what it takes to fetch one.
func (s *SASL) checkBearer(found *problems) {
	if s.TokenURL == "" {
		if s.ClientID != "" || s.ClientSecret != "" || s.ClientSecretFile != "" || s.Scope != "" || s.TokenCAFile != "" {
			found.add("kafka.sasl.token_url", "is required with client_id, client_secret, scope and token_ca_file")
		} else if s.Token == "" {
			found.add("kafka.sasl.token", "or kafka.sasl.token_url is required for OAUTHBEARER")
		}
		return
	}
	if s.Token != "" || s.TokenFile != "" {
		found.add("kafka.sasl.token_url", "and kafka.sasl.token are both given; keep one of them")
	}
	switch u, err := url.Parse(s.TokenURL); {
	case err != nil, u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		found.add("kafka.sasl.token_url", "is no URL such as https://login.example/oauth2/token")
	case u.User != nil:
		found.add("kafka.sasl.token_url", "has a user in it; kafka.sasl.client_id and client_secret are for that")
	}
	if s.ClientID == "" {
		found.add("kafka.sasl.client_id", "is required with kafka.sasl.token_url")
	}
	if s.ClientSecret == "" {
		found.add("kafka.sasl.client_secret", "is required with kafka.sasl.token_url")
	}
}

func (d *Delivery) check(found *problems) {
	found.oneOf("delivery.mode", d.Mode, "at_least_once", "exactly_once")
	found.oneOf("delivery.on_poison", d.OnPoison, "stop", "dead_letter", "park")
	if t := d.DeadLetterTopic; t != "" && !isTopic(t) {
		found.add("delivery.dead_letter_topic", "%q is no topic name; Kafka wants 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'", t)
	} else if t == "" && d.OnPoison == "dead_letter" {
		found.add("delivery.dead_letter_topic", "is required with delivery.on_poison: dead_letter")
	}
}

// checkExactlyOnce notes what does not go together with delivery.mode: exactly_once.
func (c *Config) checkExactlyOnce(found *problems) {
	if c.Delivery.Mode != "exactly_once" {
		return
	}
	if c.Checkpoint.Store != "kafka" {
		found.add("checkpoint.store", "is %s, and delivery.mode: exactly_once keeps the checkpoint in the Kafka transaction of the events: set it to kafka (tidemark checkpoint move takes the position along), or delivery.mode to at_least_once", c.Checkpoint.Store)
	}
	if !c.Delivery.ResumeDedupe {
		found.add("delivery.resume_dedupe", "is false, and delivery.mode: exactly_once needs it for database transactions that are too large for one Kafka transaction: set it to true")
	}
}

// checkUpkeep notes what a running relay cannot do beside its job.
func (c *Config) checkUpkeep(found *problems) {
	const least = time.Second // less would be a slip
	for key, d := range map[string]time.Duration{"reconcile.interval": c.Reconcile.Interval, "prune.interval": c.Prune.Interval} {
		if d != 0 && d < least {
			found.add(key, "%s must be at least %s, or 0 for never", d, least)
		}
	}
	if c.Prune.OlderThan < 0 {
		found.add("prune.older_than", "%s must be more than 0, or 0 for nothing", c.Prune.OlderThan)
	}
	if (c.Prune.OlderThan == 0) != (c.Prune.Interval == 0) {
		found.add("prune.older_than", "and prune.interval go together: set both or neither")
	}
}

func (c *Checkpoint) check(found *problems) {
	found.oneOf("checkpoint.store", c.Store, "file", "postgres", "kafka")
	if c.Path == "" && c.Store == "file" {
		found.add("checkpoint.path", "is required with checkpoint.store: file")
	}
	if c.Topic == "" && c.Store == "kafka" {
		found.add("checkpoint.topic", "is required with checkpoint.store: kafka")
	} else if c.Topic != "" && !isTopic(c.Topic) {
		found.add("checkpoint.topic", "%q is no topic name; Kafka wants 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'", c.Topic)
	}
	if c.Interval <= 0 {
		found.add("checkpoint.interval", "%s must be more than 0", c.Interval)
	}
}

// oneOf notes a value that is none of those which are allowed.
func (p *problems) oneOf(key, value string, allowed ...string) {
	p.oneOfThese(key, value, allowed, nil)
}

// oneOfThese is oneOf where some values are promised and not built yet.
func (p *problems) oneOfThese(key, value string, allowed, later []string) {
	switch {
	case slices.Contains(allowed, value):
	case slices.Contains(later, value):
		p.add(key, "%s is not available yet; use %s", value, strings.Join(allowed, " or "))
	case len(allowed) == 1:
		p.add(key, "%q is unknown; the only choice is %s", value, allowed[0])
	default:
		what := fmt.Sprintf("%q is none of %s", value, strings.Join(allowed, ", "))
		if meant := nearestWord(value, allowed); meant != "" {
			what += "; the nearest is " + meant
		}
		p.add(key, "%s", what)
	}
}

func (p *problems) countOrDefault(key string, n int64) {
	if n < 1 && n != -1 {
		p.add(key, "%d must be at least 1, or -1 for the broker's default", n)
	}
}

// dsn notes a connection string that is neither form of libpq's. It never repeats the text.
func (p *problems) dsn(key string, d DSN) {
	scheme, _, isURL := d.cutScheme()
	_, isKeywords := redactKeywords(string(d))
	switch {
	case isURL && scheme != "postgres" && scheme != "postgresql":
		p.add(key, "is a URL, but does not begin with postgres://")
	case !isURL && !isKeywords:
		p.add(key, "is neither a URL such as postgres://user@host/database nor keywords such as host=... dbname=...; "+
			"a value with blanks must be in single quotes")
	}
}

// isIdentifier reports whether Postgres takes s as a name, in quotes if need be.
func isIdentifier(s string) bool { return 1 <= len(s) && len(s) <= 63 && !strings.Contains(s, "\x00") }

func isTopicText(s string) bool { return regexp.MustCompile(`^[a-zA-Z0-9._-]*$`).MatchString(s) }

func isTopic(s string) bool {
	return isTopicText(s) && 1 <= len(s) && len(s) <= 249 && s != "." && s != ".."
}

// isBroker reports whether s is host:port, or a host alone: the port is then Kafka's usual one.
func isBroker(s string) bool {
	if s == "" || strings.ContainsAny(s, " \t/,") {
		return false
	}
	if !strings.Contains(s, ":") {
		return true
	}
	host, port, err := net.SplitHostPort(s)
	return err == nil && host != "" && isPort(port)
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}
