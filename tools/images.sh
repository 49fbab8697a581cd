#!/usr/bin/env bash
# Builds the images beeline/gateway, beeline/session, beeline/router, beeline/beeline and beeline/etcd, all with the tag TAG
# (default dev), from the static binaries in bin/. Pulls nothing, and compiles etcd and its client for those who
# cannot pull theirs.
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${TAG:-dev}
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
context=bin/images

tools/compose/build.sh etcd etcdctl
rm -rf "$context"
mkdir -p "$context/data"
cp Dockerfile "$context"
ln bin/{gateway,session,router,beeline,etcd,etcdctl} "$context"
for image in gateway session router beeline etcd; do
  docker build --quiet --target "$image-prebuilt" --build-arg "VERSION=$tag" --build-arg "REVISION=$revision" \
    --tag "beeline/$image:$tag" "$context" >/dev/null
done
docker image ls --filter 'reference=beeline/*' --format '{{.Repository}}:{{.Tag}}  {{.Size}}'
