package debezium

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Result is tidemark's configuration for what a connector does.
type Result struct {
	YAML []byte // config.yaml, with a comment at each value that came from the connector, and Lost and Unneeded at its end
	// Lost is what could not be carried over, and what has to be set besides: each a sentence or two that begin with the key.
	Lost []string
	// Unneeded are keys that say nothing to tidemark, with the reason.
	Unneeded []string
}

// conversion is one under way.
type conversion struct {
	given Connector
	used  map[string]bool
	Result
	doc document
}

// Convert makes tidemark's configuration of a connector's. What it writes is valid, whatever the connector's values are; the
// password of the database is not in it.
func Convert(c Connector) *Result {
	v := &conversion{given: c, used: map[string]bool{}}
	v.doc.WriteString("# Made from a Debezium connector's configuration. What is not here has tidemark's default.\n\n")
	v.source()
	v.outbox()
	v.kafka()
	v.delivery()
	v.rest()
	v.ending("What could not be carried over, and what has to be set besides:", v.Lost)
	v.ending("What tidemark does not need:", v.Unneeded)
	v.YAML = []byte(v.doc.String())
	return &v.Result
}

func (v *conversion) ending(title string, notes []string) {
	if len(notes) == 0 {
		return
	}
	v.doc.WriteString("\n# " + title + "\n")
	for _, n := range notes {
		v.doc.comment(0, "- "+n)
	}
}

// take returns the value of a key, which then has been dealt with; "" if it is not given.
func (v *conversion) take(key string) string {
	value, ok := v.given[key]
	if ok {
		v.used[key] = true
	}
	return strings.TrimSpace(value)
}

func (v *conversion) lost(key, format string, args ...any) {
	v.Lost = append(v.Lost, plain(key+": "+fmt.Sprintf(format, args...)))
}

func (v *conversion) unneeded(key, why string) {
	v.Unneeded = append(v.Unneeded, plain(key+": "+why))
}

// resolved is take for a value that a provider of Kafka Connect may put in (${file:…}), which cannot be looked up here.
func (v *conversion) resolved(key, instead string) string {
	value := v.take(key)
	if strings.Contains(value, "${") {
		v.lost(key, "it comes from a provider of Kafka Connect (%s), which is not asked; %s stands in its place", value, instead)
		return instead
	}
	return value
}

func (v *conversion) source() {
	d := &v.doc
	d.raw(0, "source:", "")
	d.comment(1, "database.hostname, .port, .user, .dbname and .sslmode. Without the password: it is looked for in PGPASSWORD and "+
		"~/.pgpass, or give the whole DSN, with it, as TIDEMARK_SOURCE_DSN.")
	d.line(1, "dsn", v.dsn(), "")
	slot := cmp.Or(v.take("slot.name"), "debezium")
	d.comment(1, "A slot and a publication of its own: Debezium's slot stays Debezium's, for the way back (docs/debezium.md).")
	d.line(1, "slot", "tidemark", "slot.name is "+slot)
	d.line(1, "publication", "tidemark", "publication.name is "+cmp.Or(v.take("publication.name"), "dbz_publication"))
	v.unneeded("slot.name, publication.name", "tidemark has its own, and its publication has inserts only. When there is no way back any more: drop the connector, then select pg_drop_replication_slot('"+slot+"')")
	mode := cmp.Or(v.take("snapshot.mode"), "initial")
	d.line(1, "existing_rows", "skip", "Debezium has published them; publish if it never ran (snapshot.mode is "+mode+")")
	switch failover := v.take("slot.failover"); failover {
	case "":
	case "true", "false":
		d.raw(1, "failover: "+failover, "slot.failover")
	default:
		v.lost("slot.failover", "%q is neither true nor false; source.failover stays auto", failover)
	}
	if interval := v.take("status.update.interval.ms"); interval != "" {
		if ms, err := strconv.ParseUint(interval, 10, 31); err == nil && ms > 0 {
			d.line(1, "status_interval", strconv.FormatUint(ms, 10)+"ms", "status.update.interval.ms")
		} else {
			v.lost("status.update.interval.ms", "%q is no number; source.status_interval stays 1s", interval)
		}
	}
	switch drop := v.take("slot.drop.on.stop"); drop {
	case "":
	case "true":
		v.lost("slot.drop.on.stop", "Debezium drops its slot when it is stopped: set it to false before you hand over, or nothing tells how far Debezium has come")
	default:
		v.unneeded("slot.drop.on.stop", "tidemark never drops a slot by itself")
	}
	if plugin := v.take("plugin.name"); plugin != "pgoutput" {
		v.lost("plugin.name", "tidemark reads pgoutput, which every Postgres has; %s is not needed any more", cmp.Or(plugin, "decoderbufs (the default)"))
	}
}

