package main

import (
	"sync"
	"time"

	"github.com/tidemark/tidemark/test/trial"
)

// meter follows the memory of one process. The kernel keeps the peak, so nothing between two looks is missed, except what
// comes after the last one before a SIGKILL.
type meter struct {
	relay *trial.Relay
	every time.Duration
	stop  chan struct{}
	done  chan struct{}

	mu     sync.Mutex
	begun  time.Time
	last   trial.Memory
	series []int64 // the most that was resident in each second
}

func follow(relay *trial.Relay) *meter {
	m := &meter{relay: relay, every: 50 * time.Millisecond, stop: make(chan struct{}), done: make(chan struct{}), begun: time.Now()}
	go m.run() // ends with end, or with the process
	return m
}

func (m *meter) run() {
	defer close(m.done)
	ticker := time.NewTicker(m.every)
	defer ticker.Stop()
	for m.look() {
		select {
		case <-m.stop:
			return
		case <-ticker.C:
		}
	}
}

// look asks the kernel once. It returns false if the process has ended.
func (m *meter) look() bool {
	now, err := m.relay.Memory()
	if err != nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = now
	second := int(time.Since(m.begun) / time.Second)
	for len(m.series) <= second {
		m.series = append(m.series, 0)
	}
	m.series[second] = max(m.series[second], now.Resident)
	return true
}

// end looks a last time and returns the peak and the series.
func (m *meter) end() (peak int64, series []int64) {
	m.look()
	close(m.stop)
	<-m.done
	return m.last.Peak, m.series
}
