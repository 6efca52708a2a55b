# What a job needs. submit.sh asks before it queues a job; the job file holds this text and asks again on every node.
# Read: IMAGE, MOUNTS (SRC[:DST[:FLAGS]],...), STORE (may be empty), OUT.
fail() {
    echo "error: $1" >&2
    exit 2
}

# Whether the container sees a path, under the name that it has outside.
mounted() {
    [[ $IMAGE != none ]] || return 0
    local mount source target _flags
    for mount in ${MOUNTS//,/ }; do
        IFS=: read -r source target _flags <<<"$mount"
        [[ ${target:-$source} == "$source" && $1/ == "${source%/}"/* ]] && return
    done
    return 1
}

check_paths() {
    local node mount path
    node=$(hostname)
    if [[ $IMAGE == /* || $IMAGE == ./* || $IMAGE == *.sqsh ]] && ! [[ -f $IMAGE ]]; then
        fail "IMAGE=$IMAGE is not on $node: make it with \`enroot import\`, or name an image of a registry (REGISTRY#NAME:TAG)."
    fi
    for mount in ${MOUNTS//,/ }; do
        [[ -e ${mount%%:*} ]] || fail "${mount%%:*} of MOUNTS is not on $node: mend the path, or leave it out."
    done
    if [[ -n $STORE && ! -f $STORE/manifest.json ]]; then
        fail "STORE=$STORE is no store on $node: name what \`bionemo-scale prepare\` wrote, on a disk that all nodes see."
    fi
    for path in $STORE $OUT; do
        mounted "$path" || fail "$path is in none of MOUNTS=$MOUNTS, so the container would not see it: add its folder."
    done
}
