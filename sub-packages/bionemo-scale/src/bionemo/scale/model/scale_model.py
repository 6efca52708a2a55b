"""Assemble the model. Its ``forward`` is the training step: read it top to bottom.

Axes: B sets, 2B the control sets and then the perturbed sets, S cells, G genes, D latent.
"""

from typing import Any

import torch
from megatron.core.transformer.enums import ModelType
from megatron.core.transformer.module import MegatronModule

from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import Evidence, Head, ModelConfig, Pairing, Prediction, SetLoss, Source, Start
from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.data.condition import Condition
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.flow.endpoint import endpoint_loss, velocity_loss
from bionemo.scale.flow.noise import SetNoise, set_noise
from bionemo.scale.flow.pairing import in_order, optimal_transport_order
from bionemo.scale.flow.path import interpolate
from bionemo.scale.flow.reduce import mean_over_cells, over_cells, over_sets
from bionemo.scale.flow.set_loss import energy_distance, maximum_mean_discrepancy
from bionemo.scale.flow.solver import solve
from bionemo.scale.flow.source import source
from bionemo.scale.layers.specs import layer_spec
from bionemo.scale.layers.transformer import transformer_config
from bionemo.scale.linear_start.apply import LinearStart, move_cells
from bionemo.scale.model.cell_encoder import CellEncoder
from bionemo.scale.model.condition_encoder import ConditionEncoder
from bionemo.scale.model.decoder import Decoder
from bionemo.scale.model.evidence import EvidenceHead
from bionemo.scale.model.transport import EndpointTransport
from bionemo.screens.errors import InputError

EXTRA_STATE = "_extra_state"
_SET_LOSSES = {SetLoss.ENERGY: energy_distance, SetLoss.MMD: maximum_mean_discrepancy}


