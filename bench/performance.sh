#!/usr/bin/env bash
# The measurements of docs/performance.md, one after the other, on this machine: performance.sh [--short] FOLDER. The folder
# gets what was measured, NAME.json for each, and performance.md with the tables. It takes about an hour on two cores, on a
# machine that does nothing else; --short shows in minutes that it works, and its numbers mean nothing.
set -euo pipefail

short=
if [ "${1-}" = --short ]; then short=1 && shift; fi
out=${1:?usage: performance.sh [--short] FOLDER}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
go build -C "$here/.." -trimpath -o "$(cd "$out" && pwd)/tidemark" .
bench="$out/tidemark bench"

if command -v mvn >/dev/null && command -v java >/dev/null; then
  "$here/debezium/fetch.sh"
  beside="--beside $here/debezium/run.sh"
else
  echo "without Debezium, and on an imitation of Kafka unless --brokers names one: that takes Java 17 and Maven" >&2
  beside=
fi

{
  echo "# Performance"
  echo
  echo "Written by \`make performance\`; docs/performance.md says how to read it. The raw numbers are in the JSON files beside it."
} >"$out/performance.md"

# measure NAME WHAT FLAGS: one call of tidemark bench.
measure() {
  local name=$1 what=$2
  shift 2
  if [ -n "$short" ]; then # the last flag of a name counts
    set -- "$@" --rows 5000 --runs 1 --for "${brief:-0s}" --idle 0s
  fi
  echo "$what" >&2
  $bench "$@" --json --report "$out/$name.md" >"$out/$name.json"
  {
    printf '\n## %s\n\n```sh\ntidemark bench %s\n```\n\n' "$what" "${*//$here/bench}"
    cat "$out/$name.md"
  } >>"$out/performance.md"
  rm "$out/$name.md"
}

# shellcheck disable=SC2086 # two words, or none
brief=1s measure backlog "A backlog of a million rows" --runs 5 --rates 500,0 --for 20s $beside
measure transactions "One row a transaction" --rows 300000 --transaction 1 --runs 5 --for 0s --idle 0s
measure large "Ten million rows" --rows 10000000 --for 0s --idle 0s
measure at_least_once "At least once" --rows 400000 --runs 7 --for 0s --idle 0s
measure exactly_once "Exactly once" --rows 400000 --runs 7 --for 0s --idle 0s --set delivery.mode=exactly_once --set checkpoint.store=kafka
measure cases "Cases" --suite --rows 100000 --runs 3
brief=1s measure latency "Latency" --rows 200000 --for 15s --rates 500,10000,30000,50000
echo "$out/performance.md" >&2
