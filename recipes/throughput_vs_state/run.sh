#!/usr/bin/env bash
# Train and predict beside STATE at matched sizes; further options of `bionemo-bench throughput` go at the end.
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "usage: $0 OUT [option of bionemo-bench throughput ...]" >&2
    exit 2
fi
out="$1"
shift
exec bionemo-bench throughput --out "$out" "$@"
