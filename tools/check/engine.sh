#!/usr/bin/env bash
# Runs a command with a Docker engine: the one that answers, or, for root where dockerd is installed, one that is
# started for the command alone. That one has network, mount and process namespaces of its own, so that its rules
# of iptables, bridges, mounts and processes end with it; its files are in a directory that is removed. The command
# has no network but the engine's.
#
# Prints why and exits with 77 when there is no engine to be had, else with the code of the command.
set -euo pipefail

none() {
  echo "no Docker engine: $1"
  exit 77
}

# inside runs in the namespaces, as process 1 of them: when it ends, so does everything.
inside() {
  local dir=$1
  shift
  ip link set lo up
  mount -t tmpfs tmpfs /run # an engine or containerd outside is not to be found
  export DOCKER_HOST=unix://$dir/sock
  # An engine cannot give containers more open files than it may have itself.
  local files
  files=$(ulimit -Hn)
  if [ "$files" != unlimited ] && [ "$files" -lt 131072 ]; then export NOFILE=$files; fi

  dockerd --host "$DOCKER_HOST" --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" >"$dir/log" 2>&1 &
  local engine=$! began=$SECONDS
  until docker version >/dev/null 2>&1; do
    if ! kill -0 "$engine" 2>/dev/null || ((SECONDS - began > 60)); then
      tail -n 5 "$dir/log"
      none 'dockerd does not start'
    fi
    sleep 0.2
  done
  local code=0
  "$@" || code=$?
  kill "$engine" || true
  wait "$engine" || true
  return "$code"
}

if [ "${1:-}" = --inside ]; then
  shift
  inside "$@"
  exit
fi
command -v docker >/dev/null || none 'docker is not installed'
if docker version >/dev/null 2>&1; then exec "$@"; fi
[ "$(id -u)" = 0 ] || none 'none answers, and only root can start one'
for program in dockerd unshare ip; do
  command -v "$program" >/dev/null || none "none answers, and $program is not installed"
done
unshare --net --mount --pid --fork true 2>/dev/null || none 'none answers, and this machine permits no namespaces'

dir=$(mktemp -d /tmp/beeline-engine.XXXXXX)
trap 'rm -rf "$dir"' EXIT
code=0
unshare --net --mount --pid --fork --kill-child --mount-proc "$0" --inside "$dir" "$@" || code=$?
exit "$code"
