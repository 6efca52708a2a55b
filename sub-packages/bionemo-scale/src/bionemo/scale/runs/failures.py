"""Say what went wrong in one sentence; Megatron and torch wrap it in exceptions of their own."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed.checkpoint.api import CheckpointException

from bionemo.scale.errors import LostRank, Stopped
from bionemo.scale.runs.directory import RunDirectory

_LOST_PEER = re.compile(r"gloo|NCCL|Connection (closed|reset)|Broken pipe", re.IGNORECASE)


def chain(error: BaseException) -> list[BaseException]:
    """List an exception and what it was raised from, down to the first."""
    found = [error]
    while True:
        last = found[-1]
        if isinstance(last, CheckpointException) and last.failures:
            below = next(iter(last.failures.values()))[0]
        else:
            below = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if below is None or below in found:
            return found
        found.append(below)


def reason(error: BaseException) -> str:
    """Return the reason in a line, for the sentence that a user gets."""
    first = chain(error)[-1]
    if isinstance(first, OSError) and first.strerror:
        return first.strerror
    if "inline_container" in str(first):
        return "a file was cut short"  # torch's writer, where the disk takes no more
    return (str(first).splitlines() or [type(first).__name__])[0][:200]


@contextmanager
def one_sentence(run: RunDirectory) -> Iterator[None]:
    """Turn what ends a run from outside into a sentence, in the place of a traceback through NeMo and Lightning."""
    try:
        yield
    except CheckpointException as error:
        # Of a save that went on beside the training; the others are answered where they happen.
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
