package devstack

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

// KafkaOptions are what StartKafka can be told; the zero value is one broker.
type KafkaOptions struct {
	// Brokers is how many there are, each of them a controller too, all in one quorum; default 1.
	Brokers int
	// Settings are added to, and override, those that every broker gets. Listeners and identities are not theirs to choose.
	Settings map[string]string
	// AdvertisedPort is the port of 127.0.0.1 that clients are sent to, instead of the broker's own: that of a proxy.
	// It is for a single broker.
	AdvertisedPort int
	// Security adds listeners with TLS and login, see BrokersAt.
	Security *KafkaSecurity
	// Throughput lets Java optimise the brokers fully, as it does by default elsewhere. That is for benchmarks: it takes two
	// seconds of processor time more to start a broker, which a test would hardly get back.
	Throughput bool
	// Dir keeps data and logs after Close, and a later StartKafka with it and as many brokers takes the data up again.
	// By default a temporary directory is used, which Close removes.
	Dir string
	// Log gets the output of all brokers instead of the file kafka.log in each one's directory.
	Log io.Writer
	// Progress is told, by a goroutine of StartKafka's own and never after it returned, what the first start waits for.
	Progress func(string)
}

// Kafka is a cluster of this process's own, of real brokers on 127.0.0.1. Clients create their topics themselves; the
// brokers create none that is merely asked for. Its methods may be called by any goroutine; i counts brokers from 0.
type Kafka struct {
	settings   map[string]string
	advertised int
	security   *KafkaSecurity
	dir        string
	keep       bool // dir is the caller's
	scratch    *scratch
	java       string
	javaFlags  []string
	jars       string
	id         string
	nodes      []*kafkaNode

	mu     sync.Mutex
	closed bool
}

// kafkaNode is one broker. Kafka's mutex guards proc and paused.
type kafkaNode struct {
	number                     int // node.id; from 1
	dir                        string
	client, broker, controller int // ports
	secure                     map[Listener]int
	log                        *serverLog
	proc                       *process // nil before the first start
	paused                     bool
}

// StartKafka starts a cluster and returns when every broker is in it and topics can be created. The first start on a
// machine fetches Kafka over the network; HaveKafka tells before whether the programs for that are there. ctx limits
// the start alone.
func StartKafka(ctx context.Context, opts KafkaOptions) (*Kafka, error) {
	progress := opts.Progress
	if progress == nil {
		progress = func(string) {}
	}
	count := max(opts.Brokers, 1)
	if opts.AdvertisedPort != 0 && count > 1 {
		return nil, fmt.Errorf("start Kafka: one advertised port cannot stand for %d brokers", count)
	}
	program, err := java(ctx)
	if err != nil {
		return nil, err
	}
	jars, err := kafkaJars(ctx, progress)
	if err != nil {
		return nil, err
	}
	scratch, err := newScratch("kafka")
	if err != nil {
		return nil, err
	}
	k := &Kafka{
		settings:   opts.Settings,
		advertised: opts.AdvertisedPort,
		security:   opts.Security,
		dir:        scratch.dir,
		scratch:    scratch,
		java:       program,
		jars:       jars,
	}
	k.javaFlags = []string{"-Xms128m", "-Xmx1g"}
	if count > 1 {
		k.javaFlags = []string{"-Xms128m", "-Xmx512m"}
	}
	if !opts.Throughput {
		k.javaFlags = append(k.javaFlags, "-XX:TieredStopAtLevel=1")
	}
	if opts.Dir != "" {
		k.keep = true
		if k.dir, err = filepath.Abs(opts.Dir); err != nil {
			return nil, errors.Join(fmt.Errorf("resolve data directory: %w", err), k.Close())
		}
	}
	log := opts.Log
	if log != nil {
		log = &lockedWriter{to: log}
	}
	for i := range count {
		dir := filepath.Join(k.dir, "node-"+strconv.Itoa(i+1))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("make data directory: %w", err), k.Close())
		}
		k.nodes = append(k.nodes, &kafkaNode{number: i + 1, dir: dir, log: &serverLog{path: filepath.Join(dir, "kafka.log"), to: log}})
	}
	if err := k.startOnFreePorts(ctx); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

