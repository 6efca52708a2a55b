"""Tell whether this project has become slower than a stored result of the same machine says it was."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bionemo.bench.throughput.arms import SCALE
from bionemo.screens.errors import InputError, brief

TOLERANCE = 0.05
_SAME_MACHINE = ("cpu", "cores", "memory_bytes", "gpus")
_SAME_WORK = ("size", "models", "screen", "device", "gpus", "threads")


def read_baseline(path: Path, schema: str) -> dict[str, Any]:
    """Read a stored result.

    Raises
    ------
    InputError
        If it is none, or of another layout.
    """
    try:
        result = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a throughput.json.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}): name a throughput.json.") from error
    if not isinstance(result, dict) or result.get("schema") != schema:
        raise InputError(f"{path} is not of the layout {schema!r}: name a throughput.json of this version.")
    return result


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Blame a stored result for what fails while it is used: it may have been edited.

    Raises
    ------
    InputError
        The result lacks something, or has something else in its place.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # whatever an edited file has led to
        raise InputError(
            f"{path} is no whole throughput.json ({type(error).__name__}: {brief(error)}): name an unedited one."
        ) from error


def check_comparable(baseline: dict[str, Any], machine: dict[str, Any], settings: dict[str, Any], path: Path) -> None:
    """Raise an InputError where a baseline is of another machine or other work than what is to be measured."""
    for kind, there, here, names in (
        ("machine", baseline["machine"], machine, _SAME_MACHINE),
        ("settings", baseline["settings"], settings, _SAME_WORK),
    ):
        for name in names:
            if there.get(name) != here.get(name):
                raise InputError(
                    f"{path} is of another {kind} ({name} was {there.get(name)}, and is {here.get(name)}): "
                    "measure a baseline here, with these options."
                )


def regressions(result: dict[str, Any], baseline: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare each of SCALE's arms that both have; STATE's are no concern of ours.

    Returns
    -------
    list of dict
        `name`, `before` and `now` (median cells a second), `change`, and `slower` where it fell by more than
        `TOLERANCE`.
    """
    before = {arm["name"]: arm for arm in baseline["arms"] if "runs" in arm}
    found = []
    for arm in result["arms"]:
        if arm["system"] != SCALE or arm["name"] not in before:
            continue
        if "runs" not in arm:
            found.append({"name": arm["name"], "before": None, "now": None, "change": None, "slower": True})
            continue
        was, now = (one["cells_per_second"]["median"] for one in (before[arm["name"]], arm))
        change = now / was - 1
        found.append({"name": arm["name"], "before": was, "now": now, "change": change, "slower": change < -TOLERANCE})
    return found


def sentences(found: list[dict[str, Any]]) -> list[str]:
    """Return a line for each arm."""
    lines = []
    for one in found:
        if one["now"] is None:
            lines.append(f"{one['name']}: was measured before, and could not be run")
        else:
            verdict = "slower" if one["slower"] else "within the tolerance"
            lines.append(
                f"{one['name']}: {one['now']:,.0f} cells/s, {one['change']:+.1%} of {one['before']:,.0f} ({verdict})"
            )
    return lines
