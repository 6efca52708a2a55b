"""Stand in for Transformer Engine 2.9 on a CPU: its signatures, with plain torch inside.

It is imported before Megatron, which asks once, at its import, whether there is a Transformer Engine; so what needs it
is a process of its own. What is here by name alone fails when it is called. `test_transformer_engine.py` compares the
signatures with those of the release.
"""

import math
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass

VERSION = "2.9.0"


class _Range(NamedTuple):
    max_fwd: float
    max_bwd: float


class Format(Enum):
    """Formats of 8 bits."""

    E4M3 = _Range(448, 448)
    HYBRID = _Range(448, 57344)


class Recipe:
    """How products are scaled."""

    def delayed(self) -> bool:
        return isinstance(self, DelayedScaling)


# Pydantic's dataclasses, as the release's, let further arguments pass: Megatron gives some.
@dataclass()
class DelayedScaling(Recipe):
    """Scale by past maxima."""

    margin: int = 0
    fp8_format: Format = Format.HYBRID
    amax_history_len: int = 1024
    amax_compute_algo: Literal["max", "most_recent"] | Callable = "max"
    scaling_factor_compute_algo: Callable | None = None
    reduce_amax: bool = True
    fp8_dpa: bool = False
    fp8_mha: bool = False


@dataclass()
class Float8CurrentScaling(Recipe):
    """Scale by the tensor's own maximum."""

    use_power_2_scales: bool = False
    fp8_format: Format = Format.HYBRID
    fp8_dpa: bool = False
    fp8_mha: bool = False


@dataclass()
class MXFP8BlockScaling(Recipe):
    """Scale in blocks of 32."""

    margin: int = 0
    fp8_format: Format = Format.E4M3
    fp8_dpa: bool = False
    fp8_mha: bool = False


class FP8GlobalStateManager:
    """What the contexts say now. `regions` notes the recipe of every outermost context: tests count them."""

    FP8_ENABLED = False
    FP8_RECIPE: Recipe | None = None
    AUTOCAST_DEPTH = 0
    regions: ClassVar[list[Recipe]] = []
    # Modules that this region has called: none may be called twice under delayed scaling.
    called: ClassVar[set[int]] = set()

    @classmethod
    def is_fp8_enabled(cls) -> bool:
        return cls.FP8_ENABLED


@contextmanager
def fp8_autocast(
    enabled: bool = True,
    calibrating: bool = False,
    fp8_recipe: Recipe | None = None,
    fp8_group: Any = None,
    _graph: bool = False,
) -> Iterator[None]:
    manager = FP8GlobalStateManager
    before = manager.FP8_ENABLED, manager.FP8_RECIPE
    if manager.AUTOCAST_DEPTH == 0:
        manager.called = set()
        if enabled:
            manager.regions.append(fp8_recipe or DelayedScaling())
    manager.FP8_ENABLED, manager.FP8_RECIPE = enabled, fp8_recipe or DelayedScaling()
    manager.AUTOCAST_DEPTH += 1
    try:
        yield
    finally:
        manager.AUTOCAST_DEPTH -= 1
        manager.FP8_ENABLED, manager.FP8_RECIPE = before


class TransformerEngineBaseModule(torch.nn.Module):
    """Layers keep their scaling beside their weights, as bytes."""

    def get_extra_state(self) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor | None) -> None:
        assert state is None or state.numel() == 0


