"""STATE's environment: made once, or the one that the user names."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from bionemo.bench.harness.environments import ArmError, Environment, find_python, run_installer

VARIABLE = "STATE_VENV"
DEFAULT = Path("~/.cache/bionemo-scale/state-0.11.1")
TORCH = "torch==2.13.0"
PACKAGES = ("arc-state==0.11.1", "cell-load==0.10.4")


@dataclass(frozen=True, kw_only=True)
class StateEnvironment(Environment):
    """The same environment that experiments/state_baseline makes and uses."""

    name: str = "state"
    requirements: tuple[str, ...] = (TORCH, *PACKAGES)

    def make(self, folder: Path) -> Path:
        """Return its interpreter, after making it if need be; `folder` is not used.

        Raises
        ------
        ArmError
            If it cannot be made.
        """
        named = os.environ.get(VARIABLE)
        target = Path(named or DEFAULT).expanduser().absolute()
        python, complete = target / "bin/python", target / ".installed"
        if complete.is_file():
            if not python.is_file():
                raise ArmError(
                    f"STATE's environment {target} has no bin/python: remove it, or name another in {VARIABLE}"
                )
            return python
        if named and target.exists() and any(target.iterdir()):
            raise ArmError(f"{VARIABLE}={target} holds no finished environment of STATE: name another, or remove it")
        base = find_python(self.least_python)
        if base is None:
            raise ArmError(f"STATE needs Python {'.'.join(map(str, self.least_python))}")
        shutil.rmtree(target, ignore_errors=True)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArmError(f"STATE's environment {target} cannot be made: {error.strerror}") from error
        run_installer([base, "-m", "venv", target], "no virtual environment could be made for STATE")
        # torch first and alone: the build that pip takes for this machine is then the one that stays.
        for wanted in ((TORCH,), PACKAGES):
            install = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *wanted]
            run_installer(install, f"pip could not install {' '.join(wanted)} for STATE")
        complete.touch()
        return python
