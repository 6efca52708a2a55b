"""Find what went wrong: Megatron and torch wrap it in exceptions of their own."""

from torch.distributed.checkpoint.api import CheckpointException


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