func (k *Kafka) startOnFreePorts(ctx context.Context) error {
	var err error
	for range 5 {
		if err = k.choosePorts(ctx); err != nil {
			return err
		}
		if err = k.startAll(ctx); !errors.Is(err, errPortTaken) {
			return err
		}
		for _, n := range k.nodes {
			if n.proc != nil {
				if err := n.proc.kill(); err != nil {
					return err
				}
			}
		}
	}
	return err
}

func (k *Kafka) choosePorts(ctx context.Context) error {
	taken := []int{0}
	free := func(port *int) (err error) {
		for *port = 0; slices.Contains(taken, *port) && err == nil; {
			*port, err = freePort(ctx)
		}
		taken = append(taken, *port)
		return err
	}
	for _, n := range k.nodes {
		for _, port := range []*int{&n.client, &n.broker, &n.controller} {
			if err := free(port); err != nil {
				return err
			}
		}
		if k.security == nil {
			continue
		}
		n.secure = make(map[Listener]int)
		for _, l := range secureListeners() {
			var port int
			if err := free(&port); err != nil {
				return err
			}
			n.secure[l] = port
		}
	}
	return nil
}

// startAll formats the data directories where that is to be done, and starts all brokers.
func (k *Kafka) startAll(ctx context.Context) error {
	if err := k.identify(); err != nil {
		return err
	}
	for _, n := range k.nodes {
		if err := k.writeConf(n); err != nil {
			return err
		}
	}
	var format errgroup.Group
	format.SetLimit(2) // each is a Java of its own
	for _, n := range k.nodes {
		if !exists(n.metaPath()) {
			format.Go(func() error { return k.format(ctx, n) })
		}
	}
	if err := format.Wait(); err != nil {
		return err
	}
	// All have to run before one can be ready: a controller alone is no quorum.
	for i, n := range k.nodes {
		if err := k.launch(ctx, n); err != nil {
			return fmt.Errorf("start Kafka broker %d: %w", i, err)
		}
	}
	for i, n := range k.nodes {
		if err := k.awaitReady(ctx, n, len(k.nodes)); err != nil {
			return fmt.Errorf("start Kafka broker %d: %w", i, err)
		}
	}
	return nil
}

func (n *kafkaNode) dataDir() string  { return filepath.Join(n.dir, "data") }
func (n *kafkaNode) metaPath() string { return filepath.Join(n.dataDir(), "meta.properties") }
func (n *kafkaNode) confPath() string { return filepath.Join(n.dir, "server.properties") }

// identify finds the cluster's id in a directory that has been used before, or makes one.
func (k *Kafka) identify() error {
	text, err := os.ReadFile(k.nodes[0].metaPath())
	if errors.Is(err, os.ErrNotExist) {
		id := make([]byte, 16)
		if _, err := rand.Read(id); err != nil {
			return fmt.Errorf("make a cluster id: %w", err)
		}
		id[0] &= 0x7f // no leading '-', which the format tool would take for an option
		k.id = base64.RawURLEncoding.EncodeToString(id)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the cluster's id: %w", err)
	}
	k.id, err = property(text, "cluster.id")
	if err != nil {
		return fmt.Errorf("read the cluster's id in %s: %w", k.nodes[0].metaPath(), err)
	}
	return nil
}

