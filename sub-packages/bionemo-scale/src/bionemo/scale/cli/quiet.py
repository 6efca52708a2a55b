"""Keep the libraries' talk out of the way of the commands' own words."""

import logging
import warnings

_TALKERS = ("megatron", "nv_one_logger", "lightning", "pytorch_lightning", "torch.distributed", "nemo_run", "torchao")
_WARNERS = r"(megatron|nemo|nemo_run|lightning|pytorch_lightning|torch|torchao|modelopt|anndata|multi_storage_client)\b"


def hush() -> None:
    """Show only errors of the training libraries; a run's own log files keep the rest."""
    for name in _TALKERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=_WARNERS)
