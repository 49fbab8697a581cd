#!/usr/bin/env bash
# Brings deploy/compose up on a real engine and tries it: test/compose says what. With --install it first installs
# Debian's engine where there is none. Skipped, with the reason, where no engine is to be had.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "${1:-}" = --install ] && ! docker version >/dev/null 2>&1 && ! command -v dockerd >/dev/null; then
  sudo=()
  if [ "$(id -u)" != 0 ]; then sudo=(sudo -n); fi
  "${sudo[@]}" apt-get update -q &&
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends docker.io iptables iproute2 ||
    echo 'docker.io cannot be installed'
fi
code=0
tools/check/engine.sh true || code=$?
if [ "$code" = 77 ]; then
  echo 'skipped: nothing to bring the compose project up with'
  exit 0
fi
[ "$code" = 0 ] || exit "$code"

# What needs a network comes before the engine, which may have none.
make --no-print-directory build
tools/compose/build.sh etcd etcdctl grpcurl
compose='docker compose'
if ! $compose version >/dev/null 2>&1; then
  tools/compose/build.sh docker-compose
  compose=$PWD/bin/docker-compose
fi
go test -c -o bin/compose.test ./test/compose
BEELINE_TEST_COMPOSE=$compose tools/check/engine.sh bash -c \
  'tools/images.sh && cd test/compose && exec ../../bin/compose.test -test.v -test.timeout 10m'
