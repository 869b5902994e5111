package main

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

func TestMain(m *testing.M) { stacktest.Main(m) }

// What `make chain` shows of 100,000 orders, in short: relay, writer and readers are killed again and again, and each order is
// billed once.
func TestEveryOrderIsBilledOnceWhoeverIsKilled(t *testing.T) {
	stacktest.Require(t, "kafka", devstack.HaveKafka())
	var out bytes.Buffer
	o := Options{Orders: 1000, Readers: 2, KillEvery: 400 * time.Millisecond, Rounds: 3, RealKafka: true, Seed: rand.Uint64(), Out: &out}
	account, err := Run(t.Context(), o)
	t.Logf("seed %d\n%s", o.Seed, &out)
	if err != nil {
		t.Fatal(err)
	}
	if err := account.Err(); err != nil {
		t.Error(err)
	}
	for name, n := range account.Kills {
		if n == 0 {
			t.Errorf("%s was never killed: this shows nothing", name)
		}
	}
	if account.Dropped["duplicate"] == 0 {
		t.Log("nothing was delivered again: every kill came before the first bill, or after the last")
	}
	if account.Dropped["stale"] != account.Orders {
		t.Errorf("of %d old events that were published again, %d were dropped as stale", account.Orders, account.Dropped["stale"])
	}
}
