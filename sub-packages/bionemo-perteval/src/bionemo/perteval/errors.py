"""The one exception that tells a user what to mend."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Input that cannot be evaluated; the message is one sentence with the thing, its value and the mend."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (nearest: ...)"`` with up to three of `known` that look like `name`, or up to five of `known`.

    Parameters
    ----------
    name
        What was asked for.
    known
        What exists.
    """
    names = sorted(set(map(str, known)))
    close = get_close_matches(str(name), names, n=3, cutoff=0.5)
    if close:
        return f" (nearest: {', '.join(map(repr, close))})"
    if not names:
        return ""
    shown = ", ".join(map(repr, names[:5]))
    return f" (there are: {shown}{', ...' if len(names) > 5 else ''})"
