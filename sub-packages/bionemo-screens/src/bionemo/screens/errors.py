"""Say in one sentence what a user got wrong, and find the words that help to mend it."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """An `InputError` says that something the user gave is wrong, in one sentence that names the thing and the mend."""


def name_list(names: Iterable[str], limit: int = 8) -> str:
    """Return at most `limit` names, quoted for a message, and how many more there are."""
    names = [str(name) for name in names]
    quoted = ", ".join(f"'{name}'" for name in names[:limit]) or "none"
    return quoted if len(names) <= limit else f"{quoted} and {len(names) - limit} more"


def choices(name: str, known: Iterable[str]) -> str:
    """Return words that end a message about an unknown name: the nearest known one if there is one, and those at hand.

    For example ``did you mean 'cell_type' (at hand: 'cell_type', 'batch')``.
    """
    known = [str(item) for item in known]
    folded = {item.casefold(): item for item in known}
    # A setting that was looked for in the wrong section is nearer than any other spelling.
    elsewhere = [item for item in folded if "." in item and item.split(".")[-1] == str(name).casefold().split(".")[-1]]
    near = elsewhere or difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.5)
    if near:
        return f"did you mean '{folded[near[0]]}' (at hand: {name_list(known)})"
    return f"use one of {name_list(known)}" if known else "there are none to choose from"


def brief(error: Exception) -> str:
    """Return another package's message on one line, cut where it goes on and on."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= 300 else f"{message[:300]} ..."
