"""`ScaleModule` is the model as NeMo trains it."""

from collections.abc import Iterator
from typing import Any, cast

import lightning.pytorch as pl
import torch
from megatron.core import parallel_state
from megatron.core.optimizer import OptimizerConfig
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.utils import unwrap_model
from nemo import lightning as nl
from nemo.lightning.megatron_parallel import MegatronLossReduction
from nemo.lightning.pytorch.optim import CosineAnnealingScheduler
from nemo.lightning.pytorch.optim.megatron import MegatronOptimizerModule

from bionemo.scale.config.compute import ComputeConfig, Precision
from bionemo.scale.config.model import ModelConfig
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.layers.transformer import transformer_config
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.scale.model.tuning import tune
from bionemo.scale.model.weight_average import WeightAverage
from bionemo.scale.training.strategy import divides_optimizer
from bionemo.scale.training.validation import ConditionScores


class MeanOverRanks(MegatronLossReduction):
    """A `MeanOverRanks` averages the loss terms over a step's batches and ranks, and remembers them for the log."""

    def __init__(self, terms: dict[str, torch.Tensor]):
        super().__init__()
        self.terms = terms

    def forward(self, batch, forward_out: dict[str, torch.Tensor]):
        """Return the loss to differentiate, and what :meth:`reduce` needs of this batch, as Megatron wants it."""
        return forward_out["loss"], {name: value.detach() for name, value in forward_out.items()}

    def reduce(self, losses_reduced_per_micro_batch) -> torch.Tensor:
        """Average over the step's sets that have cells; no value leaves the device."""
        names = list(losses_reduced_per_micro_batch[0])
        means = torch.stack([torch.stack([batch[n] for batch in losses_reduced_per_micro_batch]).mean() for n in names])
        torch.distributed.all_reduce(means, group=parallel_state.get_data_parallel_group())
        means /= parallel_state.get_data_parallel_world_size()
        filled = means[names.index("filled")].clamp(min=1e-9)
        self.terms.update((name, mean / filled) for name, mean in zip(names, means, strict=True) if name != "filled")
        return self.terms["loss"]


