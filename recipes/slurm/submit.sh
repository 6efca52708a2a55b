#!/usr/bin/env bash
# Write a Slurm job and queue it. Usage: [VARIABLE=...] submit.sh NAME COMMAND...
# {store} in the command becomes the path of the store, which with LOCAL_DIR is on the node's own disk.
# docs/reference/slurm.md lists the variables. DRYRUN=1 prints the job instead.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=recipes/slurm/checks.sh
source "$here/checks.sh"

[[ $# -ge 2 ]] || fail "usage: submit.sh NAME COMMAND..."
name=$1
shift
: "${ACCOUNT:=}" "${PARTITION:=}" "${IMAGE:=}" "${MOUNTS:=$PWD}" "${STORE:=}" "${OUT:=}" "${LOCAL_DIR:=}"
: "${NODES:=1}" "${GPUS:=8}" "${TIME:=04:00:00}" "${NOTICE:=120}" "${MPI:=pmix}"
[[ -n $ACCOUNT ]] || fail "ACCOUNT is not set: give the Slurm account that the job is charged to."
[[ -n $IMAGE ]] || fail "IMAGE is not set: give the container image, a .sqsh file or REGISTRY#NAME:TAG."
[[ -n $OUT ]] || fail "OUT is not set: give the folder that the results go to."
[[ -n $STORE || "$*" != *"{store}"* ]] || fail "STORE is not set: give the folder that \`bionemo-scale prepare\` wrote."
for variable in NODES GPUS NOTICE; do
    [[ ${!variable} =~ ^[1-9][0-9]*$ ]] || fail "$variable=${!variable} is no whole number above 0."
done
for variable in STORE OUT LOCAL_DIR; do
    [[ -z ${!variable} || ${!variable} == /* ]] || fail "$variable=${!variable} is no absolute path: begin it with /."
done
[[ $STORE$OUT$LOCAL_DIR$MOUNTS != *[[:space:]]* ]] || fail "a path with a blank cannot be mounted: rename it."
# Pyxis wants both sides of a mount.
both=
for mount in ${MOUNTS//,/ }; do
    [[ $mount == *:* ]] || mount=$mount:$mount
    both+=${both:+,}$mount
done
MOUNTS=$both
check_paths
for argument in "$@"; do
    if [[ $argument == /* && $argument != "$OUT"* ]]; then
        [[ -e $argument ]] || fail "$argument, which the command names, does not exist: mend the path."
        mounted "$argument" || fail "$argument is in none of MOUNTS=$MOUNTS, so the container would not see it: add its folder."
    fi
done

job() {
    printf '#!/bin/bash\n'
    printf '#SBATCH --%s\n' "job-name=$name" "account=$ACCOUNT" ${PARTITION:+"partition=$PARTITION"} \
        "nodes=$NODES" "ntasks-per-node=$GPUS" "gpus-per-node=$GPUS" "time=$TIME" exclusive mem=0 \
        requeue "signal=TERM@$NOTICE" open-mode=append "output=$OUT/slurm-%j.log"
    printf '\n'
    for variable in NODES MPI IMAGE MOUNTS STORE OUT LOCAL_DIR; do
        printf '%s=%q\n' "$variable" "${!variable}"
    done
    printf 'task=(%s)\n\n' "$(printf ' %q' "$@")"
    cat "$here/checks.sh"
    printf '\n'
    cat "$here/job.sh"
}

# A wrong setting would end the job only when it starts. Without our commands here, as on many login nodes, nobody asks.
unchecked=
case "$1 ${2:-}" in
    "bionemo-scale pretrain" | "bionemo-scale finetune") ask=(--check) ;;
    "nemo scale") ask=(--dryrun --yes) ;;
    *) ask=() ;;
esac
if [[ ${#ask[@]} -gt 0 ]]; then
    if command -v "$1" >/dev/null; then
        "$@" "${ask[@]}" >/dev/null || exit 2
    else
        unchecked="note: the settings are not checked before the job starts, since $1 is not on $(hostname)."
    fi
fi

if [[ -n ${DRYRUN:-} ]]; then
    job "$@"
    exit
fi
command -v sbatch >/dev/null || fail "there is no sbatch on $(hostname): queue it from a login node, or print the job with DRYRUN=1."
mkdir -p "$OUT"
[[ -z $unchecked ]] || echo "$unchecked" >&2
job "$@" | sbatch