class ScaleModel(MegatronModule):
    """A `ScaleModel` transports control populations to perturbed ones, ``p(X1 | X0, C)`` (arXiv:2603.17380)."""

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
        told = config.evidence is Evidence.ON
        self.evidence = EvidenceHead(config, compute, len(vocabulary.genes)) if told else None
        # The share of the network in a prediction: validation chooses it.
        share = 1.0 if self.linear_start is None else config.network_share or 0.0
        self.register_buffer("network_share", torch.full((1,), share))
        shares = {Source.CONTROL: 1.0, Source.GAUSSIAN: 0.0, Source.MIXED: config.source_control_share}
        self.control_share = shares[config.source]
        self.register_load_state_dict_pre_hook(_without_extra_state)

    def sharded_state_dict(self, prefix: str = "", *args, **kwargs) -> dict[str, Any]:
        """Leave out of Megatron's state what layers keep beside their weights.

        Transformer Engine pickles its FP8 scaling history there, and unpickles it when it is loaded. Without it nothing
        in a checkpoint has to be unpickled, and torch and Transformer Engine layers read each other's checkpoints.
        """
        sharded = super().sharded_state_dict(prefix, *args, **kwargs)
        return {name: part for name, part in sharded.items() if not name.endswith(EXTRA_STATE)}

    def set_input_tensor(self, input_tensor) -> None:
        """Do nothing: Megatron's pipelines call it, and the model is one stage."""

    def forward(self, batch: TrainingBatch) -> dict[str, torch.Tensor]:
        """Compute the losses of a batch.

        Returns
        -------
        dict
            Scalars: ``loss``, the terms it is the weighted sum of (``endpoint`` or ``velocity``, ``reconstruction``,
            and by configuration ``shift``, ``energy`` or ``mmd``, ``likelihood``), and ``filled``, the share of sets
            that are not empty. A term divided by it is a mean over sets with cells.
        """
        config, decoder, mask_BS = self.scale, self.expression_decoder, batch.mask
        noise = self._noise(batch)
        centred_2BSG = self._centred(batch)
        x0_BSG, centred_x1_BSG = batch.control.to(centred_2BSG.dtype), centred_2BSG.chunk(2)[1]

        # The auto-encoder: gradients reach the encoder through the first cells of each set.
        first, mask_2BS = slice(config.reconstructed_cells(mask_BS.shape[1])), mask_BS.repeat(2, 1)
        shown_2BSG = centred_2BSG
        if noise.hide_genes_2BSG is not None:
            shown_2BSG = centred_2BSG.masked_fill(noise.hide_genes_2BSG.flatten(0, 1), 0.0)
        z_2BSD = self.encoder(shown_2BSG, mask_2BS, trained=first.stop)
        difference_2BSG = decoder(z_2BSD[:, first]) - centred_2BSG[:, first]
        error_2B = over_cells(difference_2BSG.square(), mask_2BS[:, first])
        weighted = {"reconstruction": (config.reconstruction_weight, error_2B.unflatten(0, (2, -1)).mean(0))}

        # The transport works on latents that the reconstruction alone shapes. A gradient of the endpoint loss through
        # z0 would pull the control cells together until every latent is the same.
        z0_BSD, z1_BSD = z_2BSD.detach().chunk(2)
        paired = config.pairing is Pairing.OPTIMAL_TRANSPORT
        order_BS = optimal_transport_order(z0_BSD, z1_BSD, mask_BS) if paired else None
        z1_BSD = in_order(z1_BSD, order_BS)
        z_s_BSD = source(z0_BSD, noise.gaussian_BSD, self.control_share, mask_BS)
        z_t_BSD = interpolate(z_s_BSD, z1_BSD, noise.t_B)
        condition = batch.condition.without_context(noise.hide_context_B)
        condition_BD, known_BKG = self.told(condition, noise.hide_token_B)
        z1_hat_BSD = self.transport(z_t_BSD, noise.t_B, condition_BD, z0_BSD, None if batch.full else mask_BS)

        if config.prediction is Prediction.ENDPOINT:
            weighted["endpoint"] = config.endpoint_weight, endpoint_loss(z1_hat_BSD, z1_BSD, mask_BS)
        else:
            weighted["velocity"] = config.endpoint_weight, velocity_loss(z1_hat_BSD, z1_BSD, noise.t_B, mask_BS)
        if config.set_loss is not SetLoss.NONE or self.evidence is not None:
            start_BSG = self.started(x0_BSG, condition, 1.0)
            if self.evidence is not None and known_BKG is not None:
                start_BSG = self.evidence.corrected(start_BSG, z0_BSD, known_BKG)
            x1_hat_BSG = decoder.predict(z1_hat_BSD, z0_BSD, start_BSG, self.gene_mean)
            if self.evidence is not None and batch.shift is not None and batch.trust is not None:
                shift_hat_BG = mean_over_cells(x1_hat_BSG, mask_BS) - mean_over_cells(x0_BSG, mask_BS)
                error_B = (shift_hat_BG - batch.shift).square().mean(1) * batch.trust
                weighted["shift"] = config.shift_weight, error_B * mask_BS.any(1)
            if config.set_loss is not SetLoss.NONE:
                distance_B = _SET_LOSSES[config.set_loss](x1_hat_BSG - self.gene_mean, centred_x1_BSG, mask_BS)
                weighted[config.set_loss.value] = config.set_weight, distance_B
        if config.head is Head.NEGATIVE_BINOMIAL:
            # Rates are learnt of the cells as encoded, so of every latent, and as predicted, which are paired.
            assert batch.library is not None
            x1_BSG, library_BS = batch.perturbed, batch.library[1]
            z_x1_BSD = z_2BSD.chunk(2)[1]
            encoded_B = self._likelihood(z_x1_BSD[:, first], x1_BSG[:, first], library_BS[:, first], mask_BS[:, first])
            paired_x1_BSG, paired_library_BS = in_order(x1_BSG, order_BS), in_order(library_BS, order_BS)
            predicted_B = self._likelihood(z1_hat_BSD, paired_x1_BSG, paired_library_BS, mask_BS)
            weighted["likelihood"] = config.likelihood_weight, (encoded_B + predicted_B) / 2

        terms = {name: over_sets(value_B) for name, (_, value_B) in weighted.items()}
        loss = torch.stack([weight * terms[name] for name, (weight, _) in weighted.items()]).sum()
        return {"loss": loss, **terms, "filled": mask_BS.any(1).float().mean()}

    @torch.no_grad()
    def predict(
        self,
        x0_BSG: torch.Tensor,
        mask_BS: torch.Tensor,
        condition: Condition,
        key_B: torch.Tensor,
        network_share: torch.Tensor | float | None = None,
    ) -> torch.Tensor:
        """Predict perturbed populations, one cell for each control cell.

        A network with evidence corrects the linear start: a cell moves by all of that start's movement, and by s of the
        network's corrections. Without evidence it moves by ``1 - s`` of the first, and by s of the network's change.

        Parameters
        ----------
        x0_BSG
            Control cells, log1p, as ``TrainingBatch.control``.
        mask_BS, condition, key_B
            Mask, conditions and keys, as in a :class:`TrainingBatch`.
        network_share
            s; the network is not computed where it is 0. The one that validation has chosen if not given.

        Returns
        -------
        torch.Tensor
            log1p [B, S, G], before any rounding to counts.
        """
        share = float(self.network_share if network_share is None else network_share)
        start_BSG = self.started(x0_BSG, condition, share)
        if self.scale.head is Head.RESIDUAL and not share:
            return start_BSG.clamp(0, self.expression_decoder.ceiling)
        noise = set_noise(key_B, cells=x0_BSG.shape[1], width=self.scale.hidden_size, device=x0_BSG.device)
        z0_BSD = self.encoder((x0_BSG - self.gene_mean).to(self.gene_mean.dtype), mask_BS)
        condition_BD, known_BKG = self.told(condition)
        z1_BSD = self.transported(z0_BSD, mask_BS, condition_BD, noise.gaussian_BSD)
        if self.evidence is not None and known_BKG is not None:
            start_BSG = self.evidence.corrected(start_BSG, z0_BSD, known_BKG, share)
        return self.expression_decoder.predict(z1_BSD, z0_BSD, start_BSG, self.gene_mean, share)

    def start_share(self, share: float) -> float:
        """Return the share of the linear start in a prediction that has a share of the network.

        A network that is given evidence corrects the start, which then moves cells all the way.
        """
        if self.linear_start is None:
            return 0.0
        return 1 - share if self.evidence is None else 1.0

    def started(self, x0_BSG: torch.Tensor, condition: Condition, share: float) -> torch.Tensor:
        """Return control cells as the linear start moves them beside a share of the network, log1p [B, S, G]."""
        if not (moved := self.start_share(share)):
            return x0_BSG
        assert self.linear_start is not None
        assert condition.evidence is not None
        return move_cells(x0_BSG, *self.linear_start.shift(condition.evidence), moved)

    def told(
        self, condition: Condition, hide_token_B: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what the network is told of conditions: vectors [B, D], and numbers of genes, see `EvidenceHead`."""
        condition_BD, _ = self.condition_encoder(condition, hide_token_B)
        if self.evidence is None:
            return condition_BD, None
        assert self.linear_start is not None
        assert condition.evidence is not None
        known_BKG, summary_BD = self.evidence(condition.evidence / self.linear_start.size[:, None])
        return condition_BD + summary_BD, known_BKG

    def transported(
        self,
        z0_BSD: torch.Tensor,
        mask_BS: torch.Tensor,
        condition_BD: torch.Tensor,
        gaussian_BSD: torch.Tensor,
        *,
        full: bool = False,
    ) -> torch.Tensor:
        """Return where the latents of control cells end, [B, S, D].

        Parameters
        ----------
        z0_BSD
            Latents of the control cells.
        mask_BS
            True where a cell is there.
        condition_BD
            Conditions, as the condition encoder gives them.
        gaussian_BSD
            Standard normal noise of the source.
        full
            Whether it is known that the mask is True everywhere, as ``TrainingBatch.full``.
        """
        attended_BS = None if full else mask_BS
        return solve(
            lambda z_BSD, t_B: self.transport(z_BSD, t_B, condition_BD, z0_BSD, attended_BS),
            source(z0_BSD, gaussian_BSD, self.control_share, mask_BS),
            self.scale.solver_steps,
        )

    def _centred(self, batch: TrainingBatch) -> torch.Tensor:
        """Return control and perturbed cells less the mean of each gene, [2B, S, G].

        Cells come in float32, and are rounded to the precision of the weights only when they are centred.
        """
        sets, *rest = batch.control.shape
        centred_2BSG = self.gene_mean.new_empty((2 * sets, *rest))
        control_BSG, perturbed_BSG = centred_2BSG.chunk(2)
        torch.sub(batch.control, self.gene_mean, out=control_BSG)
        from_target = self.gene_mean if batch.base is None else (self.gene_mean + batch.base)[:, None]
        torch.sub(batch.perturbed, from_target, out=perturbed_BSG)
        return centred_2BSG

    def _noise(self, batch: TrainingBatch) -> SetNoise:
        """Draw what is random in a training step."""
        config, (_, cells, genes) = self.scale, batch.control.shape
        return set_noise(
            batch.key,
            cells=cells,
            width=config.hidden_size,
            device=batch.control.device,
            start_fraction=config.start_fraction,
            context_dropout=config.context_dropout,
            token_dropout=config.token_dropout,
            gene_dropout=config.gene_dropout,
            genes=genes,
        )

    def _likelihood(
        self, z_BSD: torch.Tensor, x_BSG: torch.Tensor, library_BS: torch.Tensor, mask_BS: torch.Tensor
    ) -> torch.Tensor:
        """Return how unlikely cells are under the rates of latents, [B]."""
        decoder = self.expression_decoder
        assert decoder.rates is not None
        return over_cells(decoder.rates.loss(decoder.trunk(z_BSD), self.gene_mean, x_BSG, library_BS), mask_BS)


def _without_extra_state(model: torch.nn.Module, state: dict[str, Any], prefix: str, *_) -> None:
    """Give layers that ask for extra state the answer that there is none."""
    for name, module in model.named_modules():
        if type(module).set_extra_state is not torch.nn.Module.set_extra_state:
            state.setdefault(f"{prefix}{name}.{EXTRA_STATE}", None)
