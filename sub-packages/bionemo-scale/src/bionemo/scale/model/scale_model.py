"""The assembled model. Its ``forward`` is the training step: read it top to bottom.

Shapes: B sets, S cells, G genes, D latent.
"""

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.transformer.enums import ModelType
from megatron.core.transformer.module import MegatronModule

from bionemo.scale.flow.endpoint import endpoint_loss
from bionemo.scale.flow.noise import set_noise
from bionemo.scale.flow.pairing import optimal_transport_order
from bionemo.scale.flow.path import interpolate
from bionemo.scale.flow.reduce import over_cells, over_sets
from bionemo.scale.flow.set_loss import energy_distance
from bionemo.scale.flow.solver import solve
from bionemo.scale.flow.source import source
from bionemo.scale.model.cell_encoder import CellEncoder
from bionemo.scale.model.condition_encoder import ConditionEncoder
from bionemo.scale.model.config import Pairing, ScaleConfig, Source
from bionemo.scale.model.decoder import Decoder
from bionemo.scale.model.specs import layer_spec
from bionemo.scale.model.transport import EndpointTransport
from bionemo.scale.model.vocabulary import Vocabulary

EXTRA_STATE = "_extra_state"


@dataclass(frozen=True)
class Condition:
    """Rows of the vocabulary's tables for B sets; -1 for a context or batch that has no token."""

    perturbation: torch.Tensor
    """int64 [B]."""
    context: torch.Tensor
    """int64 [B]."""
    batch: torch.Tensor
    """int64 [B]."""


