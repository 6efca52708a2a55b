"""List the forms that were written for a CPU's speed, each with the plain form that it stands for.

A trick is *in the code* where it gains at least :data:`GAIN` of a training step or of a prediction at some of the
settings that are measured. The others stand here alone, so that they can be measured again on another machine.

Axes: B sets, S cells, G genes, D latent; N members of a set, H heads, W width of a head.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
import torch.nn.functional as F
from megatron.core.transformer.mlp import MLP

from bionemo.scale.config.model import SetLoss
from bionemo.scale.layers import attention, linear
from bionemo.scale.model import scale_model
from bionemo.scale.model.cell_encoder import GeneModuleEncoder
from bionemo.scale.model.decoder import Decoder
from bionemo.scale.model.scale_model import ScaleModel

GAIN = 1.1
"""A trick is worth its lines where a step takes at least so many times as long without it."""

Switch = Callable[[ScaleModel], AbstractContextManager]
"""Makes a model compute in the other form while it lasts."""


@dataclass(frozen=True)
class Trick:
    """A `Trick` is a faster form of something that a plain form says more simply."""

    name: str
    in_code: bool
    """Whether the installed code has the faster form. ``switch`` leads to the other one."""
    switch: Switch


class _EnergyDistance(torch.autograd.Function):
    """The energy distance with its gradient written out, which keeps no step of the three distances."""

    @staticmethod
    def forward(ctx, x_BSG: torch.Tensor, y_BSG: torch.Tensor, mask_BS: torch.Tensor) -> torch.Tensor:
        genes, wide = x_BSG.shape[-1], torch.promote_types(y_BSG.dtype, torch.float32)
        pairs_BSS = mask_BS[:, :, None].to(wide) * mask_BS[:, None, :].to(wide)
        pairs_BSS /= pairs_BSS.sum((1, 2), keepdim=True).clamp(min=1)
        # A CPU goes from set to set, so that what is widened stays in its cache.
        x2_BS, y2_BS = (
            torch.stack([torch.linalg.vector_norm(cells_SG, dim=-1, dtype=wide).square() for cells_SG in cells_BSG])
            for cells_BSG in (x_BSG, y_BSG)
        )
        itself = torch.eye(x_BSG.shape[1], dtype=torch.bool)

        def distances(a: torch.Tensor, b: torch.Tensor, a2: torch.Tensor, b2: torch.Tensor, weight: float):
            squared = a2[:, :, None] + b2[:, None, :] - 2 * torch.bmm(a, b.transpose(1, 2)).to(wide)
            if a is b:
                squared.masked_fill_(itself, 0)
            distance = ((squared / genes).clamp(min=0) + 1e-6).sqrt()
            weighted = weight * pairs_BSS
            slope = torch.where(squared >= 0, weighted / distance, 0.0) / genes
            return (distance * weighted).sum((1, 2)), slope.masked_fill_(itself, 0) if a is b else slope

        between, across = distances(x_BSG, y_BSG, x2_BS, y2_BS, 1.0)
        within_x, inside_x = distances(x_BSG, x_BSG, x2_BS, x2_BS, -0.5)
        within_y, _ = distances(y_BSG, y_BSG, y2_BS, y2_BS, -0.5)
        ctx.save_for_backward(x_BSG, y_BSG, across, inside_x)
        return between + within_x + within_y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_B: torch.Tensor):
        x_BSG, y_BSG, across, inside = ctx.saved_tensors
        own = torch.diag_embed(across.sum(2) + 2 * inside.sum(2)) - 2 * inside
        grad = grad_B[:, None, None]
        from_x = torch.bmm((own * grad).to(x_BSG.dtype), x_BSG)
        return from_x.sub_(torch.bmm((across * grad).to(x_BSG.dtype), y_BSG)), None, None


def _attend_by_elements(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **given) -> torch.Tensor:
    """Attend over few, narrow members by element-wise operations over all sets at once, [B, H, N, W]."""
    if given["attn_mask"] is not None or q.shape[2] * q.shape[3] > 8 * 32:
        return _ATTEND(q, k, v, **given)
    k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], dim=1) for part in (k, v))
    scale = q.shape[-1] ** -0.5 if given["scale"] is None else given["scale"]
    q_NHWB, k_NHWB, v_NHWB = (part.permute(2, 1, 3, 0).contiguous() for part in (q * scale, k, v))
    attended = []
    for member_HWB in q_NHWB:
        weights_NHB = (member_HWB * k_NHWB).sum(2).softmax(0)
        attended.append((weights_NHB[:, :, None] * v_NHWB).sum(0))
    return torch.stack(attended).permute(3, 1, 0, 2)


_ATTEND = F.scaled_dot_product_attention


def _predict_by_hardtanh(layer: Decoder, z1_BSD, z0_BSD, x0_BSG, _gene_mean_G, network_share: float = 1.0):
    """Clamp by hardtanh, which keeps no mask for the gradient; its range is wider by less than expression shows."""
    moved_BSG = x0_BSG + network_share * layer.change(z1_BSD, z0_BSD)
    return F.hardtanh(moved_BSG, -1e-30, layer.ceiling * (1 + 1e-6))


def _project_to_genes(layer: Decoder, trunk_BSD: torch.Tensor) -> torch.Tensor:
    """Project without the columns beyond G."""
    return linear.product(trunk_BSD, layer.to_genes.weight[: layer.n_genes])  # type: ignore[index]


@contextmanager
def _packed_silu(model: ScaleModel) -> Iterator[None]:
    """Apply SiLU to rows that lie together."""
    with ExitStack() as stack:
        for layer in model.modules():
            if isinstance(layer, MLP):
                stack.enter_context(patch.object(layer.config, "activation_func", lambda x: F.silu(x.contiguous())))
        yield


def _every_cell(encoder: GeneModuleEncoder, x_BSG: torch.Tensor, trained: int | None = None) -> torch.Tensor:
    """Encode all cells with a gradient."""
    return _ENCODE(encoder, x_BSG)


_ENCODE = GeneModuleEncoder.forward

TRICKS = (
    Trick(
        "linear layers that lie whole are torch's own, not Megatron's autograd function",
        True,
        lambda _: patch.object(linear, "_whole", lambda _layer: False),
    ),
    Trick(
        "products without a gradient are oneDNN's, not MKL's",
        True,
        lambda _: patch.object(linear, "_ONEDNN", None),
    ),
    Trick(
        "small sets keep all scores of attention in bf16, not the fused kernel",
        True,
        lambda _: patch.object(attention, "MOST_WHOLE", 0),
    ),
    Trick(
        "cells that are not reconstructed are encoded without a gradient",
        True,
        lambda _: patch.object(GeneModuleEncoder, "forward", _every_cell),
    ),
    Trick(
        "predicted cells are clamped by hardtanh",
        False,
        lambda _: patch.object(Decoder, "predict", _predict_by_hardtanh),
    ),
    Trick(
        "the energy distance has its gradient written out",
        False,
        lambda _: patch.dict(scale_model._SET_LOSSES, {SetLoss.ENERGY: _EnergyDistance.apply}),
    ),
    Trick(
        "gene modules attend by elements, not by products",
        False,
        lambda _: patch.object(attention.F, "scaled_dot_product_attention", _attend_by_elements),
    ),
    Trick(
        "latents are projected to G columns, not to a multiple of 64",
        False,
        lambda _: patch.object(Decoder, "project", _project_to_genes),
    ),
    Trick("SiLU is applied to packed rows", False, _packed_silu),
)
