#!/bin/bash
# Checks the models: each as it stands has no error, and each of its faults is found. `make model` runs it.
set -euo pipefail
cd "$(dirname "$0")"
for tool in spin gcc; do
  command -v $tool >/dev/null || { echo "make model needs spin and gcc: apt-get install spin gcc"; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# explore MODEL [DEFINE…]: prints the number of states and whether all were seen without an error.
explore() {
  local model=$PWD/$1.pml; shift
  (cd "$work" && rm -f pan* && spin -a "$@" "$model" >spin.out || { cat spin.out; exit 1; }
   gcc -w -O2 -DSAFETY -DCOLLAPSE -DMEMLIM=4000 -o pan pan.c
   ./pan -E -m1000000 -w24 >pan.out 2>&1 || { cat pan.out; exit 1; }
   local states; states=$(awk '/states, stored/ {print $1}' pan.out)
   if grep -q 'errors: 0' pan.out && ! grep -q 'max search depth too small\|out of memory\|not completed' pan.out; then echo "ok $states"
   elif grep -q 'assertion violated' pan.out; then echo "violated $states"
   else cat pan.out; exit 1; fi)
}

bad=0
expect() {
  local want=$1; shift
  local got; got=$(explore "$@")
  printf '%-10s %-16s %s states\n' "$1" "${*:2}" "$got"
  [[ $got == "$want "* ]] || { echo "  want: $want"; bad=1; }
}

expect ok leases
for fault in NOFENCE NOSPLITFENCE HIGHEST EARLYREAD LATELIST; do expect violated leases -D$fault; done
expect ok shares
for fault in GROWFIRST NEWESTONLY NOTERM NOWAIT EARLYNAME; do expect violated shares -D$fault; done
exit $bad
