#!/usr/bin/env bash
# Runs every fuzz test of the repository, one after the other, each for the time given (default 10s).
set -uo pipefail
cd "$(dirname "$0")/../.."
time=${1:-10s}
status=0
while read -r file; do
  package=./$(dirname "$file")
  for name in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
    echo "=== $package $name"
    go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "$package" || status=1
  done
done < <(grep -rl --include='*_test.go' '^func Fuzz' internal services test cmd | sort)
exit "$status"
