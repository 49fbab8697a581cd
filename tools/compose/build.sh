#!/usr/bin/env bash
# Builds programs of others that containers are tried with into bin/, from modules that go.mod files pin: those
# named of docker-compose, etcd, etcdctl, grpcurl. docker-compose takes minutes the first time.
set -euo pipefail
cd "$(dirname "$0")/../.."

build() { # name, directory of the go.mod, package
  GOWORK=off CGO_ENABLED=0 go -C "$2" build -trimpath -ldflags '-s -w' -o "$PWD/bin/$1" "$3"
}

for name in "$@"; do
  case $name in
    docker-compose) build "$name" tools/compose github.com/docker/compose/v2/cmd ;;
    etcdctl) build "$name" tools/compose go.etcd.io/etcd/etcdctl/v3 ;;
    grpcurl) build "$name" tools/compose github.com/fullstorydev/grpcurl/cmd/grpcurl ;;
    etcd) build "$name" . go.etcd.io/etcd/server/v3 ;;
    *)
      echo "$name: not one of docker-compose, etcd, etcdctl, grpcurl"
      exit 1
      ;;
  esac
done
