"""What nemo-run's command line has to be taught of this package's types."""

from types import UnionType
from typing import get_args

from nemo_run.cli.cli_parser import type_parser

from bionemo.scale.config.model import CHOICES
from bionemo.scale.config.training import Precision
from bionemo.scale.model.tuning import Method

# nemo-run reads no enum from a command line; the configurations turn names into theirs and refuse the others.
for _kind in (*CHOICES, Precision, Method):
    type_parser.register_parser(_kind)(lambda name, _kind: name)


# Nor a setting that may be None.
@type_parser.register_parser(UnionType)  # pyright: ignore[reportArgumentType]
def _optional(text: str, kind) -> object:
    if text.lower() == "none":
        return None
    (given,) = (one for one in get_args(kind) if one is not type(None))
    return given(text)
