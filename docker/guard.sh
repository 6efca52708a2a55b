#!/usr/bin/env bash
# The GPU stack of a base image has to stay as it is: its torch and what is built against it are not those of PyPI.
#   guard.sh write FILE        note the stack's versions, as constraints for pip
#   guard.sh pins FILE PINS    print the pins of PINS that are not of the stack
#   guard.sh check FILE        fail where something of the stack is gone or has changed
set -euo pipefail
stack='^(torch|torchvision|torchaudio|(pytorch[-_])?triton|torchao|transformer[-_]engine.*|apex|flash[-_]attn.*|nvidia[-_].*|cuda[-_](bindings|python|pathfinder)|protobuf|onnx)=='
installed() { pip list --format=freeze --disable-pip-version-check | sed -nE "/$stack/Ip" | sort; }

case $1 in
    write)
        installed >"$2"
        grep -qi '^torch==' "$2" || { echo "the base image has no torch: choose another BASE_IMAGE" >&2 && exit 1; }
        ;;
    pins)
        awk -F== 'function name(text) { gsub(/[-_.]+/, "-", text); return tolower(text) }
            NR == FNR { kept[name($1)]; next } !(name($1) in kept)' "$2" "$3"
        ;;
    check)
        changed=$(comm -23 "$2" <(installed))
        if [[ -n $changed ]]; then
            echo "these packages of the base image were changed: ${changed//$'\n'/, }" >&2
            exit 1
        fi
        ;;
esac