class ScaleModule(pl.LightningModule):
    """A `ScaleModule` builds the model when Megatron's groups exist, and hands it batches."""

    def __init__(
        self,
        model: ModelConfig,
        compute: ComputeConfig,
        vocabulary: Vocabulary,
        tables: dict[str, torch.Tensor],
        training: TrainingConfig,
        scores: ConditionScores | None = None,
        tuning: dict | None = None,
    ):
        """Take what to build and how to train it.

        `tables` are what the data say of the model's buffers: name of the buffer -> values; `scores` is the score of
        the validation conditions, if there are any, and `tuning` what a finetuning changes, as in `RunRecord`.
        """
        super().__init__()
        self.tables, self.tuning = tables, tuning
        self.scale, self.compute, self.training_config = model, compute, training
        self.vocabulary, self.scores = vocabulary, scores
        self.config = transformer_config(model, compute, in_blocks=True)
        self.module: ScaleModel | None = None
        self.cells_seen = 0
        """Distinct perturbed cells this rank has been given."""
        self.batch: TrainingBatch | None = None
        """The last batch, on the device."""
        self.terms: dict[str, torch.Tensor] = {}
        """Loss terms of the last training step, on the device."""
        self.validation_terms: dict[str, torch.Tensor] = {}
        self.optim = optimizer(compute, training)
        self.optim.connect(self)

    def configure_model(self) -> None:
        """Build the model; called more than once, builds it once."""
        if self.module is None:
            torch.manual_seed(self.training_config.seed)
            if self.compute.on_gpu:
                # Divided layers draw their weights from Megatron's tracker, which NeMo seeds with a number of its own.
                model_parallel_cuda_manual_seed(self.training_config.seed)
            self.module = self._model()
            if self.training_config.average_decay:
                average = self._model()
                average.load_state_dict(self.module.state_dict())
                self.module.add_module("average", WeightAverage(average))

    def _model(self) -> ScaleModel:
        model = ScaleModel(self.scale, self.compute, self.vocabulary)
        buffers = dict(model.named_buffers())
        for name, values in self.tables.items():
            buffers[name].copy_(values)
        if self.tuning is not None:
            tune(model, self.tuning)
        return model

    @property
    def model(self) -> ScaleModel:
        """Return the model that is trained, out of Megatron's wrappers."""
        return cast(ScaleModel, unwrap_model(self.module))

    @property
    def predicting_model(self) -> ScaleModel:
        """Return the model that predictions are made with: the average of weights where one is kept."""
        average = getattr(self.model, "average", None)
        return self.model if average is None else average.model

    def set_network_share(self, share: float) -> None:
        """Set the share of the network, unless the configuration says it."""
        if self.scale.network_share is not None:
            return
        for model in (self.model, self.predicting_model):
            model.network_share.fill_(share)

    def average_weights(self) -> None:
        """Take the step's weights into their average, where one is kept."""
        if self.training_config.average_decay:
            average = cast(WeightAverage, self.model.average)
            average.update(self.model, self.training_config.average_decay)

    def on_train_start(self) -> None:
        """Let a run that is trained further follow the schedule of its new length; NeMo restores the old one."""
        training = self.training_config
        for config in self.trainer.lr_scheduler_configs:
            scheduler: Any = config.scheduler
            scheduler.max_steps = training.max_steps
            scheduler.decay_steps = training.max_steps - training.warmup_steps

    def data_step(self, batches: Iterator) -> TrainingBatch:
        """Take the next batch, on the model's device."""
        batch = next(batches)
        # Lightning's fetcher adds the batch's number and the loader's.
        batch: TrainingBatch = batch[0] if isinstance(batch, tuple) else batch
        if self.training:
            self.cells_seen += batch.perturbed_cells
        self.batch = batch.to(next(self.parameters()).device)
        return self.batch

    def forward(self, batch: TrainingBatch) -> dict[str, torch.Tensor]:
        """Compute the loss terms of a batch; see :meth:`ScaleModel.forward`."""
        assert self.module is not None
        return self.module(batch)

    def training_step(self, batch: TrainingBatch, batch_idx: int | None = None):
        """Compute one batch; NeMo's strategy runs the backward pass and the optimizer."""
        return self(batch)

    def validation_step(self, batch: TrainingBatch, batch_idx: int | None = None):
        """Compute one batch's losses, and its part in the score of the validation conditions."""
        if self.scores is not None:
            self.scores.add(self.predicting_model, batch)
        return self(batch)

    @property
    def training_loss_reduction(self) -> MeanOverRanks:
        """Return how training batches add up."""
        return MeanOverRanks(self.terms)

    @property
    def validation_loss_reduction(self) -> MeanOverRanks:
        """Return how validation batches add up."""
        return MeanOverRanks(self.validation_terms)


def optimizer(compute: ComputeConfig, training: TrainingConfig) -> MegatronOptimizerModule:
    """Make AdamW with warm-up and cosine decay, divided over data-parallel ranks where its state can be restored."""
    bf16 = compute.precision is Precision.BF16
    return MegatronOptimizerModule(
        OptimizerConfig(
            optimizer="adam",
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            adam_beta2=0.99,
            clip_grad=training.clip_gradient,
            use_distributed_optimizer=divides_optimizer(compute),
            bf16=bf16,
            params_dtype=torch.bfloat16 if bf16 else torch.float32,
        ),
        lr_scheduler=CosineAnnealingScheduler(
            max_steps=training.max_steps,
            warmup_steps=training.warmup_steps,
            constant_steps=0,
            min_lr=training.learning_rate / 10,
        ),
    )


def precision_plugin(model: ModelConfig, compute: ComputeConfig) -> nl.MegatronMixedPrecision | None:
    """Return NeMo's mixed precision, or None for float32.

    With FP8 the weights stay bf16 (``fp8_param_gather`` is off), so that checkpoints do not depend on it.
    """
    if compute.precision is not Precision.BF16:
        return None
    transformer = transformer_config(model, compute)
    fp8 = dict(fp8=transformer.fp8, fp8_recipe=transformer.fp8_recipe) if transformer.fp8 else {}
    return nl.MegatronMixedPrecision(precision="bf16-mixed", fp8_param_gather=False, **fp8)  # type: ignore[arg-type]
