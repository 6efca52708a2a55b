"""Check the environment variables that libraries read when they are imported, and the text that streams can take."""

import os

from bionemo.screens.command_line import write_other_characters_out
from bionemo.screens.errors import InputError

_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS")
_RANKS = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_PORT"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_NODEID"),
)


def check_environment() -> None:
    """Refuse, by name, variables that are no numbers; and let labels be printed whatever the locale."""
    write_other_characters_out()
    for name in (*_COUNTS, *_RANKS):
        value, least = os.environ.get(name, ""), 1 if name in _COUNTS else 0
        if value and not (value.isascii() and value.isdecimal() and least <= int(value[:9])):
            raise InputError(f"the environment variable {name}={value!r} is no number of {least} or more: unset it.")


def check_launcher(world_size: int) -> None:
    """Refuse ranks that would wait for others in vain: other ones than the processes that the settings ask for.

    An InputError says that another program, torchrun as a rule, has started this process as one of those.
    """
    if "LOCAL_RANK" not in os.environ or "SLURM_PROCID" in os.environ:
        return
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(
            f"LOCAL_RANK={os.environ['LOCAL_RANK']} says that this process is a rank that another program has started, "
            f"and {missing[0]} is not set: unset LOCAL_RANK, or start with torchrun."
        )
    started = int(os.environ.get("WORLD_SIZE", world_size))
    if started != world_size:
        raise InputError(
            f"torchrun has started {started} processes, and compute.devices x compute.nodes asks for {world_size}: "
            f"set them to --nproc-per-node and --nnodes."
        )
