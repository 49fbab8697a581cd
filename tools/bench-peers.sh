#!/usr/bin/env bash
# Builds Beeline and what it is measured against, and measures: test/peers says what, flags go to it.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
go build -trimpath -o bin/ ./cmd/beeline ./services/gateway/cmd/gateway ./services/session/cmd/session ./test/faults/cmd/etcd
GOWORK=off go -C test/peers build -trimpath -o ../../bin/ . ./broadcast github.com/nats-io/nats-server/v2
exec bin/peers -bin bin "$@"
