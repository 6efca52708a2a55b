"""Show labels as text: what a file calls its cells may be written to be taken for more."""

import os
import sys
import unicodedata
from io import TextIOWrapper


def printable(text: str) -> str:
    r"""Return a label that no page, picture or terminal takes for more than text: control characters as ``\x1b``.

    Markup is left as it is: give the result to something that reads none, such as ``rich.text.Text``.
    """
    return "".join(
        char
        if char.isprintable() or unicodedata.category(char) == "Zs"
        else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def write_other_characters_out() -> None:
    """Let a label be printed whatever the locale: what standard output and error cannot take is written out."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def not_printed(error: OSError) -> int:
    """Say why standard output takes no more, print nothing further, and return the exit code 1.

    Raises
    ------
    OSError
        The error is one of a file, which has a name.
    """
    if error.filename is not None:
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python prints the rest when it ends
    sys.stderr.write(f"error: the output cannot be printed ({error.strerror}): send it elsewhere\n")
    return 1
