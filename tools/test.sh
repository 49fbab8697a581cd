#!/usr/bin/env bash
# Runs go test with the flags and packages given. Those under test/ and examples/ start whole clusters and want the machine for
# themselves: they come last, one after another. All are run, whatever the others say.
set -uo pipefail

flags=() beside=() alone=() failed=0
for a; do
  case $a in
    -*) flags+=("$a") ;;
    */beeline/test/* | */beeline/examples/*) alone+=("$a") ;;
    *) beside+=("$a") ;;
  esac
done
go test "${flags[@]}" "${beside[@]}" || failed=1
go test "${flags[@]}" -p 1 "${alone[@]}" || failed=1
exit $failed
