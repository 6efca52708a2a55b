"""Keep the libraries' talk out of the way of our own words."""

import logging
import warnings

from bionemo.screens.printable import printable

_TALKERS = (
    *("lightning.fabric", "lightning.pytorch", "lightning.pytorch.utilities.rank_zero"),
    *("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"),
    *("NeMo", "megatron", "nemo", "nemo_run", "nv_one_logger", "torch.distributed", "torchao"),
)
_WARNERS = r"(megatron|nemo|nemo_run|lightning|pytorch_lightning|torch|torchao|modelopt|anndata|multi_storage_client)\b"


class _Printable(logging.Formatter):
    """Labels in a message can move no cursor."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def hush_imports() -> None:
    """Show only errors until :func:`hush`: what the training libraries say while they are imported helps nobody."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", module=_WARNERS)


def hush() -> None:
    """Show this package's messages, and only the errors of the training libraries; a run's log files keep the rest.

    Some of the libraries set their level when they are imported: call this again after importing them.
    """
    logging.disable(logging.NOTSET)
    own = logging.getLogger("bionemo")
    if not own.handlers:
        shown = logging.StreamHandler()
        shown.setFormatter(_Printable())
        own.addHandler(shown)
        own.setLevel(logging.INFO)
    for name in _TALKERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=_WARNERS)
