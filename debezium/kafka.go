package debezium

import (
	"cmp"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	override = "producer.override."
	created  = "topic.creation.default."
)

func (v *conversion) kafka() {
	d := &v.doc
	d.raw(0, "\nkafka:", "")
	v.brokers()
	v.security()
	if c := v.take(override + "compression.type"); c != "" {
		if slices.Contains([]string{"none", "gzip", "snappy", "lz4", "zstd"}, c) {
			d.line(1, "compression", c, override+"compression.type")
		} else {
			v.lost(override+"compression.type", "%q is unknown; lz4 is taken", c)
		}
	}
	v.topicCreation()
	v.options()
}

func (v *conversion) brokers() {
	key := override + "bootstrap.servers"
	var brokers []string
	for b := range strings.SplitSeq(v.resolved(key, ""), ",") {
		b = strings.TrimSpace(b)
		if _, after, ok := strings.Cut(b, "://"); ok { // a listener's name
			b = after
		}
		host, port, err := net.SplitHostPort(b)
		if n, errPort := strconv.ParseUint(port, 10, 16); err != nil || errPort != nil || n == 0 || !hostname.MatchString(host) {
			if b != "" {
				v.lost(key, "%q is not host:port", b)
			}
			continue
		}
		brokers = append(brokers, quoted(b))
	}
	if len(brokers) == 0 {
		v.lost("kafka.brokers", "a connector does not say where Kafka is: put the worker's bootstrap.servers, and its security.protocol, sasl.* and ssl.*, into kafka")
		v.doc.raw(1, "brokers: [localhost:9092]", "put the worker's bootstrap.servers here")
		return
	}
	v.doc.raw(1, "brokers: ["+strings.Join(brokers, ", ")+"]", key)
}

var login = regexp.MustCompile(`\busername\s*=\s*"([^"\\]*)"`)

// security turns TLS and SASL settings of the producer into tidemark's.
func (v *conversion) security() {
	d := &v.doc
	protocol := v.take(override + "security.protocol")
	var tls []setting
	for _, kind := range []string{"truststore", "keystore"} {
		store, format := override+"ssl."+kind+".location", v.take(override+"ssl."+kind+".type")
		file := v.take(store)
		v.secret(override+"ssl."+kind+".password", "")
		switch {
		case file == "":
		case kind == "truststore" && format == "PEM" && plain(file) == file:
			tls = append(tls, setting{"ca_file", file, store})
		default:
			v.lost(store, "tidemark reads PEM: openssl pkcs12 -in STORE -nokeys (-nocerts -nodes for the key), and set kafka.tls.ca_file, or cert_file and key_file")
		}
	}
	v.secret(override+"ssl.key.password", "decrypt the key: tidemark takes it without a password")
	if algorithm, given := v.given[override+"ssl.endpoint.identification.algorithm"]; given {
		v.used[override+"ssl.endpoint.identification.algorithm"] = true
		if strings.TrimSpace(algorithm) == "" {
			v.lost(override+"ssl.endpoint.identification.algorithm", "tidemark checks the broker's name: set kafka.tls.server_name to the name in its certificate")
		}
	}
	if strings.HasSuffix(protocol, "SSL") {
		d.raw(1, "tls:", "")
		d.raw(2, "enabled: true", override+"security.protocol")
		for _, s := range tls {
			d.line(2, s.name, s.value, s.from)
		}
	}
	mechanism, config := cmp.Or(v.take(override+"sasl.mechanism"), "GSSAPI"), v.take(override+"sasl.jaas.config")
	switch {
	case !strings.HasPrefix(protocol, "SASL"):
	case !slices.Contains([]string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}, mechanism):
		v.lost(override+"sasl.mechanism", "%s is not carried over: set kafka.sasl.mechanism to PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER", mechanism)
	default:
		d.raw(1, "sasl:", "")
		d.line(2, "mechanism", mechanism, override+"sasl.mechanism")
		user := "user"
		if m := login.FindStringSubmatch(config); m != nil && m[1] != "" && plain(m[1]) == m[1] && !strings.Contains(m[1], "${") {
			user = m[1]
		} else {
			v.lost(override+"sasl.jaas.config", "no user name is found in it: put it in the place of \"user\" under kafka.sasl.username")
		}
		d.line(2, "username", user, override+"sasl.jaas.config")
		v.lost(override+"sasl.jaas.config", "the password is not copied: set TIDEMARK_KAFKA_SASL_PASSWORD, without which tidemark says that it is missing")
	}
}

