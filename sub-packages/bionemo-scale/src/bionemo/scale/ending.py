"""End when told to: on SIGINT (Ctrl-C), and on SIGTERM, which Slurm sends before a preemption or a time limit.

Python calls a handler of its own only between two instructions of the main thread, which may wait inside a library for
another rank, and what a handler raises may be caught there. So a thread reads the signals, from the pipe that the
interpreter writes them to.
"""

import contextlib
import ctypes
import multiprocessing.process
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from bionemo.scale.errors import LostRank, Preempted, Stopped
from bionemo.screens.errors import InputError
from bionemo.screens.printable import printable

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_told: "Told | None" = None
"""What watches the signals of this process, if anything does."""
_hooked = _forking = False
_SAME_PRESS = 0.5
"""Seconds within which a SIGINT is the one before, told by another process of the terminal."""


class Told:
    """`Told` knows which signal this process got, and ends it where nothing has to be saved."""

    def __init__(self, *, at_once: bool):
        self.at_once = at_once
        self.by: signal.Signals | None = None
        self._since = 0.0

    def watch(self, pipe: int) -> None:
        """Read the signals of this process until the pipe is closed."""
        while number := os.read(pipe, 1):
            if number[0] in _SIGNALS:
                self._note(signal.Signals(number[0]))
        os.close(pipe)

    def _note(self, got: signal.Signals) -> None:
        again = got is self.by is signal.SIGINT
        if self.at_once or (again and time.monotonic() - self._since > _SAME_PRESS):
            if _other_rank():
                os._exit(128 + got)
            last = ", and goes on from the last checkpoint" if again else ""
            end_now(Preempted(f"stopped by {got.name}: the same command can be started again{last}.", got))
        if not again:
            self.by, self._since = got, time.monotonic()


@contextlib.contextmanager
def told_to_end(*, at_once: bool) -> Iterator[Told]:
    """Take SIGINT and SIGTERM over while this lasts.

    A signal ends the process `at_once`, with a sentence and the signal's exit code, without any clean-up; or is only
    noted, and a second SIGINT still ends it. Inside another one this changes what they do. Outside the main thread,
    which alone can take signals over, nothing is ever told.
    """
    global _told
    if threading.current_thread() is not threading.main_thread():
        yield Told(at_once=at_once)
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup, or a job in the background
            signal.signal(number, lambda *_: None)  # the thread acts
    try:
        if _told is None:
            with _watched(at_once) as _told:
                yield _told
            return
        outer = _told.at_once
        _told.at_once = at_once
        try:
            yield _told
        finally:
            _told.at_once = outer
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _watched(at_once: bool) -> Iterator[Told]:
    global _told
    told = Told(at_once=at_once)
    out, into = os.pipe()
    os.set_blocking(into, False)
    before = signal.set_wakeup_fd(into, warn_on_full_buffer=False)
    threading.Thread(target=told.watch, args=(out,), daemon=True, name="signals").start()
    try:
        yield told
    finally:
        _told = None
        signal.set_wakeup_fd(before)
        os.close(into)


def end_now(why: Stopped) -> None:
    """End this process with a sentence, from any thread; nothing is waited for, and nothing is cleaned up."""
    os.write(2, f"\n{why.sentence}\n".encode())
    os._exit(why.exit_code)


@contextlib.contextmanager
def said_when_it_ends() -> Iterator[None]:
    """Turn a user's mistake into one sentence and exit code 2, and a stop into its sentence and exit code."""
    import typer

    try:
        yield
    except LostRank as lost:
        end_now(lost)  # the libraries would wait for the others at their exit
    except Stopped as stopped:
        typer.secho(printable(stopped.sentence), fg="red", err=True)
        sys.exit(stopped.exit_code)
    except InputError as mistake:
        sentence, *_ = str(mistake).split("\n\nFiddle")  # in which nemo-run calls a task: it adds lines about the call
        typer.secho(f"error: {printable(sentence)}", fg="red", err=True)
        sys.exit(2)


def _other_rank() -> bool:
    """Tell whether this process is a rank of several, and not the first, which speaks for all."""
    names = ("SLURM_PROCID", "RANK", "LOCAL_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") != "0"


def die_with_parent() -> None:
    """Let the kernel kill this process as soon as the one that started it ends, and leave signals to that one."""
    signal.set_wakeup_fd(-1)  # of a fork it leads to the parent's thread
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def forks_die_with_this() -> Iterator[None]:
    """Leave no process behind that this one forks while this lasts, however this one ends.

    Where one of them is killed this one ends with a sentence: Megatron would wait for it for ever.
    """
    global _hooked, _forking
    if not _hooked:
        os.register_at_fork(after_in_child=lambda: die_with_parent() if _forking else None)
        _hooked = True
    before, _forking = _forking, True
    over = threading.Event()
    threading.Thread(target=_end_with_killed_forks, args=(over,), daemon=True, name="forks").start()
    try:
        yield
    finally:
        _forking = before
        over.set()


def _end_with_killed_forks(over: threading.Event) -> None:
    while not over.wait(0.5):
        # active_children() would forget those that have ended.
        if any((fork.exitcode or 0) < 0 for fork in list(multiprocessing.process._children)):  # type: ignore[attr-defined]
            end_now(Stopped("a process that writes for this one was killed: start the same command again."))


def call_and_die_with_parent(parent: int, function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call a function in a forked process, which ends where its parent ends, as those do that it forks itself."""
    die_with_parent()
    if os.getppid() != parent:  # which has ended already
        os._exit(1)
    with forks_die_with_this():
        return function(*args, **kwargs)
