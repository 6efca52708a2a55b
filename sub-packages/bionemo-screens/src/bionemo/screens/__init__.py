"""Say what a perturbation screen is: its labels and doses, conditions, splits and protocols, and simulate one.

Whatever a user got wrong ends in an `InputError`, one sentence that names the thing and the mend. Names that need
pandas or AnnData are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from bionemo.screens.errors import InputError
from bionemo.screens.labels import Condition
from bionemo.screens.protocol import Protocol, find_protocol
from bionemo.screens.split import Split

if TYPE_CHECKING:
    from bionemo.screens.simulation import simulate

__all__ = ["Condition", "InputError", "Protocol", "Split", "find_protocol", "simulate"]


def __getattr__(name: str) -> Any:
    if name != "simulate":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return importlib.import_module(f"{__name__}.simulation").simulate
