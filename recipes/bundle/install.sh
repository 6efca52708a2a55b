#!/usr/bin/env bash
# Install what is in this folder into a new environment, without a network.
#   [PYTHON=/path/to/python] bash install.sh VENV
set -euo pipefail
fail() {
    echo "error: $1" >&2
    exit 2
}

[[ $# -eq 1 ]] || fail "usage: install.sh VENV"
venv=$(realpath -m "$1")
[[ ! -e $venv ]] || fail "$venv exists: name a new folder, or remove it."
cd "$(dirname "${BASH_SOURCE[0]}")"
sha256sum --check --quiet SHA256SUMS >&2 || fail "what is named above is missing or damaged: copy it here again."
# shellcheck source=/dev/null
source ./bundle.txt # made_for and packages
# shellcheck disable=SC2154
python=${PYTHON:-python${made_for%% *}}
found=$("$python" -c 'import platform, sys; print("%d.%d" % sys.version_info[:2], "on", platform.machine())') ||
    fail "$python does not run: name Python ${made_for%% *} with PYTHON=/path/to/python."
[[ $found == "$made_for" ]] ||
    fail "these wheels are for Python $made_for, and $python is $found: name another with PYTHON=/path/to/python."

mkdir -p "$(dirname "$venv")"
wheels=$(mktemp -d "$venv.XXXXXX")
trap 'rm -rf "$wheels" "$venv"' EXIT
cat wheels.tar.* | tar -xf - -C "$wheels"
"$python" -m venv "$venv"
# Nothing that this machine tells pip (an index, more wheels, constraints) has a say.
# shellcheck disable=SC2086,SC2154 # several packages
PIP_CONFIG_FILE=/dev/null "$venv/bin/python" -m pip --isolated install --quiet --disable-pip-version-check --no-cache-dir \
    --no-index --find-links "$wheels" $packages
trap 'rm -rf "$wheels"' EXIT
echo "Installed $packages: source $venv/bin/activate"
