package decode

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// cursor reads one message from its front. It remembers its first failure, and every read after that gives zero, so a
// message is read as a flat list of fields and asked once, at its end, whether it was whole. What it returns aliases
// the message: a length on the wire never makes an allocation.
type cursor struct {
	msg []byte
	at  int // the next byte; behind the last one after a failure
	err error
}

// fail records what is wrong with the message, unless something was wrong before.
func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
	c.at = len(c.msg)
}

// bytes takes n bytes; nil if there are fewer. Otherwise it is never nil.
func (c *cursor) bytes(n uint32) []byte {
	if uint(n) > uint(len(c.msg)-c.at) {
		c.short()
		return nil
	}
	b := c.msg[c.at : c.at+int(n)]
	c.at += int(n)
	return b
}

func (c *cursor) short() { c.fail("the message ends too early") }

func (c *cursor) uint8() uint8 {
	if b := c.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if b := c.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if b := c.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if b := c.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// text takes the bytes up to the next zero byte, and that byte.
func (c *cursor) text() []byte {
	rest := c.msg[c.at:]
	n := bytes.IndexByte(rest, 0)
	if n < 0 {
		c.short()
		return nil
	}
	c.at += n + 1
	return rest[:n:n]
}

// end returns what was wrong with the message, bytes that nobody read included.
func (c *cursor) end() error {
	if n := len(c.msg) - c.at; n > 0 {
		c.fail("%d bytes follow the end of the message", n)
	}
	return c.err
}