// secret deals with a key whose value must not be repeated.
func (v *conversion) secret(key, what string) {
	if v.take(key) != "" {
		v.lost(key, "%s", cmp.Or(what, "it is not copied, and PEM files need none"))
	}
}

// topicCreation turns the default group of Kafka Connect's topic creation into kafka.create_topics.
func (v *conversion) topicCreation() {
	d := &v.doc
	var lines []setting
	for key, name := range map[string]string{"partitions": "partitions", "replication.factor": "replication_factor"} {
		n, err := strconv.ParseInt(v.take(created+key), 10, 16)
		if err == nil && (n > 0 || n == -1) {
			lines = append(lines, setting{name, strconv.FormatInt(n, 10), created + key})
		}
	}
	slices.SortFunc(lines, func(a, b setting) int { return cmp.Compare(a.name, b.name) })
	var configs []setting
	for _, key := range slices.Sorted(maps.Keys(v.given)) {
		if config, ok := strings.CutPrefix(key, created); ok && !v.used[key] && config != "partitions" && config != "replication.factor" {
			if value := v.take(key); config == "include" || config == "exclude" || config == "" {
				v.lost(key, "tidemark creates every topic that an event needs with the same settings")
			} else {
				configs = append(configs, setting{config, value, key})
			}
		}
	}
	if len(lines)+len(configs) == 0 {
		return
	}
	d.raw(1, "create_topics:", "")
	for _, l := range lines {
		d.raw(2, l.name+": "+l.value, l.from)
	}
	if len(configs) > 0 {
		d.raw(2, "configs:", "")
		for _, c := range configs {
			d.raw(3, quoted(c.name)+": "+quoted(c.value), c.from)
		}
	}
}

// options carries over what tidemark's producer has an option for, and names the rest.
func (v *conversion) options() {
	number := regexp.MustCompile(`^\d{1,9}$`)
	var lines []setting
	for _, key := range slices.Sorted(maps.Keys(v.given)) {
		option, ok := strings.CutPrefix(key, override)
		if !ok || v.used[key] {
			continue
		}
		value := v.take(key)
		switch {
		case option == "client.id" && value != "" && !strings.Contains(value, "${"):
			lines = append(lines, setting{option, value, key})
		case slices.Contains([]string{"request.timeout.ms", "metadata.max.age.ms", "connections.max.idle.ms", "max.request.size"}, option) && number.MatchString(value):
			lines = append(lines, setting{option, value, key})
		case slices.Contains([]string{"acks", "enable.idempotence", "retries", "delivery.timeout.ms", "max.in.flight.requests.per.connection", "retry.backoff.ms"}, option):
			v.unneeded(key, "it is fixed: acknowledged by all replicas, idempotent, and tried until it succeeds")
		case slices.Contains([]string{"linger.ms", "batch.size", "buffer.memory", "max.block.ms"}, option):
			v.unneeded(key, "tidemark finds its batches by itself, and kafka.max_buffered_bytes bounds its memory")
		case strings.Contains(option, "partitioner"):
			v.lost(key, "keys are reduced to partitions by murmur2, as Java's default does; columns.partition takes a column")
		case strings.Contains(option, "interceptor"):
			v.lost(key, "there are no interceptors")
		case strings.HasPrefix(option, "sasl.") || strings.HasPrefix(option, "ssl.") || option == "security.protocol":
			v.lost(key, "it is not carried over: see kafka.tls and kafka.sasl in config.yaml")
		default:
			v.lost(key, "tidemark's producer has no such option")
		}
	}
	if len(lines) > 0 {
		v.doc.raw(1, "options:", "")
		for _, l := range lines {
			v.doc.raw(2, l.name+": "+quoted(l.value), l.from)
		}
	}
}
