"""Put adapters of low rank beside a model's linear layers (Hu et al. 2021, "LoRA"), and tokens beside its tables.

A linear layer ``y = W x`` becomes ``y = W x + (alpha / rank) U V x``, with V [rank, in] random and U [out, rank] zero
at the start. Where W is divided over tensor-parallel ranks, so is the factor on that side; the other is the same on
all.
NeMo has such adapters for its language models; their checkpoints are of no use without those of the base model, and
finding them takes an import of ten seconds.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

from bionemo.scale.model.scale_model import ScaleModel

COLUMN, ROW = ("linear_qkv", "linear_fc1"), ("linear_proj", "linear_fc2")
"""Megatron's names of the layers whose output, and of those whose input, is divided over tensor-parallel ranks."""
TABLES = {
    "perturbations": "condition_encoder.perturbation.learned",
    "contexts": "condition_encoder.context",
    "batches": "condition_encoder.batch",
}
"""Field of the vocabulary -> the table with a token for each of its names."""
DOSE = "condition_encoder.perturbation.dose"


class LinearAdapter(MegatronModule):
    """A `LinearAdapter` adds ``(alpha / rank) U V x`` to one linear layer."""

    def __init__(self, model: ScaleModel, name: str, rank: int, alpha: float):
        super().__init__(config=model.config)
        layer = model.get_submodule(name)
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        # Whether the layer's input, or its output where that is a sum over ranks, is split over the sequence.
        self.split_sequence = bool(getattr(layer, "sequence_parallel", False))
        self.by_rows = name.endswith(ROW)
        self.gated = name.endswith("linear_fc1")
        self.scale = alpha / rank
        outputs, inputs = weight.shape
        place: dict[str, Any] = dict(device=weight.device, dtype=weight.dtype)
        self.inwards = torch.nn.Parameter(torch.empty(rank, inputs, **place).normal_(std=inputs**-0.5))
        self.outwards = torch.nn.Parameter(torch.zeros(outputs, rank, **place))
        factors = (self.inwards, self.outwards)
        divided, whole = factors if self.by_rows else factors[::-1]
        set_tensor_model_parallel_attributes(divided, is_parallel=True, dim=int(self.by_rows), stride=1)
        # A rank sees its part of the sequence: Megatron adds up the gradients.
        whole.sequence_parallel = self.split_sequence  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what is added to the layer's output of ``x``, [..., in] to [..., out], as the layer divides both."""
        # As around Megatron's own layers: sums over ranks forwards for a divided input, backwards for a divided output.
        if self.split_sequence:
            by_rows, by_columns = reduce_scatter_to_sequence_parallel_region, gather_from_sequence_parallel_region
        else:
            by_rows, by_columns = reduce_from_tensor_model_parallel_region, copy_to_tensor_model_parallel_region
        inner = (by_rows if self.by_rows else by_columns)(F.linear(x, self.inwards))
        return self.scale * F.linear(inner, self.outwards)

    def product(self) -> torch.Tensor:
        """Return what is added to this rank's part of the weight, [out, in]."""
        return self.scale * self.outwards @ self.inwards

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None) -> dict:
        """Return both factors, each divided as the layer's weight is."""
        axis = {"inwards": 1} if self.by_rows else {"outwards": 0}
        own = self.state_dict(prefix="", keep_vars=True)
        sharded = make_sharded_tensors_for_checkpoint(own, prefix, axis, sharded_offsets)
        if self.gated:
            # The two halves of a gated layer are divided each on its own.
            name = f"{prefix}outwards"
            sharded[name] = apply_swiglu_sharded_factory(sharded[name], sharded_offsets)
        return sharded


class NewTokens(MegatronModule):
    """A `NewTokens` adds changes to the rows of a table from ``known`` on."""

    def __init__(self, model: ScaleModel, name: str, known: int):
        super().__init__(config=model.config)
        weight = model.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        self.known = known
        self.change = torch.nn.Parameter(torch.zeros_like(weight[known:]))

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        """Return what is added to the tokens of these rows, int64 [...] to [..., D]."""
        return self.change[(row - self.known).clamp(min=0)] * (row >= self.known)[..., None]


class LowRank(MegatronModule):
    """A `LowRank` holds the adapters of a whole model, whose own weights are frozen.

    The model gets them as its submodule ``adapters``. Beside them are trained the tokens of names that are new to the
    model, and the dose layer if that is new: `known` has for each field of ``TABLES`` the rows that are not new, and
    under ``dose`` whether the dose layer is not. `encoder` says whether the cell encoder has adapters too.
    """

    def __init__(self, model: ScaleModel, rank: int, alpha: float, known: Mapping[str, int], *, encoder: bool = True):
        super().__init__(config=model.config)
        model.requires_grad_(False)
        self._hooks = []
        for name, _ in list(model.named_modules()):
            if name.endswith(COLUMN + ROW) and (encoder or not name.startswith("encoder.")):
                self._add(model, name, LinearAdapter(model, name, rank, alpha))
        for field, name in TABLES.items():
            if known[field] < model.get_submodule(name).weight.shape[0]:  # type: ignore[union-attr]
                self._add(model, name, NewTokens(model, name, known[field]))
        dose = model.condition_encoder.perturbation.dose
        if dose is not None and not known["dose"]:
            dose.requires_grad_(True)
        model.add_module("adapters", self)

    def _add(self, model: ScaleModel, name: str, adapter: MegatronModule) -> None:
        self.add_module(_key(name), adapter)

        def add(_layer, given, answer):
            if isinstance(answer, tuple):  # Megatron's linear layers answer their bias as well
                return answer[0] + adapter(given[0]), *answer[1:]
            return answer + adapter(given[0])

        self._hooks.append(model.get_submodule(name).register_forward_hook(add))

    @torch.no_grad()
    def merge(self, model: ScaleModel) -> None:
        """Put what the adapters have learnt into the weights of the model, and leave."""
        for name, layer in model.named_modules():
            adapter = getattr(self, _key(name), None)
            if isinstance(adapter, LinearAdapter):
                layer.weight += adapter.product()  # type: ignore[operator]
            elif isinstance(adapter, NewTokens):
                layer.weight[adapter.known :] += adapter.change  # type: ignore[index]
        for hook in self._hooks:
            hook.remove()
        del model.adapters
        model.requires_grad_(True)


def _key(name: str) -> str:
    return name.replace(".", "__")
