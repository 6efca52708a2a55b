"""The assembled model. Its ``forward`` is the training step: read it top to bottom.

Shapes: B sets, S cells, G genes, D latent.
"""

from typing import Any

import torch
from megatron.core.transformer.enums import ModelType
from megatron.core.transformer.module import MegatronModule

from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import Head, ModelConfig, Pairing, Prediction, SetLoss, Source, Start
from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.data.condition import Condition
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.flow.endpoint import endpoint_loss, velocity_loss
from bionemo.scale.flow.noise import set_noise
from bionemo.scale.flow.pairing import in_order, optimal_transport_order
from bionemo.scale.flow.path import interpolate
from bionemo.scale.flow.reduce import over_cells, over_sets
from bionemo.scale.flow.set_loss import energy_distance, maximum_mean_discrepancy
from bionemo.scale.flow.solver import solve
from bionemo.scale.flow.source import source
from bionemo.scale.layers.specs import layer_spec
from bionemo.scale.layers.transformer import transformer_config
from bionemo.scale.linear_start.apply import LinearStart, move_cells
from bionemo.scale.model.cell_encoder import CellEncoder
from bionemo.scale.model.condition_encoder import ConditionEncoder
from bionemo.scale.model.decoder import Decoder
from bionemo.scale.model.transport import EndpointTransport
from bionemo.screens.errors import InputError

EXTRA_STATE = "_extra_state"
_SET_LOSSES = {SetLoss.ENERGY: energy_distance, SetLoss.MMD: maximum_mean_discrepancy}