class ScaleModel(MegatronModule):
    """Set-aware endpoint transport of a control population to a perturbed one, ``p(X1 | X0, C)``."""

    gene_mean: torch.Tensor

    def __init__(self, config: ScaleConfig, vocabulary: Vocabulary):
        super().__init__(config=config.transformer())
        self.model_type = ModelType.encoder_or_decoder
        self.scale = config
        self.vocabulary = vocabulary
        spec = layer_spec(config.layer_spec)
        self.encoder = CellEncoder(config, spec, len(vocabulary.genes))
        self.condition_encoder = ConditionEncoder(config, vocabulary)
        self.transport = EndpointTransport(config, spec)
        # Not `decoder`: Megatron takes an attribute of that name for a stack of transformer layers.
        self.expression_decoder = Decoder(config, spec, vocabulary)
        self.register_buffer("gene_mean", torch.zeros(len(vocabulary.genes)))
        self.control_share = {Source.CONTROL: 1.0, Source.GAUSSIAN: 0.0, Source.MIXED: config.source_control_share}[
            config.source
        ]
        self.register_load_state_dict_pre_hook(_without_extra_state)

    def set_gene_mean(self, gene_mean: torch.Tensor) -> None:
        """Centre expression on the mean log1p of each gene, [G], over training cells.

        Without it every cell's encoding is dominated by what all cells share, and latents collapse towards one point.
        """
        self.gene_mean.copy_(gene_mean)

    def sharded_state_dict(self, prefix: str = "", *args, **kwargs) -> dict[str, Any]:
        """Megatron's, less what layers keep beside their weights.

        Transformer Engine pickles its FP8 scaling history there, and unpickles it when it is loaded. Without it nothing
        in a checkpoint has to be unpickled, and torch and Transformer Engine layers read each other's checkpoints.
        """
        sharded = super().sharded_state_dict(prefix, *args, **kwargs)
        return {name: part for name, part in sharded.items() if not name.endswith(EXTRA_STATE)}

    def set_input_tensor(self, input_tensor) -> None:
        """Part of Megatron's pipeline interface; the model is one stage and takes none."""

    def forward(
        self,
        control: torch.Tensor,
        perturbed: torch.Tensor,
        mask: torch.Tensor,
        condition: Condition,
        key: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Losses of a batch.

        Parameters
        ----------
        control, perturbed
            Control set and perturbed set of one condition, log1p [B, S, G].
        mask
            bool [B, S], True where a cell is there, for both; valid cells come first.
        condition
            The conditions of the sets.
        key
            int64 [B], what the noise of each set is derived from; on the CPU.

        Returns
        -------
        dict
            Scalars: ``loss``, the terms it is the weighted sum of (``endpoint``, ``reconstruction``, ``energy``), and
            ``filled``, the share of sets that are not empty. A term divided by it is a mean over sets with cells.
        """
        config = self.scale
        noise = set_noise(
            key,
            cells=control.shape[1],
            width=config.hidden_size,
            start_fraction=config.start_fraction,
            context_dropout=config.context_dropout,
            device=control.device,
        )
        condition = Condition(
            condition.perturbation,
            condition.context.masked_fill(noise.hide_context, -1),
            condition.batch.masked_fill(noise.hide_context, -1),
        )

        z0, z1 = self.encode(control, mask), self.encode(perturbed, mask)
        reconstruction = over_cells((self.expression_decoder(z0) - (control - self.gene_mean)).square(), mask)
        reconstruction = reconstruction + over_cells(
            (self.expression_decoder(z1) - (perturbed - self.gene_mean)).square(), mask
        )

        # The transport works on latents that the reconstruction alone shapes. A gradient of the endpoint loss through
        # z0 would pull the control cells together until every latent is the same.
        start, target = z0.detach(), z1.detach()
        if config.pairing is Pairing.OPTIMAL_TRANSPORT:
            order = optimal_transport_order(start, target, mask)
            target = target.gather(1, order[..., None].expand_as(target))
        z_s = source(start, noise.gaussian, self.control_share, mask)
        z_t = interpolate(z_s, target, noise.t)
        encoded_condition, _ = self.condition_encoder(condition.perturbation, condition.context, condition.batch)
        z1_hat = self.transport(z_t, noise.t, encoded_condition, start, mask)
        endpoint = endpoint_loss(z1_hat, target, mask)

        predicted = self.expression_decoder.predict(z1_hat, start, control, self.gene_mean)
        energy = energy_distance(predicted, perturbed, mask)

        terms = {
            "endpoint": over_sets(endpoint),
            "reconstruction": over_sets(reconstruction) / 2,
            "energy": over_sets(energy),
        }
        loss = (
            config.endpoint_weight * terms["endpoint"]
            + config.reconstruction_weight * terms["reconstruction"]
            + config.set_weight * terms["energy"]
        )
        return {"loss": loss, **terms, "filled": mask.any(1).float().mean()}

    def encode(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Latents [B, S, D] of log1p expression [B, S, G]."""
        return self.encoder(x - self.gene_mean, mask)

    @torch.no_grad()
    def predict(
        self, control: torch.Tensor, mask: torch.Tensor, condition: Condition, key: torch.Tensor
    ) -> torch.Tensor:
        """Perturbed populations, one cell for each control cell.

        Parameters
        ----------
        control, mask, condition, key
            As in :meth:`forward`.

        Returns
        -------
        torch.Tensor
            log1p [B, S, G], before any rounding to counts.
        """
        noise = set_noise(
            key,
            cells=control.shape[1],
            width=self.scale.hidden_size,
            start_fraction=0.0,
            context_dropout=0.0,
            device=control.device,
        )
        z0 = self.encode(control, mask)
        encoded_condition, _ = self.condition_encoder(condition.perturbation, condition.context, condition.batch)
        z1 = solve(
            lambda z, t: self.transport(z, t, encoded_condition, z0, mask),
            source(z0, noise.gaussian, self.control_share, mask),
            self.scale.solver_steps,
        )
        return self.expression_decoder.predict(z1, z0, control, self.gene_mean)


def _without_extra_state(model: torch.nn.Module, state: dict[str, Any], prefix: str, *_) -> None:
    """Give layers that ask for extra state the answer that there is none."""
    for name, module in model.named_modules():
        if type(module).set_extra_state is not torch.nn.Module.set_extra_state:
            state.setdefault(f"{prefix}{name}.{EXTRA_STATE}", None)
