"""End a command with one sentence and an exit code that says why, whatever the terminal and the locale are."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from io import TextIOWrapper

from bionemo.screens.errors import InputError
from bionemo.screens.printable import printable

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Variables that libraries read when they are imported, some with a traceback."""


@contextlib.contextmanager
def one_sentence_ends_it(say: Callable[[str], object]) -> Iterator[None]:
    """Let `say` print why a command ends early: 2 is a user's mistake, 130 Ctrl-C, 1 an output that takes no more.

    After it Ctrl-C does nothing: the command has done its work, and Python would print a traceback while it ends.

    Raises
    ------
    OSError
        A file cannot be read or written, and the command did not say so itself.
    """
    write_other_characters_out()
    try:
        check_numbers(THREADS, least=1)
        yield
    except InputError as mistake:
        say(f"error: {printable(str(mistake))}")
        sys.exit(2)
    except OSError as error:
        if error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python prints the rest when it ends
        say(f"error: the output cannot be printed ({error.strerror}): send it elsewhere")
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != 130:
            raise
        say("stopped by SIGINT: the same command can be started again.")
        sys.exit(130)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def write_other_characters_out() -> None:
    """Let a label be printed whatever the locale: what standard output and error cannot take is written out."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_numbers(variables: Iterable[str], *, least: int) -> None:
    """Refuse by name, with an InputError, environment variables that are set and no whole numbers from `least` on."""
    for name in variables:
        value = os.environ.get(name, "")
        if value and not (value.isascii() and value.isdecimal() and least <= int(value[:9])):
            raise InputError(f"the environment variable {name}={value!r} is no number of {least} or more: unset it.")