class ScaleModel(MegatronModule):
    """Set-aware endpoint transport of a control population to a perturbed one, ``p(X1 | X0, C)``."""

    gene_mean: torch.Tensor
    network_share: torch.Tensor

    def __init__(self, config: ModelConfig, compute: ComputeConfig, vocabulary: Vocabulary):
        super().__init__(config=transformer_config(config, compute, in_blocks=True))
        if config.head is Head.NEGATIVE_BINOMIAL and vocabulary.kind != "counts":
            raise InputError(f"head={config.head} needs counts, and the store holds log1p data: set head=residual.")
        self.model_type = ModelType.encoder_or_decoder
        self.scale, self.compute = config, compute
        self.vocabulary = vocabulary
        spec = layer_spec(compute)
        self.encoder = CellEncoder(config, compute, spec, len(vocabulary.genes))
        self.condition_encoder = ConditionEncoder(config, compute, vocabulary)
        self.transport = EndpointTransport(config, compute, spec)
        # Not `decoder`: Megatron takes an attribute of that name for a stack of transformer layers.
        self.expression_decoder = Decoder(config, compute, spec, vocabulary)
        # The mean log1p of each gene over training cells, [G]. Expression is centred on it: else what all cells share
        # would dominate every cell's encoding, and latents would collapse towards one point.
        self.register_buffer("gene_mean", torch.zeros(len(vocabulary.genes)))
        self.linear_start = LinearStart(vocabulary) if config.start is Start.LINEAR else None
        # The share of the network's change that is kept: with a linear start validation chooses it.
        share = 1.0 if self.linear_start is None else config.network_share or 0.0
        self.register_buffer("network_share", torch.full((1,), share))
        self.control_share = {Source.CONTROL: 1.0, Source.GAUSSIAN: 0.0, Source.MIXED: config.source_control_share}[
            config.source
        ]
        self.register_load_state_dict_pre_hook(_without_extra_state)

    def sharded_state_dict(self, prefix: str = "", *args, **kwargs) -> dict[str, Any]:
        """Megatron's, less what layers keep beside their weights.

        Transformer Engine pickles its FP8 scaling history there, and unpickles it when it is loaded. Without it nothing
        in a checkpoint has to be unpickled, and torch and Transformer Engine layers read each other's checkpoints.
        """
        sharded = super().sharded_state_dict(prefix, *args, **kwargs)
        return {name: part for name, part in sharded.items() if not name.endswith(EXTRA_STATE)}

    def set_input_tensor(self, input_tensor) -> None:
        """Part of Megatron's pipeline interface; the model is one stage and takes none."""

    def forward(self, batch: TrainingBatch) -> dict[str, torch.Tensor]:
        """Compute the losses of a batch.

        Returns
        -------
        dict
            Scalars: ``loss``, the terms it is the weighted sum of (``endpoint`` or ``velocity``, ``reconstruction``,
            and by configuration ``energy`` or ``mmd``, ``likelihood``), and ``filled``, the share of sets that are not
            empty. A term divided by it is a mean over sets with cells.
        """
        config, decoder = self.scale, self.expression_decoder
        control, perturbed, mask, condition = batch.control, batch.perturbed, batch.mask, batch.condition
        library = batch.library
        noise = set_noise(
            batch.key,
            cells=control.shape[1],
            width=config.hidden_size,
            device=control.device,
            start_fraction=config.start_fraction,
            context_dropout=config.context_dropout,
            token_dropout=config.token_dropout,
            gene_dropout=config.gene_dropout,
            genes=control.shape[2],
        )
        # Cells come in float32, and are rounded to the precision of the weights only when they are centred.
        control, dtype = self.starting_cells(control, condition), self.gene_mean.dtype
        centred = (torch.stack([control, perturbed]) - self.gene_mean).to(dtype)
        control = control.to(dtype)
        # Through these cells of each set gradients reach the encoder: as many as the reconstruction needs.
        trained = config.reconstructed_cells(control.shape[1])
        shown = centred if noise.hide_genes_2BSG is None else centred.masked_fill(noise.hide_genes_2BSG, 0.0)
        z = self.encoder(shown.flatten(0, 1), mask.repeat(2, 1), trained)
        z0, z1 = z.chunk(2)
        difference = decoder(z[:, :trained]) - centred.flatten(0, 1)[:, :trained]
        error = over_cells(difference.square(), mask[:, :trained].repeat(2, 1))
        reconstruction = error.unflatten(0, (2, -1)).mean(0)

        # The transport works on latents that the reconstruction alone shapes. A gradient of the endpoint loss through
        # z0 would pull the control cells together until every latent is the same.
        start, target = z0.detach(), z1.detach()
        if config.pairing is Pairing.OPTIMAL_TRANSPORT:
            order = optimal_transport_order(start, target, mask)
            target = in_order(target, order)
        z_s = source(start, noise.gaussian_BSD, self.control_share, mask)
        z_t = interpolate(z_s, target, noise.t_B)
        told = condition.without_context(noise.hide_context_B)
        encoded_condition, _ = self.condition_encoder(told, noise.hide_token_B)
        z1_hat = self.transport(z_t, noise.t_B, encoded_condition, start, mask)

        weighted: dict[str, tuple[float, torch.Tensor]] = {
            "reconstruction": (config.reconstruction_weight, reconstruction)
        }
        if config.prediction is Prediction.ENDPOINT:
            weighted["endpoint"] = config.endpoint_weight, endpoint_loss(z1_hat, target, mask)
        else:
            weighted["velocity"] = config.endpoint_weight, velocity_loss(z1_hat, target, noise.t_B, mask)
        if config.set_loss is not SetLoss.NONE:
            predicted = decoder.predict(z1_hat, start, control, self.gene_mean)
            distance = _SET_LOSSES[config.set_loss](predicted - self.gene_mean, centred[1], mask)
            weighted[config.set_loss.value] = config.set_weight, distance
        if config.head is Head.NEGATIVE_BINOMIAL:
            assert library is not None
            # Of the cells as encoded, so that rates are learnt of every latent, and as predicted. The order in which
            # perturbed cells are compared with predicted ones is that of their pairing.
            likelihood = self._likelihood(
                z1[:, :trained], perturbed[:, :trained], library[1, :, :trained], mask[:, :trained]
            )
            if config.pairing is Pairing.OPTIMAL_TRANSPORT:
                perturbed = in_order(perturbed, order)
                library = torch.stack([library[0], in_order(library[1], order)])
            likelihood = (likelihood + self._likelihood(z1_hat, perturbed, library[1], mask)) / 2
            weighted["likelihood"] = config.likelihood_weight, likelihood

        terms = {name: over_sets(value) for name, (_, value) in weighted.items()}
        loss = torch.stack([weight * terms[name] for name, (weight, _) in weighted.items()]).sum()
        return {"loss": loss, **terms, "filled": mask.any(1).float().mean()}

    def starting_cells(self, control: torch.Tensor, condition: Condition) -> torch.Tensor:
        """The control cells; moved by the condition's delta where there is a linear start, log1p [B, S, G]."""
        if self.linear_start is None:
            return control
        assert condition.delta is not None
        assert condition.control_mean is not None
        return move_cells(control, condition.delta, condition.control_mean, self.expression_decoder.ceiling)

    def encode(self, x: torch.Tensor, mask: torch.Tensor, hide_genes: torch.Tensor | None = None) -> torch.Tensor:
        """Latents [B, S, D] of log1p expression [B, S, G]; hidden genes, bool [B, S, G], are shown at their mean."""
        centred = x - self.gene_mean
        return self.encoder(centred if hide_genes is None else centred.masked_fill(hide_genes, 0.0), mask)

    @torch.no_grad()
    def predict(
        self,
        control: torch.Tensor,
        mask: torch.Tensor,
        condition: Condition,
        key: torch.Tensor,
        network_share: torch.Tensor | float | None = None,
        encoded: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Perturbed populations, one cell for each control cell.

        Parameters
        ----------
        control, mask, condition, key
            As in a :class:`TrainingBatch`.
        network_share
            Share of the network's change to keep, which is not computed where it is 0; the one that validation has
            chosen if not given.
        encoded
            The conditions as the condition encoder gives them, [B, D], where they are known already.

        Returns
        -------
        torch.Tensor
            log1p [B, S, G], before any rounding to counts.
        """
        noise = set_noise(key, cells=control.shape[1], width=self.scale.hidden_size, device=control.device)
        control = self.starting_cells(control, condition)
        share = float(self.network_share if network_share is None else network_share)
        if self.scale.head is Head.RESIDUAL and not share:
            return control.clamp(0, self.expression_decoder.ceiling)
        z0 = self.encode(control, mask)
        if encoded is None:
            encoded, _ = self.condition_encoder(condition)
        z1 = solve(
            lambda z, t: self.transport(z, t, encoded, z0, mask),
            source(z0, noise.gaussian_BSD, self.control_share, mask),
            self.scale.solver_steps,
        )
        return self.expression_decoder.predict(z1, z0, control, self.gene_mean, share)

    def _likelihood(self, z: torch.Tensor, x: torch.Tensor, library: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        decoder = self.expression_decoder
        assert decoder.rates is not None
        return over_cells(decoder.rates.loss(decoder.trunk(z), self.gene_mean, x, library), mask)


def _without_extra_state(model: torch.nn.Module, state: dict[str, Any], prefix: str, *_) -> None:
    """Give layers that ask for extra state the answer that there is none."""
    for name, module in model.named_modules():
        if type(module).set_extra_state is not torch.nn.Module.set_extra_state:
            state.setdefault(f"{prefix}{name}.{EXTRA_STATE}", None)
