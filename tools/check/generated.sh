#!/usr/bin/env bash
# Generates code from the protos again and compares it with what is committed.
set -euo pipefail
cd "$(dirname "$0")/../.."
make --no-print-directory generate
generated=(api/gen services/router/internal/rest/gen)
git diff --exit-code -- "${generated[@]}"
new=$(git ls-files --others --exclude-standard -- "${generated[@]}")
if [ -n "$new" ]; then
  printf 'generated but not committed:\n%s\n' "$new"
  exit 1
fi
