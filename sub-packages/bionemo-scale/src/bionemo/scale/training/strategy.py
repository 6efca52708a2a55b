"""Spread a training over processes by NeMo, and read and write its checkpoints."""

import sys
from pathlib import Path
from typing import Any

import torch
from megatron.core import optimizer
from megatron.core.distributed import DistributedDataParallelConfig
from nemo import lightning as nl
from nemo.utils.callbacks.dist_ckpt_io import AsyncFinalizableCheckpointIO

from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.runs.directory import RunDirectory
from bionemo.scale.runs.safe_reading import reading
from bionemo.scale.training.checkpoint_io import AnyPrecision
from bionemo.scale.training.launcher import Launcher
from bionemo.screens.errors import InputError


class SafeStrategy(nl.MegatronStrategy):
    """`SafeStrategy` is NeMo's, runs nothing that a checkpoint holds, and leaves no rank without the others."""

    def __init__(self, run: RunDirectory, **options: Any):
        super().__init__(**options)
        self.run = run

    def load_checkpoint(self, checkpoint_path, *args, **kwargs) -> dict:
        """Read tensors and plain values, see :func:`reading`."""
        checkpoint = Path(checkpoint_path)
        with reading(checkpoint, RunDirectory(checkpoint.parents[1]).read()):
            return super().load_checkpoint(checkpoint_path, *args, **kwargs)

    def init_model_parallel(self) -> None:
        """Wait before the weights are copied into Megatron's buffers, and until they are there.

        NeMo copies them on another stream and waits for nothing (nemo/lightning/megatron_parallel.py:617).
        """
        made: Any = self.megatron_parallel
        copy = made.init_ddp

        def init_ddp() -> None:
            torch.cuda.synchronize()
            copy()
            torch.cuda.synchronize()

        made.init_ddp = init_ddp
        super().init_model_parallel()
        del made.init_ddp

    def _configure_launcher(self) -> None:
        """Start no other process where one is all: then a training runs in a notebook as well."""
        if self.num_processes * self.num_nodes > 1:
            if hasattr(sys, "ps1"):
                raise InputError(
                    f"compute.devices={self.num_processes} needs processes that a notebook cannot start: set it to 1, "
                    f"or train with `bionemo-scale pretrain`."
                )
            assert self.cluster_environment is not None
            self._launcher = Launcher(self.run, self.cluster_environment, self.num_processes, self.num_nodes)


def divides_optimizer(compute: ComputeConfig) -> bool:
    """Tell whether the optimizer's state is divided over data-parallel ranks.

    It is on a GPU with apex or Transformer Engine: without both, Megatron cannot restore a divided state.
    """
    return compute.on_gpu and not optimizer.Adam.__module__.startswith("torch.")


def strategy(
    compute: ComputeConfig, training: TrainingConfig, run: RunDirectory, start_from: Path | None = None
) -> nl.MegatronStrategy:
    """Make what lays out the processes, the optimizer and the checkpoints of a run.

    On a GPU gradients and weights travel beside the computation. Of the checkpoint `start_from` the weights alone are
    taken before the first step.
    """
    on_gpu, divided = compute.on_gpu, divides_optimizer(compute)
    overlaps = on_gpu and compute.data_parallel > 1
    # An average of weights reads all of them after each step, and a compiled block has no room for hooks that wait.
    gathers_late = overlaps and divided and not (training.average_decay or compute.compile)
    made = SafeStrategy(
        run,
        tensor_model_parallel_size=compute.tensor_parallel,
        # NeMo writes it into the module's configuration, by which Megatron adds up the norms' gradients.
        sequence_parallel=compute.sequence_parallel,
        ddp=DistributedDataParallelConfig(
            use_distributed_optimizer=divided, overlap_grad_reduce=overlaps, overlap_param_gather=gathers_late
        ),
        gradient_accumulation_fusion=False,
        ckpt_async_save=training.saves_beside(on_gpu),
        # Ranks that read a part each exchange them on the GPU.
        ckpt_parallel_load=on_gpu,
        ckpt_optim_fully_reshardable=True,
        restore_config=None if start_from is None else nl.RestoreConfig(path=str(start_from), load_optim_state=False),
    )
    checkpoints: Any = AnyPrecision(
        async_save=made.async_save, parallel_save=made.parallel_save, parallel_load=made.parallel_load
    )
    made.checkpoint_io = AsyncFinalizableCheckpointIO(checkpoints) if made.async_save else checkpoints
    # The loss is logged with its terms, by Throughput.
    made.log_train_loss = False
    return made