func (k *Kafka) writeConf(n *kafkaNode) error {
	address := func(listener string, port int) string {
		return listener + "://127.0.0.1:" + strconv.Itoa(port)
	}
	advertised := n.client
	if k.advertised != 0 {
		advertised = k.advertised
	}
	voters := make([]string, len(k.nodes))
	for i, other := range k.nodes {
		voters[i] = fmt.Sprintf("%d@127.0.0.1:%d", other.number, other.controller)
	}
	replicas := strconv.Itoa(min(len(k.nodes), 3))
	settings := map[string]string{
		"auto.create.topics.enable":                        "false",
		"num.partitions":                                   "3",
		"default.replication.factor":                       replicas,
		"offsets.topic.replication.factor":                 replicas,
		"offsets.topic.num.partitions":                     "5",
		"transaction.state.log.replication.factor":         replicas,
		"transaction.state.log.min.isr":                    "1",
		"transaction.state.log.num.partitions":             "5",
		"share.coordinator.state.topic.replication.factor": replicas,
		"share.coordinator.state.topic.min.isr":            "1",
		"share.coordinator.state.topic.num.partitions":     "5",
		"group.initial.rebalance.delay.ms":                 "0",
		// A broker that was killed is let in again when its old session has timed out, so tests wait for this.
		"broker.session.timeout.ms":    "3000",
		"broker.heartbeat.interval.ms": "500",
		// Compaction is not waited for as long as by default, 15 s.
		"log.cleaner.backoff.ms": "500",
	}
	maps.Copy(settings, k.settings)
	others := []string{address("BROKER", n.broker), address("CONTROLLER", n.controller)}
	for _, l := range slices.Sorted(maps.Keys(n.secure)) {
		others = append(others, address(string(l), n.secure[l]))
	}
	listeners := strings.Join(others, ",")
	if k.security != nil {
		secure, err := n.secureSettings(k.security)
		if err != nil {
			return err
		}
		maps.Copy(settings, secure)
	}
	maps.Copy(settings, map[string]string{
		"node.id":                        strconv.Itoa(n.number),
		"process.roles":                  "broker,controller",
		"log.dirs":                       n.dataDir(),
		"controller.quorum.voters":       strings.Join(voters, ","),
		"controller.listener.names":      "CONTROLLER",
		"listener.security.protocol.map": "CLIENT:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,MUTUAL:SSL,SASL:SASL_SSL",
		// Brokers talk among (and to) themselves past the proxy that clients may be sent to.
		"inter.broker.listener.name": "BROKER",
		"listeners":                  address("CLIENT", n.client) + "," + listeners,
		"advertised.listeners":       address("CLIENT", advertised) + "," + listeners,
	})
	return writeProperties(n.confPath(), settings)
}

func (k *Kafka) format(ctx context.Context, n *kafkaNode) error {
	args := []string{"format", "--cluster-id", k.id, "--config", n.confPath()}
	if k.security != nil {
		args = append(args, k.security.scramArguments()...)
	}
	cmd := k.command(ctx, n, "kafka.tools.StorageTool", args...)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("format the data directory of Kafka: %w%s", err, quoteLog(string(output)))
	}
	return nil
}

// launch starts the broker's process.
func (k *Kafka) launch(ctx context.Context, n *kafkaNode) error {
	output, opened, err := n.log.open()
	if err != nil {
		return err
	}
	defer opened()
	// ctx limits the start; the broker lives on.
	cmd := k.command(context.WithoutCancel(ctx), n, "kafka.Kafka", n.confPath())
	cmd.Stdout, cmd.Stderr = output, output
	proc, err := startProcess(cmd, syscall.SIGKILL, k.scratch.lock)
	if err != nil {
		return err
	}
	n.proc, n.paused = proc, false
	return nil
}

// command runs a class of Kafka for node n.
func (k *Kafka) command(ctx context.Context, n *kafkaNode, class string, args ...string) *exec.Cmd {
	java := slices.Concat(k.javaFlags, []string{
		"-cp", k.jars,
		// Info is some hundred lines a start, and buries what an error should quote.
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
	}, k.security.flags(n), []string{class}, args)
	cmd := exec.CommandContext(ctx, k.java, java...)
	cmd.Dir = n.dir
	return cmd
}

// awaitReady waits until broker n answers, knows at least want brokers, itself among them, and would create a topic.
func (k *Kafka) awaitReady(ctx context.Context, n *kafkaNode, want int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("not ready after %v", readyLimit))
	defer cancel()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(net.JoinHostPort("127.0.0.1", strconv.Itoa(n.broker))), // its own: clients' may lead through a proxy
		kgo.RequestRetries(0),
		kgo.MetadataMinAge(20*time.Millisecond),
	)
	if err != nil {
		return fmt.Errorf("make a client for Kafka: %w", err)
	}
	defer client.Close()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := k.ready(ctx, client, n, want)
		if err == nil {
			return nil
		}
		select {
		case <-n.proc.exited:
			if n.log.portTaken() {
				return errPortTaken
			}
			return fmt.Errorf("it ended: %w%s", n.proc.err, quoteLog(n.log.tail()))
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)%s", context.Cause(ctx), err, quoteLog(n.log.tail()))
		case <-tick.C:
		}
	}
}

