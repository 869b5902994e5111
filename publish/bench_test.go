package publish

import (
	"bytes"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/tidemark/tidemark/decode"
)

// BenchmarkPublish hands bursts of 512 events of some 300 bytes over, as the relay does, and waits while more than eight
// bursts are out. The broker, which keeps nothing, runs in the same process, and its work is counted, too.
func BenchmarkPublish(b *testing.B) {
	const burst, window = 512, 8
	cluster := newCluster(b, kfake.BlackholeProduce())
	room := make(chan struct{}, window)
	var acked atomic.Int64
	done := make(chan error, 1)
	p, err := Open(Options{
		Brokers: cluster.ListenAddrs(), Compression: "lz4", Topics: TopicOptions{Create: true, Partitions: 6, ReplicationFactor: -1},
	}, func(_ *Delivery, err error) {
		if err != nil {
			select {
			case done <- err:
			default:
			}
		}
		if acked.Add(1)%burst == 0 {
			<-room
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	if err := p.Prepare(b.Context(), []string{"t"}); err != nil {
		b.Fatal(err)
	}
	value := bytes.Repeat([]byte(`{"some": "json"} `), 12)
	ev := decode.Event{
		Topic: "t", Value: value, Partition: decode.AnyPartition, Timestamp: time.Now(),
		Headers: []decode.Header{
			{Key: "id", Value: []byte("0a8b6a52-6f3e-4c1e-9a41-b1f9a2f3c001")},
			{Key: "eventType", Value: []byte("placed")},
			{Key: "tidemark-position", Value: []byte("00000000016B3700-00000002")},
			{Key: "tidemark-source", Value: []byte("7325476235476523874/app/tidemark")},
		},
	}
	keys := make([][]byte, 64)
	for i := range keys {
		keys[i] = []byte{'k', byte(i)}
	}
	b.SetBytes(burst * int64(len(value)))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		room <- struct{}{}
		batch := make([]Delivery, burst)
		for i := range batch {
			d := &batch[i]
			d.Event = ev
			d.Event.Key = keys[(n+i)%len(keys)]
			if err := p.Check(d); err != nil {
				b.Fatal(err)
			}
		}
		p.Publish(batch)
		n += burst
	}
	for acked.Load() < int64(n) {
		select {
		case err := <-done:
			b.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
}
