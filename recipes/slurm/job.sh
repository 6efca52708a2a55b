# The job: check each node, stage the store, start one task a GPU, and go back into the queue when told to stop.
# submit.sh puts the #SBATCH lines, the settings and checks.sh before it. Read beside those of checks.sh: NODES, MPI,
# LOCAL_DIR (may be empty), task.
set -euo pipefail

# 143 is the trainer's answer to SIGTERM, its state saved. Before a preemption or the time limit Slurm signals the tasks
# alone; this shell as well where the job is cancelled, or where Slurm puts it back into the queue itself.
told=
finish() {
    local code=$? job=$SLURM_JOB_ID
    # The number of an array's last job is the array's as well, all of whose jobs would go back.
    [[ -z ${SLURM_ARRAY_JOB_ID:-} ]] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    [[ $code -lt 200 ]] || code=$((code - 200))
    if [[ $code -eq 143 && -z $told ]]; then
        scontrol requeue "$job"
    fi
    exit "$code"
}
trap 'told=yes' TERM
trap finish EXIT

# On every node, in the container. A staged store got its name after its checksums agreed, so its sizes say enough.
stage() {
    set -euo pipefail
    local store=$1 staged=$2
    exec 9>"$staged.lock"
    flock 9 # another job may be staging it on this node
    if [[ -d $staged ]] && bionemo-scale inspect --no-verify "$staged" >"$staged.log" 2>&1; then
        return
    fi
    rm -rf "$staged" "$staged.partial"
    {
        cp -r "$store" "$staged.partial" && bionemo-scale inspect "$staged.partial" && sync -f "$staged.partial"
    } >"$staged.log" 2>&1 || {
        rm -rf "$staged.partial"
        fail "$store could not be staged to $staged on $(hostname) ($(tail -n 1 "$staged.log")): make room there, or leave LOCAL_DIR empty."
    }
    mv "$staged.partial" "$staged"
}

check_paths
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR=${hosts[0]} MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export IMAGE MOUNTS STORE OUT LOCAL_DIR

once_a_node=(--ntasks="$NODES" --ntasks-per-node=1)
# shellcheck disable=SC2016 # the node expands it
srun "${once_a_node[@]}" bash -c "$(declare -f fail mounted check_paths)"'; check_paths
    [[ -z $LOCAL_DIR ]] || mkdir -p "$LOCAL_DIR" || fail "LOCAL_DIR=$LOCAL_DIR cannot be made on $(hostname): name a folder of the node that is yours."'

# IMAGE=none: the tasks run on the node itself, from the folder of the results.
[[ -z $LOCAL_DIR || -z $STORE ]] || MOUNTS+=,$LOCAL_DIR:$LOCAL_DIR
container=(--chdir="$OUT")
if [[ $IMAGE != none ]]; then
    container=(--container-image="$IMAGE" --container-workdir="$OUT" --no-container-mount-home --container-mounts="$MOUNTS")
fi
if [[ -n $LOCAL_DIR && -n $STORE ]]; then
    staged=$LOCAL_DIR/$(sha256sum <"$STORE/manifest.json" | cut -c 1-16)
    srun "${once_a_node[@]}" "${container[@]}" \
        bash -c "$(declare -f fail stage)"'; stage "$@"' stage "$STORE" "$staged"
    STORE=$staged
fi

# In every task. Where one fails, Slurm ends the others by SIGTERM, which is 143 as well, and srun answers with the highest
# code of all: so any other code is put above it.
run() {
    trap : TERM # the program is told too, and is waited for
    local code=0
    "$@" || code=$?
    [[ $code -eq 0 || $code -eq 143 ]] || code=$((200 + (code < 56 ? code : 1)))
    exit "$code"
}

# Lightning reads SLURM_PROCID, SLURM_LOCALID and SLURM_NTASKS. Every task sees all GPUs and cores of its node.
# shellcheck disable=SC2154 # submit.sh writes task
srun --mpi="$MPI" --cpu-bind=none --kill-on-bad-exit=1 "${container[@]}" \
    bash -c "$(declare -f run)"'; run "$@"' run "${task[@]//\{store\}/$STORE}"