func (k *Kafka) ready(ctx context.Context, client *kgo.Client, n *kafkaNode, want int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// Of this broker, and not through kadm: the client would answer from memory, with the brokers of its first answer.
	request := kmsg.NewPtrMetadataRequest()
	request.Topics = []kmsg.MetadataRequestTopic{}
	known, err := request.RequestWith(ctx, client.SeedBrokers()[0])
	if err != nil {
		return err
	}
	if known.ClusterID == nil || *known.ClusterID != k.id {
		return errors.New("another cluster answers on its port")
	}
	ids := make([]int, len(known.Brokers))
	for i, broker := range known.Brokers {
		ids[i] = int(broker.NodeID)
	}
	if len(ids) < want || !slices.Contains(ids, n.number) {
		return fmt.Errorf("it knows brokers %v, not itself and %d in all", ids, want)
	}
	_, err = kadm.NewClient(client).ValidateCreateTopics(ctx, 1, int16(min(want, 3)), nil, "tidemark-devstack-ready")
	return err
}

// Brokers are the addresses that the brokers listen on, host:port, whatever is advertised.
func (k *Kafka) Brokers() []string {
	addresses := make([]string, len(k.nodes))
	for i, n := range k.nodes {
		addresses[i] = net.JoinHostPort("127.0.0.1", strconv.Itoa(n.client))
	}
	return addresses
}

// Dir is the directory of the brokers' directories, each with a log and the data.
func (k *Kafka) Dir() string { return k.dir }

// Log returns the end of what broker i has written since its last start.
func (k *Kafka) Log(i int) string { return k.nodes[i].log.tail() }

// locked calls do with broker i.
func (k *Kafka) locked(verb string, i int, do func(*kafkaNode) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return fmt.Errorf("%s Kafka: %w", verb, ErrClosed)
	}
	if i < 0 || i >= len(k.nodes) {
		return fmt.Errorf("%s Kafka broker %d: there are %d, counted from 0", verb, i, len(k.nodes))
	}
	if err := do(k.nodes[i]); err != nil {
		return fmt.Errorf("%s Kafka broker %d: %w", verb, i, err)
	}
	return nil
}

// Kill ends broker i with SIGKILL.
func (k *Kafka) Kill(i int) error {
	return k.locked("kill", i, func(n *kafkaNode) error { return n.proc.kill() })
}

// Stop stops broker i in order (SIGTERM: it hands its partitions over) and waits for its end. One that takes longer than
// half a minute, as does one that is left without a quorum, becomes a kill and an error.
func (k *Kafka) Stop(i int) error {
	return k.locked("stop", i, func(n *kafkaNode) error { return n.stop() })
}

func (n *kafkaNode) stop() error {
	if n.proc == nil {
		return nil
	}
	if n.paused {
		n.paused = false
		if err := n.proc.resume(); err != nil {
			return err
		}
	}
	ctx := context.Background() //nolint:forbidigo // bounded by stopLimit
	if err := n.proc.end(ctx, syscall.SIGTERM, stopLimit); err != nil {
		return fmt.Errorf("%w; it was killed", err)
	}
	return nil
}

// Start starts broker i again after Kill or Stop, on the same data and ports, and returns when it takes part again. One
// that runs is left alone.
func (k *Kafka) Start(ctx context.Context, i int) error {
	return k.locked("start", i, func(n *kafkaNode) error {
		if n.proc.running() {
			return nil
		}
		if err := k.launch(ctx, n); err != nil {
			return err
		}
		if err := k.awaitReady(ctx, n, 1); err != nil {
			return errors.Join(err, n.proc.kill())
		}
		return nil
	})
}

// Pause stops broker i where it is (SIGSTOP): connections stay open and answer nothing.
func (k *Kafka) Pause(i int) error {
	return k.locked("pause", i, func(n *kafkaNode) error {
		n.paused = true
		return n.proc.pause()
	})
}

// Resume undoes Pause.
func (k *Kafka) Resume(i int) error {
	return k.locked("resume", i, func(n *kafkaNode) error {
		n.paused = false
		return n.proc.resume()
	})
}

// Close stops the brokers and removes their files, except in a Dir that the caller chose. It may be called twice.
func (k *Kafka) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil
	}
	k.closed = true
	var stop errgroup.Group
	for _, n := range k.nodes {
		stop.Go(func() error {
			if n.proc == nil {
				return nil
			}
			// Nobody will need what an orderly stop writes; and of several, the last ones would wait for a quorum in vain.
			if !k.keep || len(k.nodes) > 1 {
				return n.proc.kill()
			}
			return n.stop()
		})
	}
	return errors.Join(stop.Wait(), k.scratch.remove())
}
