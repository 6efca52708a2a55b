"""One process that Megatron takes for a whole group, tiny models, and a run on disk made without NeMo."""

from dataclasses import asdict, fields, replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from scipy import sparse

from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import ModelConfig
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.data.condition import Condition
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.scale.runs.checksums import seal
from bionemo.scale.runs.directory import RunDirectory, RunRecord
from bionemo.scale.runs.writing import writing_without_cuda

GENES = tuple(f"gene{i}" for i in range(20))
# (context, perturbation, plate) -> cells. C is no context of the model; B has no controls on plate2.
CONDITIONS = {
    ("A", "ctrl", "plate1"): 12,
    ("A", "ctrl", "plate2"): 5,
    ("A", "TP53", "plate1"): 7,
    ("A", "MYC", "plate2"): 9,
    ("B", "ctrl", "plate1"): 10,
    ("B", "TP53", "plate1"): 4,
    ("B", "MYC", "plate1"): 14,
    ("B", "MYC", "plate2"): 3,
    ("C", "ctrl", "plate1"): 6,
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tensors this small are slower on many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def groups():
    """Process groups of size one, as prediction makes them."""
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    if not parallel_state.is_initialized():
        parallel_state.initialize_model_parallel()
    yield
    if ours:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    return ModelConfig(
        hidden_size=16,
        num_layers=2,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=32,
        gene_modules=4,
        gene_module_size=8,
        # Stated here, so that tuning the defaults moves no test.
        source="mixed",
        source_control_share=0.8,
        pairing="none",
        start_fraction=0.3,
        solver_steps=1,
        context_dropout=0.3,
        head="residual",
        endpoint_weight=1.0,
        reconstruction_weight=1.0,
        prediction="endpoint",
        gene_dropout=0.0,
        start="none",
        deep_sets=True,
        condition_pooling="seed_attention",
        set_loss="energy",
        set_weight=1.0,
    )


@pytest.fixture(scope="session")
def compute() -> ComputeConfig:
    return ComputeConfig(device="cpu", layer_spec="local")


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary(
        genes=GENES,
        contexts=("A", "B"),
        perturbations=("ctrl", "MYC", "TP53"),
        batches=("plate1", "plate2"),
        control="ctrl",
        kind="counts",
        target_sum=100.0,
    )


@pytest.fixture(scope="session")
def build(groups, config, compute, vocabulary):
    """Make a model with some settings changed; `awake` gives what starts at zero a value, as training would."""

    def make(*, awake: bool = True, seed: int = 0, names: Vocabulary = vocabulary, **changes) -> ScaleModel:
        torch.manual_seed(seed)
        computed = {name: changes.pop(name) for name in set(changes) & {field.name for field in fields(compute)}}
        model = ScaleModel(replace(config, **changes), replace(compute, **computed), names)
        if awake:
            with torch.no_grad():
                for parameter in model.parameters():
                    if not parameter.any():
                        parameter.normal_(std=0.1)
        model.gene_mean.copy_(torch.linspace(0, 1, len(names.genes)))
        return model

    return make


@pytest.fixture(scope="session")
def condition_of():
    """Make conditions of one perturbation a set, without doses."""

    def make(perturbation, context, batch) -> Condition:
        rows, context, batch = (torch.as_tensor(numbers) for numbers in (perturbation, context, batch))
        tokens = rows.reshape(len(rows), -1)
        doses = torch.full(tokens.shape, torch.nan)
        return Condition(perturbation=tokens, dose=doses, context=context, batch=batch)

    return make


@pytest.fixture
def sets(condition_of):
    """Make a batch: arguments of `ScaleModel.forward` for sets of these many cells, padded to the largest."""

    def make(*sizes: int, padded_to: int | None = None) -> dict:
        rng = torch.Generator().manual_seed(1)
        shape = (len(sizes), padded_to or max(sizes), len(GENES))
        mask = torch.arange(shape[1])[None] < torch.tensor(sizes)[:, None]
        control, perturbed = (torch.randn(shape, generator=rng).relu() * mask[..., None] for _ in range(2))
        rows = torch.arange(len(sizes))
        condition = condition_of(rows % 3, rows % 2, rows % 2)
        return dict(control=control, perturbed=perturbed, mask=mask, condition=condition, key=rows + 11)

    return make


@pytest.fixture
def screen() -> ad.AnnData:
    """Counts of a small screen, in random row order."""
    rng = np.random.default_rng(3)
    labels = [label for label, cells in CONDITIONS.items() for _ in range(cells)]
    labels = [labels[i] for i in rng.permutation(len(labels))]
    obs = pd.DataFrame(labels, columns=["line", "target", "plate"], dtype="category")
    obs["age"] = rng.integers(20, 80, len(obs))
    obs.index = pd.Index([f"cell{i}" for i in range(len(obs))])
    counts = rng.negative_binomial(1, 0.3, (len(obs), len(GENES))).astype(np.float32)
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=pd.Index(GENES)))


@pytest.fixture
def written(screen, tmp_path):
    """Write the screen, or what a change makes of it, and return its path."""

    def write(change=lambda cells: cells, name: str = "screen.h5ad") -> Path:
        path = tmp_path / name
        change(screen).write_h5ad(path)
        return path

    return write


@pytest.fixture(scope="session")
def record(config, compute, vocabulary) -> RunRecord:
    """What a training run on the screen would leave as run.json."""
    return RunRecord(
        model=asdict(config),
        vocabulary=vocabulary.to_dict(),
        compute=asdict(compute),
        training=asdict(TrainingConfig(max_steps=100, sets_per_batch=4, cells_per_set=8)),
        global_batch=4,
        store={
            "path": "store",
            "fingerprint": "f" * 64,
            "keys": {"perturbation": "target", "context": "line", "batch": "plate"},
            "genes": {"hvg_from": "train", "hvg_split": "5" * 64},
        },
        control_roles={"controls": "independent", "rotation": 0},
        trained={"A": ["TP53", "ctrl"], "B": ["ctrl"]},
        split={"zeroshot": {}, "fewshot": {"B": {"val": ["TP53"], "test": ["MYC"]}}},
    )


@pytest.fixture(scope="session")
def save_weights():
    """Write a model's weights as NeMo lays them out in a checkpoint."""

    def save(model: ScaleModel, weights: Path) -> None:
        weights.mkdir(parents=True)
        with writing_without_cuda():
            dist_checkpointing.save({"state_dict": model.sharded_state_dict(prefix="module.")}, str(weights))
        if weights.parent.parent.name == "checkpoints":
            seal(weights.parent, RunDirectory(weights.parents[2]).read())

    return save


@pytest.fixture(scope="session")
def run_path(tmp_path_factory, build, record, save_weights) -> Path:
    """A run directory with one checkpoint; tests do not change it."""
    path = tmp_path_factory.mktemp("runs") / "run"
    RunDirectory(path).start(record, write=True)
    save_weights(build(), path / "checkpoints" / "step=1" / "weights")
    return path
