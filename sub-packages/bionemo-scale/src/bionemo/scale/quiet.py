"""Keep the libraries' talk out of the way of our own words."""

import logging
import threading
import warnings

from bionemo.screens.printable import printable

_TALKERS = (
    *("lightning.fabric", "lightning.pytorch", "lightning.pytorch.utilities.rank_zero"),
    *("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"),
    *("NeMo", "megatron", "nemo", "nemo_run", "nv_one_logger"),
    *("torch.distributed", "torch.utils.cpp_extension", "torchao"),
)
_WARNERS = r"(megatron|nemo|nemo_run|lightning|pytorch_lightning|torch|torchao|modelopt|anndata|multi_storage_client)\b"


class _Printable(logging.Formatter):
    """Labels in a message can move no cursor."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def _say_failed_thread(failed: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread, but for the one that writes for TensorBoard, whose error is raised again."""
    if not (isinstance(failed.exc_value, OSError) and type(failed.thread).__module__.startswith("tensorboard.")):
        threading.__excepthook__(failed)


def hush_imports() -> None:
    """Show only errors until :func:`hush`: what the training libraries say while they are imported helps nobody."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", module=_WARNERS)


def hush() -> None:
    """Show this package's messages, and only the errors of the training libraries; a run's log files keep the rest.

    Some of the libraries set their level when they are imported: call this again after importing them.
    """
    logging.disable(logging.NOTSET)
    # A log file on a full disk would print a traceback for each message that it cannot take.
    logging.raiseExceptions = False
    own = logging.getLogger("bionemo")
    if not own.handlers:
        shown = logging.StreamHandler()
        shown.setFormatter(_Printable())
        own.addHandler(shown)
        own.setLevel(logging.INFO)
    for name in _TALKERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _say_failed_thread
    warnings.filterwarnings("ignore", module=_WARNERS)
