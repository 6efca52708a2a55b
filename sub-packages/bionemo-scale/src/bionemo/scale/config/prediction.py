"""Name the choices of a prediction, for the command and for Python."""

from enum import StrEnum


class Part(StrEnum):
    """`Part` names conditions of observed cells, by the training run's split."""

    TEST = "test"
    VAL = "val"
    TRAIN = "train"
    ALL = "all"


class MissingGenes(StrEnum):
    """`MissingGenes` fill a gene that the control cells lack: by no expression, or the mean of the training cells."""

    ZERO = "zero"
    MEAN = "mean"


class Layout(StrEnum):
    """`Layout` names how predicted cells are written, where not as log1p cells."""

    VCC2026 = "vcc2026"
