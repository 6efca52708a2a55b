"""Make an environment for each peer: a virtual environment with pinned packages, made once and kept."""

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_INSTALL_SECONDS = 3600


class ArmError(Exception):
    """An `ArmError` says why an arm cannot be measured; the others go on."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """An `Environment` is where an arm's driver runs: this process's own, or a virtual environment that is made for it.

    Attributes
    ----------
    name : str
        The name of its folder.
    requirements : tuple of str
        What pip installs, pinned; empty for the environment that this process runs in.
    least_python : tuple of int
        Lowest Python version that the packages support.
    home : Path, optional
        The folder to make it in, in place of one beside the other environments; it may be there and finished.
    """

    name: str
    requirements: tuple[str, ...] = ()
    least_python: tuple[int, int] = (3, 11)
    home: Path | None = None

    @property
    def is_own(self) -> bool:
        """Tell whether this is the environment of this process."""
        return not self.requirements

    def make(self, folder: Path) -> Path:
        """Return the environment's interpreter, after making the environment in `folder` if it is not there.

        Raises
        ------
        ArmError
            If there is no such Python, a package cannot be installed, or something else is in the way.
        """
        if self.is_own:
            return Path(sys.executable)
        pins = hashlib.sha256("\n".join((sys.version, *self.requirements)).encode()).hexdigest()[:8]
        target = self.home or folder / f"{self.name}-{pins}"
        python = target / "bin/python"
        # Making it ends with this file, so that an installation broken off is not taken for a whole one.
        complete = target / ".installed"
        if complete.is_file():
            if not python.is_file():
                raise ArmError(f"the environment {target} has no bin/python: remove it")
            return python
        if self.home is not None and target.exists() and any(target.iterdir()):
            raise ArmError(f"{target} holds no finished environment of {self.name}: remove it, or name another")
        base = find_python(self.least_python)
        if base is None:
            raise ArmError(f"needs Python {'.'.join(map(str, self.least_python))}")
        shutil.rmtree(target, ignore_errors=True)
        try:
            _install([base, "-m", "venv", target], "no virtual environment could be made")
            pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *self.requirements]
            _install(pip, f"pip could not install {' '.join(self.requirements)}")
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        complete.touch()
        return python


def find_python(least: tuple[int, int]) -> Path | None:
    """Return an interpreter of at least that version: this one, or one on the path that runs; None without one."""
    if sys.version_info[:2] >= least:
        return Path(sys.executable)
    for minor in range(least[1], least[1] + 4):
        name = f"python{least[0]}.{minor}"
        try:  # a name may be there and not work, as the shims of version managers do
            ran = subprocess.run(
                [name, "-c", "import sys; print(sys.executable)"],
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return Path(ran.stdout.strip())
    return None


def _install(command: list[str | Path], failure: str) -> None:
    """Run a command that installs something; raise an ArmError that says `failure` and why if it does not succeed."""
    try:
        subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=True,
            errors="replace",
        )
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout).strip().splitlines() or ["no message"]
        raise ArmError(f"{failure}: {next((line for line in lines if line.startswith('ERROR')), lines[-1])}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ArmError(f"{failure}: {error}") from error
