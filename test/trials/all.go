package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
)

// document is one run of docs/trials.md.
type document struct {
	name  string // of its reports
	args  []string
	short []string // more arguments for a run with --short
}

// onServers are the faults in which it matters where the checkpoint is.
const onServers = "kill,kill_early,stop_cont,two_relays,takeover_kill,takeover_silent,broker_kill,broker_freeze_and_kill,kafka_cut,checkpoint_refused," +
	"pg_cut,pg_restart_fast,pg_restart_immediate,pg_freeze,slot_taken,walsender_kill,failover_18,replica"

// documents are all of them, in its order.
func documents(length string) []document {
	fewKills := []string{"--kills", "5", "--rows", "1000"}
	fewFaults := []string{"--short", "--for", "1s", "--faults", "kill,mixed"}
	return []document{
		{"kills", []string{"--kills", "1000", "--rows", "1000000"}, fewKills},
		{"exactly_once_kills", []string{"--mode", exactlyOnce, "--kills", "200", "--rows", "100000"}, fewKills},
		{"exactly_once", []string{"--mode", exactlyOnce, "--for", length}, fewFaults},
		{"postgres_kills", []string{"--store", inPostgres, "--kills", "100", "--rows", "50000"}, fewKills},
		{"postgres", []string{"--store", inPostgres, "--for", length, "--faults", onServers}, fewFaults},
		{"kafka_kills", []string{"--store", inKafka, "--kills", "100", "--rows", "50000"}, fewKills},
		{"kafka", []string{"--store", inKafka, "--for", length, "--faults", onServers}, fewFaults},
		{"faults", []string{"--for", length}, fewFaults},
	}
}

// runAll makes every run of the document, each with a seed that o.seed chooses, and goes on after one that breaks a promise.
func runAll(ctx context.Context, o *options) error {
	if err := os.MkdirAll(o.all, 0o750); err != nil {
		return err
	}
	var errs []error
	rng := rand.New(rand.NewPCG(o.seed, 0)) //nolint:gosec // reproducible
	for _, d := range documents(o.length.String()) {
		args := append([]string{"--seed", strconv.FormatUint(rng.Uint64(), 10)}, d.args...)
		if o.short {
			args = append(args, d.short...)
		}
		if o.postgres != "" {
			args = append(args, "--postgres", o.postgres)
		}
		one, err := parse(args, os.Stderr)
		if err != nil {
			return err
		}
		one.verbose = o.verbose
		one.report, one.json = filepath.Join(o.all, d.name+".md"), filepath.Join(o.all, d.name+".json")
		fmt.Printf("\n%s, into %s\n", d.name, one.report)
		if err := run(ctx, one); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", d.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}