var hostname = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,253}$`)

func (v *conversion) dsn() string {
	host := cmp.Or(v.resolved("database.hostname", "database.example"), "localhost")
	if !hostname.MatchString(host) {
		v.lost("database.hostname", "it is no host name; localhost stands in its place")
		host = "localhost"
	}
	port := cmp.Or(v.resolved("database.port", "5432"), "5432")
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		v.lost("database.port", "it is no port; 5432 stands in its place")
		port = "5432"
	}
	u := url.URL{Scheme: "postgres", Host: net.JoinHostPort(host, port), Path: "/" + cmp.Or(v.resolved("database.dbname", "database"), "postgres")}
	if user := v.resolved("database.user", "user"); user != "" {
		u.User = url.User(user)
	}
	if v.take("database.password") != "" {
		v.lost("database.password", "it is not copied: put it into PGPASSWORD, ~/.pgpass, or with the whole DSN into TIDEMARK_SOURCE_DSN")
	}
	options := url.Values{}
	mode := cmp.Or(v.take("database.sslmode"), "prefer")
	if !slices.Contains([]string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}, mode) {
		v.lost("database.sslmode", "%q is none that libpq knows; prefer stands in its place", mode)
		mode = "prefer"
	}
	options.Set("sslmode", mode)
	for key, option := range map[string]string{"database.sslrootcert": "sslrootcert", "database.sslcert": "sslcert", "database.sslkey": "sslkey"} {
		if file := v.resolved(key, ""); file != "" && plain(file) == file {
			options.Set(option, file)
		}
	}
	if options.Has("sslkey") {
		v.lost("database.sslkey", "Java's driver reads PKCS#8 in DER, tidemark PEM: openssl pkcs8 -inform DER -in KEY.pk8 -out KEY.pem -nodes")
	}
	if options.Has("sslcert") != options.Has("sslkey") {
		v.lost("database.sslcert", "certificate and key go together, and one is missing: neither is in the DSN")
		options.Del("sslcert")
		options.Del("sslkey")
	}
	if v.take("database.sslpassword") != "" {
		v.lost("database.sslpassword", "it is not copied: add sslpassword to a DSN in TIDEMARK_SOURCE_DSN, or decrypt the key")
	}
	u.RawQuery = strings.ReplaceAll(options.Encode(), "+", "%20") // which libpq reads, too
	return u.String()
}

func (v *conversion) delivery() {
	switch support := v.take("exactly.once.support"); support {
	case "":
	case "required":
		v.doc.raw(0, "\ndelivery:", "")
		v.doc.line(1, "mode", "exactly_once", "exactly.once.support")
		v.doc.raw(0, "\ncheckpoint:", "")
		v.doc.line(1, "store", "kafka", "which that mode needs")
	default:
		v.unneeded("exactly.once.support", "delivery.mode: exactly_once is there if it is wanted")
	}
	switch tolerance := v.take("errors.tolerance"); tolerance {
	case "":
	case "all":
		v.lost("errors.tolerance", "tidemark skips nothing in silence: delivery.on_poison is stop; dead_letter or park keep what cannot be published")
	default:
		v.unneeded("errors.tolerance", "tidemark skips nothing in silence")
	}
}
