"""What a perturbation screen is: its labels and doses, its conditions, its splits, and the error all packages raise."""

from bionemo.screens.errors import InputError
from bionemo.screens.split import Split

__all__ = ["InputError", "Split"]
