"""Start drivers in processes of their own, and send them requests."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from bionemo.bench.harness.environments import ArmError, Environment

DRIVERS = Path(__file__).parent / "drivers"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Bench:
    """A `Bench` keeps environments, data and logs of benchmarks in a directory, which is made if need be."""

    def __init__(self, cache: Path):
        self.data, self._environments, self._logs = (
            cache.absolute() / name for name in ("data", "environments", "logs")
        )
        for folder in (self.data, self._environments, self._logs):
            folder.mkdir(parents=True, exist_ok=True)

    def start(
        self, driver: str | Path, environment: Environment, *, threads: int = 1, paths: Sequence[Path] = ()
    ) -> "Worker":
        """Start a driver, its environment made first where need be.

        A driver is the name of one of `DRIVERS`, or a script elsewhere without its ending; it can import what lies in
        `DRIVERS`, and from the folders `paths`. Its numerical libraries may use so many threads.

        Raises
        ------
        ArmError
            If the environment cannot be made.
        """
        script = DRIVERS / f"{driver}.py"
        python = environment.make(self._environments)
        log = self._logs / f"{script.stem}.log"
        return Worker(python, script, log, own=environment.is_own, threads=threads, paths=paths)


class Worker:
    """A `Worker` is a running driver; as a context it is closed at the end.

    What it prints is appended to the log. Where it is `own` it runs in the environment of this process, and sees its
    PYTHONPATH.
    """

    def __init__(
        self, python: Path, driver: Path, log: Path, *, own: bool, threads: int = 1, paths: Sequence[Path] = ()
    ):
        environment = {**os.environ, **dict.fromkeys(_THREADS, str(threads)), "PYTHONNOUSERSITE": "1"}
        inherited = [os.environ["PYTHONPATH"]] if own and os.environ.get("PYTHONPATH") else []
        environment["PYTHONPATH"] = os.pathsep.join([str(DRIVERS), *map(str, paths), *inherited])
        self._log, self._driver = log, driver
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                [python, driver],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                bufsize=0,
                start_new_session=True,  # with the processes it starts it is a group, which can be stopped as one
            )

        # Where the benchmark is killed, nobody else would end processes that it has stopped.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read _; kill -KILL -"$0"', str(self._process.pid)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ask(self, do: str, *, timeout: float = 3600, **arguments: Any) -> dict[str, Any]:
        """Send a request and return its answer; `send` and `receive` in one.

        Raises
        ------
        ArmError
            If the driver answers with an error, ends, or takes longer than `timeout` seconds.
        """
        self.send(do, **arguments)
        return self.receive(timeout)

    def send(self, do: str, **arguments: Any) -> None:
        """Send a request."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # receive says that it ended
            self._process.stdin.write((json.dumps({"do": do, **arguments}, default=str) + "\n").encode())

    def receive(self, timeout: float = 3600) -> dict[str, Any]:
        """Wait for the answer to the oldest request."""
        output, line, deadline = self._process.stdout, b"", time.monotonic() + timeout
        assert output is not None
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.close()
                    raise ArmError(f"no answer within {timeout:.0f} s")
                part = os.read(output.fileno(), 1 << 16)
                if not part:
                    raise ArmError(f"its process ended: {self._last_words()}")
                line += part
        answer = json.loads(line)
        if "error" in answer:
            raise ArmError(answer["error"].splitlines()[0])
        return answer

    def pause(self) -> None:
        """Stop the process and those it started, so that none of them works while others are measured."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def close(self) -> None:
        """End the process and those it started."""
        self.resume()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._signal(signal.SIGKILL)
        self._guard.kill()
        self._guard.communicate()

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.wait()}"
