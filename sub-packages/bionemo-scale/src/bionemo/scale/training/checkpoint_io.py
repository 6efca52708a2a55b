"""Read a checkpoint that was written in one precision into a run in the other.

Both hold Adam's moments in float32 under the same names. What differs is the weights: float32 in a float32 run; bf16 in
a bf16 run, with their float32 masters beside them as part of the optimizer. A weight always goes on from its float32
values, so nothing is lost between the two: float32 weights become masters, and masters become float32 weights. Buffers
and the average of weights are read as they are.
"""

import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_outplace, nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from nemo.lightning.io.pl import MegatronCheckpointIO

from bionemo.scale.config.compute import Precision
from bionemo.scale.ending import call_and_die_with_parent, forks_die_with_this
from bionemo.screens.errors import InputError

_MASTER = "optimizer.state.fp32_param."
"""What Megatron puts before a weight's name for its master."""
_MASTERS = "fp32_from_fp16_params"
"""Beside ``optimizer`` in the state of Megatron's optimizer for bf16; in that for float32 weights it is all."""
_DISTRIBUTED = "param_state"
"""Of the state of the distributed optimizer."""
_log = logging.getLogger("bionemo.scale")


class AnyPrecision(MegatronCheckpointIO):
    """`AnyPrecision` lets NeMo's checkpoints go on in float32 and in bf16, whichever they were written in.

    The processes that write one end with the training.
    """

    def save_checkpoint(self, *args, **kwargs) -> Any:
        """Write a checkpoint, or return what writes it in another process."""
        with forks_die_with_this():
            request = super().save_checkpoint(*args, **kwargs)
        if request is None or request.async_fn is None:
            return request
        return request._replace(async_fn=partial(call_and_die_with_parent, os.getpid(), request.async_fn))

    def load_checkpoint(self, path, sharded_state_dict=None, *args, **kwargs) -> dict[str, Any]:
        """Read what ``sharded_state_dict`` asks for; see Megatron's ``dist_checkpointing.load``.

        An InputError says that the optimizer's state is that of a GPU, and this is a CPU, or the other way round.
        """
        asked: dict[str, Any] = dict(sharded_state_dict or {})
        if not asked.get("optimizer"):  # weights alone: tensors take the type of those they are read into
            return super().load_checkpoint(path, asked, *args, **kwargs)
        (state,) = asked["optimizer"]
        folder = str(self._preprocess_checkpoint_load_path(path))
        _check_optimizer(Path(path), dist_checkpointing.load_content_metadata(folder), state)
        saved: Any = dist_checkpointing.load_tensors_metadata(folder)
        written = _precision(saved[name].dtype for name in _names(asked["state_dict"]) if name in saved)
        running = _precision(part.data.dtype for part in _parts(asked["state_dict"]))
        if written is not running and rank_zero_only.rank == 0:
            _log.info("%s was written in %s and goes on in %s", Path(path).name, written, running)

        def load(wanted: dict[str, Any]) -> dict[str, Any]:
            return super(AnyPrecision, self).load_checkpoint(path, wanted, *args, **kwargs)

        if written is running:
            return load(asked)
        if running is Precision.FP32:
            masters = {name.removeprefix(_MASTER): name for name in saved if name.startswith(_MASTER)}
            asked["state_dict"] = _renamed(asked["state_dict"], masters)
            if _DISTRIBUTED in state:
                return load(asked)
            loaded = load(asked | {"optimizer": [{"optimizer": state}]})
            return loaded | {"optimizer": [loaded["optimizer"][0]["optimizer"]]}
        if _DISTRIBUTED in state:  # it keeps masters of float32 weights too
            return load(asked)
        loaded = load(asked | {"optimizer": [state["optimizer"]]})
        names = {name: name.removeprefix(_MASTER) for name in _names(state[_MASTERS])}
        # A name can be asked for once only, and the bf16 weights have asked for it.
        masters = load({"masters": _renamed(state[_MASTERS], names)})["masters"]
        return loaded | {"optimizer": [{"optimizer": loaded["optimizer"][0], _MASTERS: masters}]}


def _check_optimizer(checkpoint: Path, written: dict | None, state: dict) -> None:
    there, here = "distrib_optim_sharding_type" in (written or {}), _DISTRIBUTED in state
    if written is not None and there != here:
        raise InputError(
            f"checkpoint {checkpoint} was trained on a {_kind(there)}, where the optimizer keeps its state otherwise "
            f"than on a {_kind(here)}: go on there, or train its weights further with `bionemo-scale finetune`."
        )


def _kind(divided: bool) -> str:
    return "GPU" if divided else "CPU, or without apex and transformer-engine"


def _precision(dtypes) -> Precision:
    return Precision.BF16 if torch.bfloat16 in dtypes else Precision.FP32


def _parts(tree) -> list[Any]:
    """List everything in nested dicts and lists that has a name in a checkpoint and a type."""
    return [part for part in nested_values(tree) if isinstance(part, ShardedTensor | ShardedTensorFactory)]


def _names(tree) -> list[str]:
    return [part.key for part in _parts(tree)]


def _renamed(tree, names: dict[str, str]):
    """Ask for the same tensors under other names."""

    def rename(part):
        named = isinstance(part, ShardedTensor | ShardedTensorFactory) and part.key in names
        return replace(part, key=names[part.key]) if named else part

    return dict_list_map_outplace(rename, tree)
