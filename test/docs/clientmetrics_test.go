package docs_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/plugin/kprom"
)

// clientMetrics are those of the Kafka client, as publish has it make them: what it registers describes itself.
func clientMetrics(t *testing.T) []metric {
	t.Helper()
	registered := &described{}
	hooks := kprom.NewMetrics("tidemark", kprom.Subsystem("kafka"), kprom.Registerer(registered),
		kprom.FetchAndProduceDetail(kprom.ByNode, kprom.Batches, kprom.Records, kprom.CompressedBytes, kprom.UncompressedBytes, kprom.ConsistentNaming),
		kprom.Histograms(kprom.RequestDurationE2E))
	client, err := kgo.NewClient(kgo.WithHooks(hooks)) // which asks nobody before it is used
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	slices.SortFunc(registered.all, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	return registered.all
}

// described is a registry that keeps nothing but what collectors say of themselves.
type described struct{ all []metric }

var description = regexp.MustCompile(`fqName: "([^"]*)", help: "([^"]*)".*variableLabels: \{([^}]*)\}`)

func (d *described) Register(c prometheus.Collector) error {
	descriptions := make(chan *prometheus.Desc, 100)
	c.Describe(descriptions)
	close(descriptions)
	for one := range descriptions {
		m := description.FindStringSubmatch(one.String())
		if m == nil {
			return fmt.Errorf("not understood: %s", one)
		}
		typ := strings.ToLower(fmt.Sprintf("%T", c))
		for kind, known := range map[string]string{"counter": "counter", "histogram": "histogram", "gauge": "gauge", "valuefunc": "gauge"} {
			if strings.Contains(typ, kind) {
				typ = known
			}
		}
		d.all = append(d.all, metric{name: m[1], help: m[2], typ: typ, labels: strings.FieldsFunc(m[3], func(r rune) bool { return r == ',' })})
	}
	return nil
}

func (d *described) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		if err := d.Register(c); err != nil {
			panic(err)
		}
	}
}

func (d *described) Unregister(prometheus.Collector) bool { return false }
