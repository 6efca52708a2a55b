#!/usr/bin/env bash
# Collect all that a machine without a network needs to install the packages of this repository.
#   [PYTHON=python3.12] [CUDA=cu126] [PART=1900M] bundle.sh OUT [PACKAGE...]
# PYTHON: the interpreter that the wheels are for. CUDA: PyTorch's build (cpu, cu126, cu130, ...), else the one of PyPI.
# PART: the size of a part. PACKAGE: folders of sub-packages/, else all five; name those as well that they build on.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
fail() {
    echo "error: $1" >&2
    exit 2
}

[[ $# -ge 1 ]] || fail "usage: bundle.sh OUT [PACKAGE...]"
out=$(realpath -m "$1")
shift
[[ $# -gt 0 ]] || set -- bionemo-screens bionemo-cellsets bionemo-perteval bionemo-scale bionemo-bench
[[ ! -e $out ]] || fail "$out exists: name a new folder, or remove it."
for package in "$@"; do
    [[ -f $root/sub-packages/$package/pyproject.toml ]] || fail "there is no sub-packages/$package."
done
python=${PYTHON:-python3}
made_for=$("$python" -c 'import platform, sys; print("%d.%d" % sys.version_info[:2], "on", platform.machine())') ||
    fail "PYTHON=$python does not run: name the interpreter that the wheels are for."

mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/bundle" "$work/sources"
# setuptools builds beside the sources.
for package in "$@"; do
    cp -r "$root/sub-packages/$package" "$work/sources"
    rm -rf "$work/sources/$package"/{build,src/*.egg-info}
done
# A build of torch's own index is named by its local version, so that PyPI's cannot take its place.
sed -E "s/^torch==[^ ;]+/&${CUDA:++$CUDA}/" "$root/constraints/cpu.txt" >"$work/pins.txt"
"$python" -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
index=${CUDA:+https://download.pytorch.org/whl/$CUDA}
if [[ -n $index ]]; then
    torch=$(sed -nE 's/^torch==([^ ;]+).*/\1/p' "$work/pins.txt")
    [[ $(pip index versions torch --index-url "$index" --retries 1 2>/dev/null) == *"$torch"* ]] ||
        fail "$index cannot be reached, or has no torch $torch for Python $made_for: https://download.pytorch.org/whl/torch/ lists the builds there are."
fi
pip wheel --no-cache-dir --quiet --wheel-dir "$work/wheels" -c "$work/pins.txt" ${index:+--extra-index-url "$index"} "${@/#/$work/sources/}"

tar -C "$work/wheels" -cf - . | split --bytes="${PART:-1900M}" --numeric-suffixes --suffix-length=3 - "$work/bundle/wheels.tar."
printf '%s=%q\n' made_for "$made_for" packages "$*" >"$work/bundle/bundle.txt"
cp "$root/recipes/bundle/install.sh" "$work/bundle"
cd "$work/bundle"
sha256sum bundle.txt install.sh wheels.tar.* >SHA256SUMS
mv "$work/bundle" "$out"
echo "$(find "$work/wheels" -name '*.whl' | wc -l) wheels for Python $made_for, $(du -sh "$out" | cut -f 1): $out"
echo "There, without a network: bash $(basename "$out")/install.sh VENV"
