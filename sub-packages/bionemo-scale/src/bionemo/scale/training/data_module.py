"""Make the batches of a training out of a store's sets."""

import time
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from megatron.core import parallel_state
from nemo import lightning as nl

from bionemo.cellsets import CellStore, DeviceBatches, SetBatch, SetLoader, SetSampler
from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import Evidence, Head, ModelConfig, Start
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.data.condition import Condition, token_table
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.linear_start.fitted import FittedLinearStart
from bionemo.scale.linear_start.means import ConditionMeans, base_of
from bionemo.scale.model.condition_encoder import EMBEDDING
from bionemo.scale.training.validation import NETWORK_SHARES, ConditionScores
from bionemo.screens import Split
from bionemo.screens.controls import ControlRole


def gene_choice(store: CellStore) -> dict[str, str | None]:
    """Say which cells chose the store's genes: ``train`` of a split with hash ``hvg_split``, ``all``, or ``given``."""
    selection = store.manifest["gene_selection"]
    if selection["of"] == store.n_genes or selection.get("given"):
        return {"hvg_from": "given", "hvg_split": None}
    return {"hvg_from": "train" if selection["split_hash"] else "all", "hvg_split": selection["split_hash"]}


def table_rows(names: np.ndarray, table: tuple[str, ...]) -> torch.Tensor:
    """Find the row of each name in ``table``, int64, -1 where absent; one more -1 at the end answers index -1."""
    position = {name: row for row, name in enumerate(table)}
    return torch.tensor([*(position.get(str(name), -1) for name in names), -1], dtype=torch.int64)


class TrainingBatches:
    """`TrainingBatches` makes the model's batches of a loader's sets: the store's numbers become rows of its tables.

    With a fitted linear start they say what is known of each set's condition from elsewhere.
    """

    def __init__(
        self,
        loader: SetLoader,
        model: ModelConfig,
        compute: ComputeConfig,
        vocabulary: Vocabulary,
        linear_start: FittedLinearStart | None = None,
        base_KG: torch.Tensor | None = None,
    ):
        self.loader, self.linear_start, self.wait_seconds = loader, linear_start, 0.0
        self._base_KG = base_KG
        self._on_gpu = compute.on_gpu
        store = loader.store
        self._context_rows = table_rows(store.contexts, vocabulary.contexts)
        self._batch_rows = table_rows(store.batches, vocabulary.batches)
        tokens, self._doses = token_table([str(label) for label in store.perturbations], vocabulary)
        # Sets that only fill up the last batch have no condition; any valid row will do under their mask.
        self._tokens = torch.where((tokens >= 0).any(1, keepdim=True), tokens, torch.zeros_like(tokens))
        self._with_library = model.head is Head.NEGATIVE_BINOMIAL

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[TrainingBatch]:
        device = torch.device("cuda", torch.cuda.current_device()) if self._on_gpu else "cpu"
        sets = iter(DeviceBatches(self.loader, device) if self.loader.staged else self.loader)
        while True:
            began = time.perf_counter()
            batch = next(sets, None)
            if batch is None:
                return
            made = self.translate(batch)
            self.wait_seconds += time.perf_counter() - began
            yield made

    def translate(self, batch: SetBatch) -> TrainingBatch:
        """Make the model's batch of the store's."""
        store, library = self.loader.store, None
        if self._with_library:
            rows = torch.stack([batch.control_rows, batch.rows]).numpy()
            library = torch.from_numpy(store.library_size[np.maximum(rows, 0)]).masked_fill(~batch.mask, 0.0)
        perturbed_B = batch.perturbation != store.control_index
        base_BG = None if self._base_KG is None else self._base_KG[batch.context] * perturbed_B[:, None]
        evidence = shift = trust = None
        if self.linear_start is not None:
            conditions = list(zip(batch.context.tolist(), batch.perturbation.tolist(), strict=True))
            evidence = torch.stack([self.linear_start.features(*condition) for condition in conditions])
            shifts, trusts = zip(*(self.linear_start.observed(*condition) for condition in conditions), strict=True)
            shift, trust = torch.stack(shifts), torch.tensor(trusts)
        return TrainingBatch(
            control=batch.control,
            perturbed=batch.perturbed,
            mask=batch.mask,
            condition=Condition(
                perturbation=self._tokens[batch.perturbation],
                dose=self._doses[batch.perturbation],
                context=self._context_rows[batch.context],
                batch=self._batch_rows[batch.batch],
                evidence=evidence,
            ),
            key=batch.key,
            base=base_BG,
            library=library,
            shift=shift,
            trust=trust,
            place=condition_number(store, batch.context, batch.perturbation),
            full=bool(batch.mask.all()),
            # Control sets are trained on too, and count into no throughput.
            perturbed_cells=int(batch.mask[perturbed_B].sum()),
        )


