"""What a peer is: one file `train_NAME.py` that says what it needs, which settings to try, and how to predict."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bionemo.screens.errors import InputError, choices

FOLDER = Path(__file__).parent
_PREFIX = "train_"


@dataclass(frozen=True)
class Peer:
    """A `Peer` is another project's model, in a file that runs in an environment of its own."""

    name: str
    file: Path
    requirements: tuple[str, ...]
    """What pip installs, pinned; empty for the environment that this process runs in."""
    trials: tuple[dict[str, Any], ...]
    """The settings that are tried, in their order."""

    @classmethod
    def find(cls, given: str, trials: int) -> "Peer":
        """Return a peer by the name of its file in this folder, or by the path of a file elsewhere.

        Raises
        ------
        InputError
            There is no such file, it cannot be read, or it lists fewer settings than `trials`.
        """
        file = Path(given).absolute() if given.endswith(".py") else FOLDER / f"{_PREFIX}{given}.py"
        name = file.stem.removeprefix(_PREFIX)
        if not file.is_file():
            there = sorted(path.stem.removeprefix(_PREFIX) for path in FOLDER.glob(f"{_PREFIX}*.py"))
            raise InputError(f"there is no peer {given}: {choices(given, there)}, or the path of a file")
        said = _constants(file)
        listed: Sequence[dict[str, Any]] = said["TRIALS"]
        if len(listed) < trials:
            raise InputError(f"--trials is {trials}, but {file.name} lists {len(listed)} settings: ask for fewer")
        return cls(name, file, tuple(said["REQUIREMENTS"]), tuple(listed[:trials]))


def _constants(file: Path) -> dict[str, Any]:
    specification = importlib.util.spec_from_file_location(file.stem, file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
        return {name: getattr(module, name) for name in ("REQUIREMENTS", "TRIALS", "predict")}
    except ImportError as error:
        raise InputError(f"{file} cannot be read ({error}): import a peer's packages inside of predict") from error
    except AttributeError as error:
        raise InputError(f"{file} is no peer ({error}): it needs REQUIREMENTS, TRIALS and predict") from error
