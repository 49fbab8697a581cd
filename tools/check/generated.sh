#!/usr/bin/env bash
# Generates api/gen again and compares it with what is committed.
set -euo pipefail
cd "$(dirname "$0")/../.."
make --no-print-directory generate
git diff --exit-code -- api/gen
new=$(git ls-files --others --exclude-standard -- api/gen)
if [ -n "$new" ]; then
  printf 'generated but not committed:\n%s\n' "$new"
  exit 1
fi