def condition_number(store: CellStore, context, perturbation):
    """Number the pairs of a store's contexts and perturbations."""
    return context * len(store.perturbations) + perturbation


class _SetsAsTheyCome(nl.MegatronDataSampler):
    """`_SetsAsTheyCome` tells Megatron the batch sizes and leaves the sampling to the set sampler."""

    def __init__(self, training: TrainingConfig, data_parallel: int):
        super().__init__(
            seq_len=training.cells_per_set,
            micro_batch_size=training.sets_per_batch,
            global_batch_size=training.sets_per_batch * data_parallel * training.accumulate,
            output_log=False,
        )

    def transform_dataloader(self, dataloader, consumed_samples: int = 0):
        return dataloader


class CellSetsDataModule(pl.LightningDataModule):
    """The data module hands out training and validation sets of a store, divided over data-parallel ranks."""

    def __init__(
        self,
        store: CellStore,
        split: Split,
        vocabulary: Vocabulary,
        model: ModelConfig,
        compute: ComputeConfig,
        training: TrainingConfig,
        embeddings: torch.Tensor | None = None,
        shown: Vocabulary | None = None,
        folder: Path | None = None,
    ):
        """Take the data, what of them is held out, and what is trained, and how.

        `shown` are the names that the store shows, where the vocabulary has more; a linear start is fitted to them
        alone. `embeddings` are vectors of them, [tokens, E], for a model that takes them. The processes of a run share
        files of the linear start in the folder; without one it is in memory.
        """
        super().__init__()
        self.store, self.vocabulary, self.embeddings = store, vocabulary, embeddings
        self.model, self.compute, self.training = model, compute, training
        self.parts = store.parts(split, training.control_roles)
        self.labels = [str(label) for label in store.perturbations]
        self.linear_start: FittedLinearStart | None = None
        fitted = self._eligible("train") & (model.start is Start.LINEAR)
        means = ConditionMeans(store, fitted, training.control_roles, folder)
        self._base_KG = torch.from_numpy(base_of(means.control, len(store.contexts), store.n_genes))
        if model.start is Start.LINEAR:
            contexts = list(map(str, store.contexts))
            vectors = None if embeddings is None else embeddings.numpy()
            names, evidence = shown or vocabulary, model.evidence is Evidence.ON
            self.linear_start = FittedLinearStart(
                means, contexts, self.labels, names, vectors, folder, evidence=evidence
            )
            self._base_KG = self.linear_start.base_KG
        self.data_sampler = _SetsAsTheyCome(training, compute.data_parallel)
        self.batches: TrainingBatches | None = None

    @property
    def wait_seconds(self) -> float:
        """Return the seconds that training has waited for batches so far."""
        return 0.0 if self.batches is None else self.batches.wait_seconds

    @property
    def has_validation(self) -> bool:
        """Tell whether the split marks validation conditions."""
        return bool(self._eligible("val").any())

    def summary(self) -> str:
        """Say in a line what there is to learn from."""
        lengths = self.store.runs["length"]
        train, val = (lengths[self._eligible(part)].sum() for part in ("train", "val"))
        controls = lengths[self._eligible("train") & self.store.is_control].sum()
        return (
            f"{train:,} cells to train on ({controls:,} controls), {val:,} to validate, {self.store.n_genes:,} genes, "
            f"{len(self.vocabulary.contexts)} contexts, {len(self.vocabulary.perturbations) - 1} perturbations"
        )

    def train_dataloader(self) -> TrainingBatches:
        """Return endless batches from the step where the trainer stands: a resumed run sees what it would have seen."""
        assert self.trainer is not None
        loader = self._loader("train", staged=self.compute.upload_counts)
        consumed = self.trainer.global_step * self.training.accumulate
        loader.start_at(*divmod(consumed, loader.sampler.steps_per_epoch))
        self.batches = self._batches(loader, self.linear_start if self.model.evidence is Evidence.ON else None)
        return self.batches

    def val_dataloader(self) -> TrainingBatches | list:
        """Return the same validation sets every time."""
        if not self.has_validation:
            return []
        return self._batches(self._loader("val", epochs=1), self.linear_start)

    def tables(self) -> dict[str, torch.Tensor]:
        """Return what the data say of the model's buffers: name of the buffer -> values."""
        found = {"gene_mean": self.mean_expression()}
        if self.embeddings is not None:
            found[EMBEDDING] = self.embeddings
        return found if self.linear_start is None else found | self.linear_start.buffers()

    def scores(self) -> ConditionScores | None:
        """Return the score of the validation conditions, if there are any."""
        if not self.has_validation:
            return None
        means = ConditionMeans(self.store, self._eligible("val"), self.training.control_roles)
        # These are what training asks for: noise that a network has learnt of its context's shifts is not rewarded.
        observed = {
            int(condition_number(self.store, *condition)): torch.from_numpy(means.delta(condition, ControlRole.INPUT))
            - self._base_KG[condition[0]]
            for condition in means.mean
        }
        shares = NETWORK_SHARES if self.model.network_share is None else (self.model.network_share,)
        return ConditionScores(observed, shares if self.model.start is Start.LINEAR else (1.0,))

    def mean_expression(self, cells: int = 4096) -> torch.Tensor:
        """Return the mean log1p of each gene over about ``cells`` training cells, taken evenly from every run, [G]."""
        runs = self.store.runs[self._eligible("train")]
        each = max(1, cells // len(runs))
        total, count = torch.zeros(self.store.n_genes, dtype=torch.float64), 0
        for run in runs:
            rows = run["start"] + np.arange(min(each, run["length"]))
            total += torch.from_numpy(self.store.read(rows)).sum(0, dtype=torch.float64)
            count += len(rows)
        return (total / count).float()

    def _eligible(self, part: str) -> np.ndarray:
        eligible = self.parts == part
        if part == "val":
            # A control set maps to itself: it says nothing of how well a held-out condition is predicted.
            known = np.array([not self.vocabulary.unknown(label) for label in self.labels])
            eligible &= ~self.store.is_control & known[self.store.runs["perturbation"]]
        return eligible

    def _loader(self, part: str, **options) -> SetLoader:
        sampler = SetSampler(
            self.store,
            self._eligible(part),
            set_size=self.training.cells_per_set,
            sets_per_batch=self.training.sets_per_batch,
            seed=self.training.seed,
            rank=parallel_state.get_data_parallel_rank(),
            world_size=parallel_state.get_data_parallel_world_size(),
        )
        return SetLoader(self.store, sampler, roles=self.training.control_roles, **options)

    def _batches(self, loader: SetLoader, linear_start: FittedLinearStart | None = None) -> TrainingBatches:
        return TrainingBatches(loader, self.model, self.compute, self.vocabulary, linear_start, self._base_KG)
