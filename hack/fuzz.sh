#!/bin/bash
# Runs every fuzz target for the given time. `go test` alone runs the seeds.
set -euo pipefail
for dir in $(git ls-files '*_test.go' | xargs grep -l '^func Fuzz' | xargs -n1 dirname | sort -u); do
  for target in $(grep -ho '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | cut -d' ' -f2); do
    echo "fuzz $dir $target"
    go test "./$dir" -run='^$' -fuzz="^$target\$" -fuzztime="$1" >/tmp/weir-fuzz.$$ 2>&1 ||
      { cat /tmp/weir-fuzz.$$; rm -f /tmp/weir-fuzz.$$; exit 1; }
    grep -h 'elapsed.*execs' /tmp/weir-fuzz.$$ | tail -1 || true
  done
done
rm -f /tmp/weir-fuzz.$$
