package stacktest

import (
	"testing"

	"github.com/tidemark/tidemark/devstack"
)

// Kafka returns the addresses of a real, single broker that all tests of this process share; tests that run in parallel
// use topics of different names. Where there can be none, the test is skipped, or failed (see Require).
func Kafka(tb testing.TB) []string {
	tb.Helper()
	value, err := shared.get("kafka", func() (closer, error) {
		if err := devstack.HaveKafka(); err != nil {
			return nil, err
		}
		return devstack.StartKafka(tb.Context(), devstack.KafkaOptions{Progress: func(line string) { tb.Log(line) }})
	})
	Require(tb, "kafka", err)
	return value.(*devstack.Kafka).Brokers() //nolint:forcetypeassert // the key says so
}

// NewKafka starts real brokers for this test alone, which may do with them what it likes, and closes them in the end.
// Where there can be none, the test is skipped, or failed (see Require).
func NewKafka(tb testing.TB, opts ...devstack.KafkaOptions) *devstack.Kafka {
	tb.Helper()
	chosen := one(tb, opts)
	if chosen.Progress == nil {
		chosen.Progress = func(line string) { tb.Log(line) }
	}
	Require(tb, "kafka", devstack.HaveKafka())
	kafka, err := devstack.StartKafka(tb.Context(), chosen)
	Require(tb, "kafka", err)
	tb.Cleanup(func() {
		if tb.Failed() {
			for i := range kafka.Brokers() {
				tb.Logf("the end of the log of Kafka broker %d:\n%s", i, kafka.Log(i))
			}
		}
		if err := kafka.Close(); err != nil {
			tb.Error(err)
		}
	})
	return kafka
}

// FakeKafka starts an in-process imitation of Kafka for this test alone, and returns its addresses.
func FakeKafka(tb testing.TB) []string {
	tb.Helper()
	kafka, err := devstack.StartFakeKafka(devstack.FakeKafkaOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := kafka.Close(); err != nil {
			tb.Error(err)
		}
	})
	return kafka.Brokers()
}
