#!/bin/sh
# Starts three nodes on this machine, in any order and all at once; they find each other. Ctrl-C stops them, and their data
# stays in example/data. MOKV=/path/to/mokv uses another binary than the one that cargo builds.
set -eu
cd "$(dirname "$0")"

if [ -z "${MOKV:-}" ]; then
    cargo build --release --bin mokv
    MOKV=../target/release/mokv
fi

pids=""
# Each is told, and waited for: they hand over leadership and close their logs.
stop() {
    trap - INT TERM EXIT
    for pid in $pids; do
        kill "$pid" 2>/dev/null || true
    done
    wait
}
trap 'stop; exit 0' INT TERM
trap stop EXIT

for config in config3.yaml config2.yaml config.yaml; do
    "$MOKV" --config-file "$config" &
    pids="$pids $!"
done
echo "try: mokv members    or: mokv set greeting hello --endpoints 127.0.0.1:8420"
wait
