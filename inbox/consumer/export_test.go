package consumer

// Halted returns how many partitions are being given away now.
func (c *Consumer) Halted() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, p := range c.partitions {
		if p.stopped {
			n++
		}
	}
	return n
}

// Held returns what is held in memory: records, and their bytes.
func (c *Consumer) Held() (records, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.records, c.bytes
}
