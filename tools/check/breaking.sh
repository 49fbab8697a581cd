#!/usr/bin/env bash
# Compares the protos with those of the last tag of the contract, api/vX.Y.Z, when there is one.
set -euo pipefail
cd "$(dirname "$0")/../.."
tag=$(git tag --list 'api/v*' --sort=-version:refname | head -n 1)
if [ -z "$tag" ]; then
  echo 'no tag api/v*: nothing to be compatible with yet'
  exit 0
fi
echo "against $tag"
GOWORK=off go tool -modfile=tools/go.mod buf breaking --against ".git#tag=$tag"