class Linear(TransformerEngineBaseModule):
    """``y = W x + b``, divided over tensor-parallel ranks."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        sequence_parallel: bool = False,
        fuse_wgrad_accumulation: bool = False,
        tp_group: Any = None,
        tp_size: int = 1,
        get_rng_state_tracker: Callable | None = None,
        rng_tracker_name: str | None = None,
        init_method: Callable | None = None,
        bias: bool = True,
        return_bias: bool = False,
        params_dtype: torch.dtype | None = None,
        parallel_mode: str | None = None,
        parameters_split: Any = None,
        device: torch.device | str = "cuda",
        ub_overlap_ag: bool = False,
        ub_overlap_rs: bool = False,
        ub_overlap_rs_dgrad: bool = False,
        ub_bulk_dgrad: bool = False,
        ub_bulk_wgrad: bool = False,
        ub_name: str | None = None,
        delay_wgrad_compute: bool = False,
        symmetric_ar_type: str | None = None,
        save_original_input: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.use_bias = in_features, out_features, bias
        self.tp_group, self.tp_size, self.parallel_mode = tp_group, tp_size, parallel_mode
        self.save_original_input = save_original_input  # Megatron asks for it by this name
        self.sequence_parallel = tp_size > 1 and sequence_parallel
        if parallel_mode == "column":
            self.out_features //= tp_size
        elif parallel_mode == "row":
            self.in_features //= tp_size
        size = (self.out_features, self.in_features)
        self.weight = torch.nn.Parameter(torch.empty(size, device=device, dtype=params_dtype or torch.float32))
        if init_method is not None:
            init_method(self.weight)
        assert (bias, return_bias) == (False, False), "the model has no biases"

    def forward(
        self,
        inp: torch.Tensor,
        is_first_microbatch: bool | None = None,
        fp8_output: bool | None = False,
        fp8_grad: bool | None = False,
    ) -> torch.Tensor:
        from megatron.core.tensor_parallel import mappings

        divided = self.tp_size > 1
        group = dict(group=self.tp_group)
        if divided and self.parallel_mode == "column":
            if self.sequence_parallel:
                inp = mappings.gather_from_sequence_parallel_region(inp, **group)
            else:
                inp = mappings.copy_to_tensor_model_parallel_region(inp, **group)
        weight = self.weight
        if FP8GlobalStateManager.FP8_ENABLED:
            recipe = FP8GlobalStateManager.FP8_RECIPE
            assert recipe is not None
            if recipe.delayed():
                assert id(self) not in FP8GlobalStateManager.called, "called twice in one region of delayed scaling"
                FP8GlobalStateManager.called.add(id(self))
            inp, weight = _in_8_bits(inp), _in_8_bits(weight)
        out = F.linear(inp, weight)
        if divided and self.parallel_mode == "row":
            if self.sequence_parallel:
                return mappings.reduce_scatter_to_sequence_parallel_region(out, **group)
            return mappings.reduce_from_tensor_model_parallel_region(out, **group)
        return out


def _in_8_bits(tensor: torch.Tensor) -> torch.Tensor:
    """Round as E4M3 does, by the tensor's own maximum, and let gradients pass. Refuse what the release refuses."""
    rows, columns = math.prod(tensor.shape[:-1]), tensor.shape[-1]
    assert rows % 8 == 0, f"FP8 needs rows by 8, and there are {rows}"
    assert columns % 16 == 0, f"FP8 needs columns by 16, and there are {columns}"
    scale = tensor.detach().abs().max().clamp(min=1e-12) / 448
    rounded = (tensor.detach() / scale).to(torch.float8_e4m3fn).to(tensor.dtype) * scale
    return tensor + (rounded - tensor).detach()


class RMSNorm(torch.nn.RMSNorm):
    """An RMSNorm whose weight knows of sequence parallelism."""

    def __init__(
        self,
        normalized_shape: Iterable[int] | int | None = None,
        eps: float = 1e-5,
        sequence_parallel: bool | None = None,
        params_dtype: torch.dtype | None = None,
        zero_centered_gamma: bool = False,
        hidden_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        assert not zero_centered_gamma
        shape = hidden_size if normalized_shape is None else normalized_shape
        super().__init__(shape, eps=eps, dtype=params_dtype, **kwargs)  # type: ignore[arg-type]
        if sequence_parallel is not None:
            self.weight.sequence_parallel = sequence_parallel  # type: ignore[attr-defined]


class CudaRNGStatesTracker:
    """Megatron makes a class of its own of it, which nothing here uses."""


def _by_name(*names: str) -> dict[str, type]:
    def refuse(self, *_, **__):
        raise NotImplementedError(f"the stand-in for Transformer Engine has {type(self).__name__} by name alone")

    return {name: type(name, (torch.nn.Module,), {"__init__": refuse}) for name in names}


MODULES: dict[str, dict[str, Any]] = {
    "": {"__version__": VERSION},
    "common": {},
    "common.recipe": {
        "Format": Format,
        "Recipe": Recipe,
        "DelayedScaling": DelayedScaling,
        "Float8CurrentScaling": Float8CurrentScaling,
        "MXFP8BlockScaling": MXFP8BlockScaling,
    },
    "pytorch": {
        "Linear": Linear,
        "RMSNorm": RMSNorm,
        "fp8_autocast": fp8_autocast,
        **_by_name(
            "LayerNorm", "LayerNormLinear", "GroupedLinear", "DotProductAttention", "Fp8Padding", "Fp8Unpadding"
        ),
    },
    "pytorch.fp8": {"FP8GlobalStateManager": FP8GlobalStateManager, "fp8_autocast": fp8_autocast},
    "pytorch.module": {},
    "pytorch.module.base": {
        "TransformerEngineBaseModule": TransformerEngineBaseModule,
        **_by_name("get_dummy_wgrad", "get_workspace"),
    },
    "pytorch.distributed": {
        "CudaRNGStatesTracker": CudaRNGStatesTracker,
        **_by_name("activation_recompute_forward", "checkpoint", "get_all_rng_states"),
    },
    "pytorch.tensor": _by_name("QuantizedTensor"),
    "pytorch.router": _by_name(
        "fused_compute_score_for_moe_aux_loss", "fused_moe_aux_loss", "fused_topk_with_score_function"
    ),
    "pytorch.ops": _by_name("Sequential", "FusibleOperation"),
}
"""The modules that Megatron 0.15 imports, and what it takes from them."""


def install() -> None:
    """Put the stand-in where ``import transformer_engine`` finds it."""
    made = {}
    for name, contents in MODULES.items():
        full = f"transformer_engine.{name}".rstrip(".")
        module = types.ModuleType(full)
        module.__path__ = []
        module.__dict__.update(contents)
        made[full] = sys.modules[full] = module
        parent, _, own = full.rpartition(".")
        if parent:
            setattr(made[parent], own, module)


install()
