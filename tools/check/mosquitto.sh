#!/usr/bin/env bash
# Installs Debian's mosquitto where there is none: tests take clients through a router to it. Nothing of it runs then.
set -euo pipefail
if command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ]; then
  exit 0
fi
sudo=()
if [ "$(id -u)" != 0 ]; then sudo=(sudo); fi
"${sudo[@]}" apt-get update -q
# The package would start it, on a port that others want: runlevel 1 has nothing started.
"${sudo[@]}" env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends mosquitto
