#!/usr/bin/env bash
# The workspace is synced, each module builds without it, all are tidy, and those that are built for users state the
# same Go.
# Leaves the module files as they were.
set -uo pipefail
cd "$(dirname "$0")/../.."
status=0
files=(go.mod go.sum api/go.mod api/go.sum)
if [ -e go.work.sum ]; then files+=(go.work.sum); fi
kept=$(mktemp -d)
cp --parents "${files[@]}" "$kept"
restore() { cp -r "$kept/." . && rm -r "$kept"; }
trap restore EXIT

go work sync || status=1
for f in "${files[@]}"; do
  diff -u --label "$f" --label "$f after go work sync" "$kept/$f" "$f" || status=1
done
cp -r "$kept/." .

for module in . api test/peers; do
  echo "GOWORK=off go build ./... in $module"
  GOWORK=off go -C "$module" build ./... || status=1
done
for module in . api tools tools/compose test/peers; do
  echo "go mod tidy -diff in $module"
  GOWORK=off go -C "$module" mod tidy -diff || status=1
done
if [ "$(grep -h '^go ' go.mod go.work api/go.mod | sort -u | wc -l)" != 1 ]; then
  grep '^go ' go.mod go.work api/go.mod
  echo 'go.mod, go.work and api/go.mod state different versions of Go'
  status=1
fi
exit "$status"
