"""Say what the machine is, and how fast its memory is."""

import ctypes
import os
import platform
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

_libc = ctypes.CDLL(None)  # its calls release Python's lock
_libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
_libc.memcpy.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def machine_facts() -> dict[str, Any]:
    """Return processor, cores this process may use, memory, kernel and the commit of this code."""
    return {
        "cpu": _line("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "system": platform.system(),
        "git_commit": _git_commit(),
    }


def memory_rates(block_bytes: int, blocks: int, seconds: float = 1.0) -> dict[str, dict[str, float]]:
    """Measure memset and memcpy with one thread and with two, each for some seconds.

    Each thread writes `blocks` blocks in turn, as a loader does that uses the memory of so many batches again. What is
    returned is ``{"memset": {"1": bytes a second, "2": ...}, "memcpy": {...}}``; copied bytes are counted once.
    """
    return {
        name: {str(threads): _rate(name, block_bytes, blocks, threads, seconds) for threads in (1, 2)}
        for name in ("memset", "memcpy")
    }


def _rate(name: str, block_bytes: int, blocks: int, threads: int, seconds: float) -> float:
    memory = [[np.ones(block_bytes, dtype=np.uint8) for _ in range(blocks)] for _ in range(threads)]
    source = [np.ones(block_bytes, dtype=np.uint8) for _ in range(threads)]

    def work(thread: int) -> int:
        addresses = [block.ctypes.data for block in memory[thread]]
        rounds = 0
        while time.monotonic() < end:
            for address in addresses:
                if name == "memset":
                    _libc.memset(address, 0, block_bytes)
                else:
                    _libc.memcpy(address, source[thread].ctypes.data, block_bytes)
            rounds += 1
        return rounds * blocks * block_bytes

    begin = time.monotonic()
    end = begin + seconds
    with ThreadPoolExecutor(threads) as pool:
        written = sum(pool.map(work, range(threads)))
    return written / (time.monotonic() - begin)


def _line(path: str, name: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return None


def _git_commit() -> str | None:
    """Return the commit of the checkout this file lies in, marked if it was changed; None outside of one."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
