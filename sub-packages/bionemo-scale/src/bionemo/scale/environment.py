"""Check the environment variables by which a launcher tells a process which rank it is, and set one for Megatron."""

import os
from pathlib import Path

from bionemo.screens.command_line import check_numbers
from bionemo.screens.errors import InputError

_RANKS = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_PORT"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_NODEID"),
)


def name_an_architecture() -> None:
    """Let Megatron be imported where the CUDA toolkit is there and no GPU, as on the login node of a cluster.

    megatron/core/inference/unified_memory.py:71 compiles as it is imported, for the GPUs that torch sees: without one
    torch fails with an IndexError, unless a variable names what to compile for.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or not Path("/proc/driver/nvidia").exists():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "9.0")


def check_ranks() -> None:
    """Refuse, by name, variables that are no numbers."""
    check_numbers(_RANKS, least=0)


def check_launcher(world_size: int, nodes: int) -> None:
    """Refuse ranks that would wait for others in vain: other ones than the processes that the settings ask for.

    An InputError says that another program, torchrun as a rule, has started this process as one of those. Where this
    process is alone it forgets what variables say of a place to meet others at, which may not exist.
    """
    if "SLURM_PROCID" in os.environ:
        return
    name = "NODE_RANK" if "NODE_RANK" in os.environ else "GROUP_RANK"
    if int(os.environ.get(name) or 0) >= nodes:
        raise InputError(
            f"{name}={os.environ[name]} says that other nodes come before this one, and compute.nodes={nodes}: unset "
            f"it, or set compute.nodes."
        )
    if "LOCAL_RANK" not in os.environ:
        for name in ("MASTER_ADDR", "MASTER_PORT") if world_size == 1 else ():
            os.environ.pop(name, None)
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
