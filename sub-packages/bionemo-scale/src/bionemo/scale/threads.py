"""Set one number of CPU threads for every library of a process."""

import contextlib
import os
import sys

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_ours: str | None = None
"""What this module has set the variables to; another value is the user's."""


def use_threads(threads: int) -> None:
    """Let torch, numba and the libraries under numpy use so many threads, and the processes started from here.

    By default each of them takes all cores, and small tensors wait for threads that wait for each other. Who has set
    ``OMP_NUM_THREADS`` keeps what it says.
    """
    global _ours
    said = os.environ.get("OMP_NUM_THREADS", _ours)
    by_torchrun = said == "1" and "TORCHELASTIC_RUN_ID" in os.environ  # what it sets where nobody has said anything
    if said != _ours and not by_torchrun:
        return
    _ours = str(threads)
    os.environ.update(dict.fromkeys(_VARIABLES, _ours))
    if "numba" in sys.modules:
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # pyright: ignore[reportAttributeAccessIssue]
    else:
        os.environ["NUMBA_NUM_THREADS"] = _ours
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != threads:
        with contextlib.suppress(RuntimeError):  # it can be set once, before the first of them has begun
            torch.set_num_interop_threads(threads)
