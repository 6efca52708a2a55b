"""Run a command in a session of its own: forked from a warm process, or a real command line; and look at its end."""

import contextlib
import dataclasses
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from faults.at_start.file_operations import watch

HERE = Path(__file__).parent
HANG = 30.0
"""Seconds for which a command may do nothing, and of the CPU that it may take beyond those it needs: more is a hang."""
PATIENCE = 60.0
"""Seconds after which a process whose main process has ended is an orphan."""
STARTS = ("error:", "stopped", "perteval:", "not measured:", "rank ", "Aborted", "╰", "Usage:")
"""What the sentence of a command begins with."""


class Found(Exception):
    """A `Found` is a failure: the column of the table that it belongs to, and what was seen."""

    def __init__(self, column: str, words: str):
        super().__init__(column, words)
        self.column, self.words = column, words


@dataclasses.dataclass(frozen=True)
class Outcome:
    """An `Outcome` is how a command ended: its code (negative for a signal), and what it printed."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """Return the last line of standard error that has words."""
        lines = [line for line in self.err.replace("\r", "\n").splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""

    def check_error(self) -> None:
        """Raise unless this is an error of one sentence."""
        if self.code not in (1, 2, 130, 143):
            raise Found("traceback", f"exit code {self.code}: {self.sentence}")
        if not any(line.strip().startswith(STARTS) for line in self.err.replace("\r", "\n").splitlines()):
            raise Found("traceback", f"exit code {self.code} without a sentence: {self.err[-300:]}")


@dataclasses.dataclass
class Running:
    """A `Running` is a command that was started; :meth:`finish` waits for it and for all that it started.

    It hangs where it has used ``limit`` seconds of CPU, or for `HANG` seconds has neither run nor waited for a CPU, so
    that a machine with other work makes no hang.
    """

    pid: int
    log: Path
    limit: float
    doomed: bool

    def signal(self, number: int, group: bool = False) -> None:
        """Send a signal to the main process, or to its whole group."""
        (os.killpg if group else os.kill)(self.pid, number)

    def ended(self) -> bool:
        """Say whether the main process has ended, and leave it to be waited for."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def finish(self) -> Outcome:
        """Wait for the end, and raise what no command may do: hang, leave a process, crash, print a traceback."""
        looked = active = time.monotonic()
        ran, waited = self._cpu_seconds()
        while not self.ended():
            time.sleep(0.005)
            if (now := time.monotonic()) < looked + 1:
                continue
            before = ran + waited
            ran, waited = self._cpu_seconds()
            if ran + waited - before > 0.05 * (now - looked):
                active = now
            looked = now
            if ran > self.limit or now - active > HANG:
                self._end()
                os.waitpid(self.pid, 0)
                idle = f"{ran:.0f} s of CPU, the last {now - active:.0f} s idle"
                raise Found("hang", f"no end after {idle}: {self._read('err')[-300:]}")
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        deadline = time.monotonic() + PATIENCE
        while left := self.processes():
            if time.monotonic() > deadline:
                self._end()
                raise Found("orphan", f"{len(left)} processes left {PATIENCE:.0f} s after the end: {left}")
            time.sleep(0.05)
        outcome = Outcome(code, self._read("out"), self._read("err"))
        if "Traceback (most recent call last)" in outcome.err:
            raise Found("traceback", outcome.sentence)
        if code < 0 and not self.doomed:
            raise Found("traceback", f"died of {signal.Signals(-code).name}: {outcome.sentence}")
        return outcome

    def _read(self, end: str) -> str:
        return self.log.with_suffix(f".{end}").read_text(errors="replace")

    def processes(self) -> list[str]:
        """Return what lives of the command, each with its number, state and name.

        These are the processes of its session, and those that it has put into others, which have its log in their
        environment.
        """
        found, mark = [], f"FAULTS_LOG={self.log}\0".encode()
        for file in Path("/proc").glob("[0-9]*/stat"):
            try:
                number, _, rest = file.read_text().partition(" (")
                name, _, rest = rest.rpartition(") ")
                state, session = rest[0], int(rest.split()[3])
                if state not in "ZX" and (session == self.pid or mark in file.with_name("environ").read_bytes()):
                    found.append(f"{number} {state} {name}")
            except OSError:
                continue
        return found

    def _cpu_seconds(self) -> tuple[float, float]:
        """Return how long the living threads have run on a CPU, and how long they have waited for one."""
        ran = waited = 0
        for process in self.processes():
            for file in Path(f"/proc/{process.split()[0]}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):
                    own = file.read_text().split()
                    ran, waited = ran + int(own[0]), waited + int(own[1])
        return ran / 1e9, waited / 1e9

    def _end(self) -> None:
        """Kill what is left."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.split()[0]), signal.SIGKILL)


def start(
    words: Sequence[object],
    folder: Path,
    log: Path,
    *,
    real: bool = False,
    plan: dict | None = None,
    environment: dict[str, str | None] | None = None,
    file_bytes: int | None = None,
    die_at_limit: bool = False,
    printed_to: str = "",
    limit: float = HANG,
    doomed: bool = False,
) -> Running:
    """Start a command and do not wait for it.

    It runs in ``folder``, either as a new Python, if it is to be ``real``, or as the command's main in a fork of this
    process, which has imported what it needs. What it prints goes to ``log`` with ``.out`` and ``.err``, or else to
    ``printed_to``: a path, ``closed``, or a ``pipe`` that nobody reads. The ``plan`` is one of :mod:`file_operations`;
    variables of the ``environment`` are set, or with None removed; no file may grow beyond ``file_bytes``, where it
    fails or is to ``die_at_limit``. It may use ``limit`` seconds of CPU, and if ``doomed`` end by a signal.
    """
    variables = {**os.environ, **{name: value for name, value in (environment or {}).items() if value is not None}}
    for name in [name for name, value in (environment or {}).items() if value is None]:
        variables.pop(name, None)
    variables["FAULTS_LOG"] = str(log)
    if plan is not None:
        plan = {"folder": str(folder), **plan}
        variables["FAULTS_PLAN"] = json.dumps(plan)
        variables["PYTHONPATH"] = os.pathsep.join([str(HERE / "at_start"), variables.get("PYTHONPATH", "")])
    for end in ("out", "err"):  # the process may be killed before it opens them
        Path(f"{log}.{end}").touch()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Running(pid, log, limit, doomed or die_at_limit)
    code = 70
    try:
        os.setsid()
        _redirect(log, printed_to)
        os.chdir(folder)
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if die_at_limit else signal.SIG_IGN)
        words = list(map(str, words))
        if real:
            os.execve(sys.executable, [sys.executable, "-m", MAINS[words[0]], *words[1:]], variables)
        code = _main(words, variables, plan)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


MAINS = {"bionemo-scale": "bionemo.scale.cli", "perteval": "bionemo.perteval.cli", "bionemo-bench": "bionemo.bench.cli"}


def _redirect(log: Path, printed_to: str) -> None:
    for end, number in ((os.devnull, 0), (f"{log}.out", 1), (f"{log}.err", 2)):
        opened = os.open(end, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    if printed_to == "closed":
        os.close(1)
    elif printed_to == "pipe":
        unread, written = os.pipe()
        os.dup2(written, 1)
        os.close(unread)
        os.close(written)
    elif printed_to:
        os.dup2(os.open(printed_to, os.O_WRONLY), 1)


def _main(words: list[str], variables: dict[str, str], plan: dict | None) -> int:
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = words
    if plan is not None:
        watch(plan)
    try:
        importlib.import_module(MAINS[words[0]]).main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code
