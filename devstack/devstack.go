// Package devstack runs the servers that tidemark works between, without Docker and without an installation:
// an embedded Postgres, a real Kafka, an in-process imitation of Kafka, and a TCP proxy that breaks connections on demand.
// The demo, the benchmark and the tests use the same ones.
//
// The one rule: nothing outlives its owner. Close leaves no process and no file behind, and a server whose owner is
// killed with SIGKILL dies with it (on Linux), because a forgotten Postgres holds ports, memory and replication slots
// that make the next test lie.
//
// The servers trust every local connection. They are for scratch data on a machine whose users trust each other.
package devstack

import "errors"

// ErrClosed is the error of every method that is called after Close.
var ErrClosed = errors.New("closed")
