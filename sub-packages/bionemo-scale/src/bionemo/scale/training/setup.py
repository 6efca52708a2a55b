"""Begin a pretraining or a finetuning: make the process ready, and open and check the data."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from nemo.lightning.callback_group import CallbackGroup
from nemo.utils import logging as nemo_log

from bionemo.cellsets import CellStore
from bionemo.scale.config.compute import ComputeConfig, Precision
from bionemo.scale.config.model import ModelConfig
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.data.embeddings import Embeddings
from bionemo.scale.data.training_vocabulary import training_vocabulary
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.memory import keep_freed_memory
from bionemo.scale.quiet import hush
from bionemo.scale.runs.directory import RunRecord
from bionemo.scale.runs.writing import collect_write_results_apart, collect_write_results_here
from bionemo.scale.threads import use_threads
from bionemo.scale.training.checks import check_data, check_settings
from bionemo.scale.training.cpu import redirect_cuda_to_cpu
from bionemo.scale.training.data_module import CellSetsDataModule, gene_choice
from bionemo.screens import Split
from bionemo.screens.controls import check_roles

_log = logging.getLogger("bionemo.scale")


@dataclass(frozen=True, kw_only=True)
class Opened:
    """`Opened` holds store, split and embeddings of a training, and the settings that they were checked against."""

    store: CellStore
    split: Split
    split_path: str | Path
    embeddings: Embeddings | None
    embeddings_path: str | Path | None
    model: ModelConfig
    compute: ComputeConfig
    training: TrainingConfig
    vocabulary: Vocabulary
    """Names that the training part of the store shows."""

    def record(self, vocabulary: Vocabulary | None = None, **instead) -> RunRecord:
        """Say what a run is started with.

        The model's names are those that the store shows unless others are given; `instead` has fields of the record
        that are not as the store says, or that it says nothing of.
        """
        training, supplied = self.training, self.embeddings
        fields: dict[str, Any] = {
            "model": asdict(self.model),
            "vocabulary": (vocabulary or self.vocabulary).to_dict(),
            "compute": asdict(self.compute),
            "training": asdict(training),
            "global_batch": training.sets_per_batch * self.compute.data_parallel * training.accumulate,
            "store": {
                "path": str(self.store.path),
                "fingerprint": self.store.fingerprint,
                "keys": dict(self.store.keys),
                "genes": gene_choice(self.store),
            },
            "control_roles": training.control_roles.to_dict(),
            "split": self.split.to_dict(),
            "trained": self.trained,
            "embeddings": None if supplied is None else {"path": str(self.embeddings_path), "sha256": supplied.sha256},
        }
        return RunRecord(**fields | instead)

    @property
    def trained(self) -> dict[str, list[str]]:
        """Map contexts to perturbations with a training cell of the store, controls included; none may be scored."""
        store, trained = self.store, {}
        training = store.parts(self.split, self.training.control_roles) == "train"
        for run in np.unique(store.runs[training][["context", "perturbation"]]):
            context = str(store.contexts[run["context"]])
            trained.setdefault(context, []).append(str(store.perturbations[run["perturbation"]]))
        return trained

    def data(self, folder: Path | None = None, vocabulary: Vocabulary | None = None) -> CellSetsDataModule:
        """Return the sets to train on.

        The processes of a run share files in the folder; without one all is in memory. The model's names are those that
        the store shows unless others are given.
        """
        return CellSetsDataModule(
            *(self.store, self.split, vocabulary or self.vocabulary, self.model, self.compute, self.training),
            None if self.embeddings is None else self.embeddings.table(self.vocabulary),
            self.vocabulary,
            folder,
        )


def open_training(
    store: str | Path,
    split: str | Path,
    model: ModelConfig,
    compute: ComputeConfig,
    training: TrainingConfig,
    embeddings: str | Path | None = None,
) -> Opened:
    """Check the settings, make this process one that trains, and open everything.

    An InputError says that the arguments do not fit each other, the machine or the data.
    """
    compute = compute.resolved()
    check_settings(model, compute, training)
    set_up(compute, training)
    cells, held_out, roles = CellStore.open(store), Split.from_toml(split), training.control_roles
    context, role, least = check_roles(cells.control_cells(roles), str(store))
    if rank_zero_only.rank == 0:
        _log.info("the fewest control cells of a role are the %d of %s in context %s", least, role, context)
    supplied = None if embeddings is None else Embeddings.read(Path(embeddings))
    vocabulary = training_vocabulary(cells, held_out, model, training.label_separator, supplied)
    check_data(cells, cells.parts(held_out, roles) == "train", training, compute.data_parallel)
    return Opened(
        store=cells,
        split=held_out,
        split_path=split,
        embeddings=supplied,
        embeddings_path=embeddings,
        model=model,
        compute=compute,
        training=training,
        vocabulary=vocabulary,
    )


def cpu_multiplies_bf16() -> bool:
    """Tell whether torch's kernels multiply bf16 on this CPU at the speed of float32 or above."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def set_up(compute: ComputeConfig, training: TrainingConfig) -> None:
    """Make this process one that trains: quiet, and on a machine without a GPU with the CPU in its place."""
    hush()
    nemo_log.remove_stream_handlers()
    # NeMo's telemetry: under torchrun it fails the first checkpoint of a run that its own recipes have not set up.
    CallbackGroup.get_instance().callbacks.clear()
    if not compute.on_gpu:
        redirect_cuda_to_cpu()
        keep_freed_memory()
        if compute.precision is Precision.BF16 and not cpu_multiplies_bf16() and rank_zero_only.rank == 0:
            _log.warning(
                "this CPU has no instructions for bf16, and takes many times as long for it as for float32: use "
                "compute.precision=fp32 here"
            )
    if training.saves_beside(compute.on_gpu):
        collect_write_results_apart()
    elif not compute.on_gpu:
        collect_write_results_here()
    use_threads(compute.threads)
    torch.set_float32_matmul_precision(compute.matmul_precision)
