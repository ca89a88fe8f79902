#!/usr/bin/env bash
# The main job on embedded parts: generate a dump, move it, kill it half way with SIGKILL, go on, see the books close.
# Needs bin/drover (make build), which `make demo` sees to. Everything is kept in ./demo, made anew each time.
set -euo pipefail
cd "$(dirname "$0")"
drover=$PWD/bin/drover
docs=${DOCS:-200000}

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

rm -rf demo && mkdir demo && cd demo
export XDG_STATE_HOME=$PWD/state

say "1. A mongodump of $docs documents"
"$drover" gen dump/shop/orders.bson --docs "$docs" --profile flat5 --seed 42

cat >orders.yaml <<'YAML'
name: orders
source:
  mongodump: dump/shop/orders.bson
target:
  table: orders
  create: true
  regions: 4
  families: {d: {versions: 1}}
map:
  key: _id
  family: d
limits: {rows: 12000}       # so that there is something to watch
gateways: {embedded: hbase}  # HBase's Thrift2 service inside the process; a cluster's addresses go here
YAML
say "2. The job file"
cat orders.yaml

say "3. Run it, and kill it with SIGKILL half way"
"$drover" run orders.yaml &
pid=$!
while kill -0 $pid 2>/dev/null; do
  read=$("$drover" status orders.yaml --json 2>/dev/null | sed -n 's/.*"read":\([0-9]*\).*/\1/p') || true
  if [ "${read:-0}" -ge $((docs / 2)) ]; then kill -KILL $pid; break; fi
  sleep 0.2
done
wait $pid 2>/dev/null || echo "killed: exit code $?"
say "4. What the state folder says now"
"$drover" status orders.yaml

say "5. Run the same command again: it goes on where it was"
"$drover" run orders.yaml

say "6. And once more: done is done, nothing moves"
"$drover" run orders.yaml --json
