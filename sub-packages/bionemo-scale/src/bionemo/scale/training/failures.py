"""Say in one sentence what ended a training from outside."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed.checkpoint.api import CheckpointException

from bionemo.scale.errors import LostRank, Stopped
from bionemo.scale.runs.directory import RunDirectory
from bionemo.scale.runs.failures import reason

_LOST_PEER = re.compile(r"gloo|NCCL|Connection (closed|reset)|Broken pipe", re.IGNORECASE)


@contextmanager
def one_sentence(run: RunDirectory) -> Iterator[None]:
    """Turn what ends a run from outside into a sentence, in the place of a traceback through NeMo and Lightning."""
    try:
        yield
    except CheckpointException as error:
        # This is a save that went on beside the training; other saves are answered where they happen.
        raise Stopped(
            f"{run.checkpoints} could not take a checkpoint ({reason(error)}): make room there "
            f"and start the same command again."
        ) from error
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        cannot, mend = ("written to", "make room there") if full else ("read or written", "mend that")
        raise Stopped(
            f"{error.filename or run.path} could not be {cannot} ({reason(error)}): {mend} and start the same command "
            "again."
        ) from error
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or _LOST_PEER.search(str(error))
        if isinstance(error, Stopped) or not lost:
            raise
        raise lost_rank(run) from error


def lost_rank(run: RunDirectory) -> LostRank:
    """Return what a rank says that cannot go on without another one."""
    return LostRank(
        f"rank {rank_zero_only.rank} has lost another rank, which says itself why it ended, unless it was killed: "
        f"start the same command again; {goes_on(run)}."
    )


def goes_on(run: RunDirectory) -> str:
    """Say from where a run goes on."""
    last = run.last_checkpoint()
    return f"it goes on from {last.name}" if last else "there is no checkpoint yet"
