"""Choose what a block is made of: torch modules everywhere, Transformer Engine's where they work."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import nn

from bionemo.scale.config.compute import ComputeConfig, LayerKind
from bionemo.scale.layers.attention import SetAttention
from bionemo.scale.layers.linear import ColumnParallelLinear, RowParallelLinear
from bionemo.screens.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """A `LayerSpec` names the classes of the tensor-parallel linear layers and of the norm."""

    column_linear: Any
    row_linear: Any
    norm: Any

    @property
    def attention(self) -> SelfAttentionSubmodules:
        """Return the submodules of Megatron's self attention."""
        return SelfAttentionSubmodules(
            linear_qkv=self.column_linear, core_attention=SetAttention, linear_proj=self.row_linear
        )

    @property
    def mlp(self) -> MLPSubmodules:
        """Return the submodules of Megatron's feed-forward layer."""
        return MLPSubmodules(linear_fc1=self.column_linear, linear_fc2=self.row_linear)


def torch_norm(config: TransformerConfig, hidden_size: int, eps: float) -> nn.RMSNorm:
    """Make torch's RMSNorm, for sequence parallelism as well, which Megatron's ``WrappedTorchNorm`` refuses."""
    norm = nn.RMSNorm(hidden_size, eps=eps)
    # Each rank then has the gradient of its own members. Megatron adds up those of the weights that say so.
    norm.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
    return norm


@cache
def transformer_engine_works() -> bool:
    """Tell whether Transformer Engine can be imported and a GPU is there to run it."""
    import torch

    if not torch.cuda.is_available():
        return False
    try:
        # Its package imports on a machine without a usable build only to raise RuntimeError or OSError.
        import transformer_engine.pytorch  # noqa: F401  # pyright: ignore[reportMissingImports]
    except Exception:
        return False
    return True


def layer_spec(compute: ComputeConfig) -> LayerSpec:
    """Choose the layers: torch's on a CPU, Transformer Engine's on a GPU where they are asked for or work.

    Raises
    ------
    InputError
        ``transformer_engine`` was asked for by name and does not work here.
    """
    works = compute.on_gpu and transformer_engine_works()
    if compute.layer_spec is LayerKind.TRANSFORMER_ENGINE and not works:
        raise InputError(
            "compute.layer_spec=transformer_engine needs a GPU and a working transformer-engine: use "
            "compute.layer_spec=local here."
        )
    if compute.layer_spec is LayerKind.LOCAL or not works:
        return LayerSpec(column_linear=ColumnParallelLinear, row_linear=RowParallelLinear, norm=torch_norm)
    from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TENorm, TERowParallelLinear

    return LayerSpec(column_linear=TEColumnParallelLinear, row_linear=TERowParallelLinear, norm=TENorm)
