"""Train a model on a store, from its first step or from where a run was interrupted."""

import logging
from pathlib import Path

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from megatron.core.distributed import DistributedDataParallelConfig
from nemo import lightning as nl
from nemo.lightning.pytorch.callbacks import ModelCheckpoint
from nemo.utils import logging as nemo_log

from bionemo.cellsets import CellStore, Split
from bionemo.scale.errors import InputError
from bionemo.scale.model.config import ScaleConfig
from bionemo.scale.quiet import hush
from bionemo.scale.training.cpu import redirect_cuda_to_cpu
from bionemo.scale.training.data import CellSetsDataModule
from bionemo.scale.training.embeddings import Embeddings
from bionemo.scale.training.module import ScaleModule, precision_plugin
from bionemo.scale.training.progress import ProgressBar, Throughput
from bionemo.scale.training.run_directory import RunDirectory, RunRecord, checkpoint_step
from bionemo.scale.training.selection import Selection
from bionemo.scale.training.settings import TrainingConfig
from bionemo.scale.training.vocabulary import training_vocabulary

_log = logging.getLogger("bionemo.scale")


def pretrain(
    store: str, split: str, out: str, model: ScaleConfig, training: TrainingConfig, embeddings: str | None = None
) -> None:
    """Train, and leave the run in ``out``.

    Called again with the same arguments it goes on from the last whole checkpoint, and sees every set that was left
    exactly once. With ``training.devices`` above 1 it starts the other processes itself, unless ``torchrun`` or Slurm
    has started them.

    Parameters
    ----------
    store
        Directory that ``prepare`` wrote.
    split
        TOML file of held-out conditions.
    out
        Directory of the run: ``run.json``, ``checkpoints/``, ``tensorboard/``.
    model
        The model to build.
    training
        How to train it.
    embeddings
        Parquet or npz file of perturbation embeddings, for a model that takes them.

    Raises
    ------
    InputError
        The arguments do not fit each other, the data, or the run that ``out`` already holds.
    """
    if training.world_size % model.tensor_parallel:
        raise InputError(
            f"model.tensor_parallel={model.tensor_parallel} does not divide the {training.world_size} processes of "
            f"training.devices={training.devices} x training.nodes={training.nodes}."
        )
    hush()
    nemo_log.remove_stream_handlers()
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        redirect_cuda_to_cpu()
        torch.set_num_threads(training.threads)
    cells = CellStore.open(Path(store))
    held_out = Split.from_toml(Path(split))
    supplied = None if embeddings is None else Embeddings.read(Path(embeddings))
    separator = "" if training.separator == "none" else training.separator
    vocabulary = training_vocabulary(cells, held_out, model, separator, supplied)
    data_parallel = training.world_size // model.tensor_parallel

    run = RunDirectory(Path(out))
    record = RunRecord(
        model=model.to_dict(),
        vocabulary=vocabulary.to_dict(),
        training=training.to_dict(),
        global_batch=training.sets_per_batch * data_parallel * training.accumulate,
        store={"path": str(store), "fingerprint": cells.fingerprint, "keys": dict(cells.keys)},
        split=held_out.to_dict(),
        embeddings=None if supplied is None else {"path": embeddings, "sha256": supplied.sha256},
    )
    run.start(record, write=rank_zero_only.rank == 0)

    last = run.last_checkpoint()
    if last is not None and checkpoint_step(last) >= training.max_steps:
        _log.info("%s is done: raise training.max_steps above %d to train further", last, training.max_steps)
        return
    best = run.best()
    if last is not None and best is not None and training.is_over(checkpoint_step(last), best.step):
        _log.info("%s is done: no better checkpoint since step %d; raise training.patience", last, best.step)
        return
    data = CellSetsDataModule(cells, held_out, vocabulary, model, training, data_parallel)
    if model.transfer and model.gate is None and not data.has_validation:
        raise InputError(
            f"model.transfer=true lets validation conditions decide how much the model adds, and {split} marks none: "
            f"list some training conditions under val, or set model.gate."
        )
    tables = data.tables()
    if supplied is not None:
        tables["condition_encoder.perturbation.embedding"] = supplied.table(vocabulary)
    module = ScaleModule(model, vocabulary, tables, training, data.scores())
    throughput = Throughput(training.log_every)
    trainer = nl.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=training.devices,
        num_nodes=training.nodes,
        max_steps=training.max_steps,
        strategy=_strategy(model, on_gpu),
        plugins=precision_plugin(training),
        callbacks=[throughput, ProgressBar(throughput), Selection(run, training)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=training.log_every,
        limit_val_batches=training.validation_batches if data.has_validation else 0,
        val_check_interval=training.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    nl.NeMoLogger(
        explicit_log_dir=str(run.path / "logs"),
        tensorboard=TensorBoardLogger(save_dir=str(run.path), name="", version="tensorboard"),
        update_logger_directory=False,
    ).setup(trainer)
    if rank_zero_only.rank == 0:
        _log.info("%s, %s", data.summary(), f"going on from {last.name}" if last else f"{training.max_steps} steps")
    # Not handed to NeMoLogger, which would need nvidia-resiliency-ext to look at it.
    trainer.callbacks.append(LastCheckpoint(run, training))  # type: ignore[attr-defined]
    if last is not None:
        nl.AutoResume(resume_from_path=str(last)).setup(trainer, module)
    trainer.fit(module, data)
    if rank_zero_only.rank == 0:
        _log.info("trained: %s, predictions come from %s", run.last_checkpoint(), run.best_checkpoint())


class LastCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoint and the best: written every few steps, after validations and at the end.

    A checkpoint is named by the steps behind it.
    """

    def __init__(self, run: RunDirectory, training: TrainingConfig):
        super().__init__(
            dirpath=str(run.checkpoints),
            filename="{step}",
            monitor=None,
            save_last=True,
            save_top_k=0,
            every_n_train_steps=training.checkpoint_every,
            # A finished run can be trained further.
            save_optim_on_train_end=True,
            # NeMo would pickle the whole trainer beside the weights; run.json says what is needed.
            always_save_context=False,
            save_context_on_train_end=False,
        )
        self.CHECKPOINT_NAME_LAST = "{step}"
        self._run, self._validate_every = run, training.validate_every

    def on_train_batch_end(self, trainer, *args, **kwargs) -> None:
        """Save every few steps; a step that is to be validated is saved after it, with what validation chooses."""
        if not trainer.limit_val_batches or trainer.global_step % self._validate_every:
            super().on_train_batch_end(trainer, *args, **kwargs)

    def on_validation_end(self, trainer, pl_module) -> None:
        """Save, then drop what was best before."""
        super().on_validation_end(trainer, pl_module)
        best = self._run.best()
        if best is not None and best.step == trainer.global_step:
            for path in self._run.checkpoints.glob("step=*"):
                if path.is_dir() and path.name != f"step={best.step}":
                    self._remove_checkpoint(trainer, str(path))

    def _should_remove_checkpoint(self, trainer, previous: str, current: str) -> bool:
        best = self._run.best()
        is_best = best is not None and Path(previous).name.removesuffix(".ckpt") == f"step={best.step}"
        return not is_best and super()._should_remove_checkpoint(trainer, previous, current)

    def setup(self, trainer, *args, **kwargs) -> None:
        """Remember the trainer: the step among the logged metrics is the one before."""
        self._trainer = trainer
        super().setup(trainer, *args, **kwargs)

    def format_checkpoint_name(self, metrics, *args, **kwargs) -> str:
        """``step=100`` after the hundredth optimizer step."""
        return super().format_checkpoint_name({**metrics, "step": self._trainer.global_step}, *args, **kwargs)


def _strategy(model: ScaleConfig, on_gpu: bool) -> nl.MegatronStrategy:
    strategy = nl.MegatronStrategy(
        tensor_model_parallel_size=model.tensor_parallel,
        ddp=DistributedDataParallelConfig(
            use_distributed_optimizer=on_gpu, overlap_grad_reduce=on_gpu, overlap_param_gather=on_gpu
        ),
        gradient_accumulation_fusion=False,
        ckpt_async_save=on_gpu,
        # Ranks that read a part each exchange them on the GPU.
        ckpt_parallel_load=on_gpu,
        ckpt_optim_fully_reshardable=True,
    )
    # The loss is logged with its terms, by Throughput.
    strategy.log_train_loss = False
    return strategy
