"""Screens that recipes measure on: their files, columns and splits, and one training run on them."""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd

from bionemo.screens.controls import PARTS
from bionemo.screens.errors import InputError

ROOT = Path(__file__).parents[1]
REAL_SCREENS = ROOT / "experiments" / "real_screens"
FOLDER_VARIABLE = "SCALE_SCREENS"
"""Environment variable that names the folder of the real screens, which are no part of the project."""


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Cells, and where their columns and their held-out conditions are.

    Attributes
    ----------
    name
        In tables and file names.
    file
        Name of the h5ad file in the folder of real screens; None for a simulated screen.
    simulated
        What a simulated screen is made with: arguments of `simulate`.
    split
        TOML file of held-out conditions.
    columns
        Arguments of `prepare` that say what the columns of `obs` mean.
    made
        What is measured of the file's cells; all of them as they are where None.
    n_genes
        Highly variable genes to keep, chosen on the split's training cells; None keeps all.
    """

    name: str
    split: Path
    columns: dict[str, str]
    file: str | None = None
    simulated: Mapping[str, Any] = field(default_factory=dict)
    made: Callable[[ad.AnnData], ad.AnnData] | None = None
    n_genes: int | None = None

    def source(self, work: Path) -> Path:
        """Return the h5ad file, made under `work` where it is the simulated one.

        Raises
        ------
        InputError
            A real screen is not where `SCALE_SCREENS` says.
        """
        if self.file is not None and self.made is None:
            return real_screen(self.file)
        path = work / f"{self.name}.h5ad"
        if not path.exists():
            work.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial.h5ad")
            if self.file is None:
                from bionemo.screens.simulation import simulate

                simulate(partial, **self.simulated)
            else:
                assert self.made is not None
                self.made(ad.read_h5ad(real_screen(self.file))).write_h5ad(partial)
            os.replace(partial, path)
        return path

    def store(self, work: Path) -> Path:
        """Return the store of the screen's cells, prepared under `work` where it is not there yet."""
        path = work / f"{self.name if self.n_genes is None else self.split.stem}-store"
        if not path.exists():
            from bionemo.cellsets import prepare

            genes = {"n_genes": self.n_genes, "split": self.split if self.n_genes else None}
            prepare([self.source(work)], path, threads=1, **genes, **self.columns)  # type: ignore[arg-type]
        return path


def real_screen(file: str) -> Path:
    """Return the path of a file in the folder of real screens.

    Raises
    ------
    InputError
        It is not where `SCALE_SCREENS` says.
    """
    path = Path(os.environ.get(FOLDER_VARIABLE, ROOT.parent / "shared" / "data")) / file
    if not path.exists():
        raise InputError(f"there is no {path}: name the folder of {file} in {FOLDER_VARIABLE}.")
    return path


SIMULATED = Screen(
    name="simulated",
    split=ROOT / "recipes" / "demo" / "split.toml",
    columns={
        "perturbation_key": "perturbation",
        "control": "control",
        "context_key": "context",
        "batch_key": "batch",
    },
    simulated={"cells": 20_000, "genes": 1_000, "contexts": 4, "perturbations": 12},
)
"""The screen of `make demo`."""


def many_contexts(split: Path) -> Screen:
    """Twenty simulated contexts, where effects that follow from the state of a context can be learned."""
    sizes = {"cells": 100_000, "genes": 1_000, "contexts": 20, "perturbations": 24, "batches": 1, "seed": 11}
    return replace(SIMULATED, name="many_contexts", split=split, simulated=sizes)


def papalexi(split: str) -> Screen:
    """THP-1 CRISPR screen under `split` (``split`` or ``validated``) of its recipe."""
    return Screen(
        name="papalexi",
        file="papalexi_lowmoi_sceptre.h5ad",
        split=REAL_SCREENS / "papalexi_eccite" / f"{split}.toml",
        columns={"perturbation_key": "target", "control": "non-targeting", "context_key": "batch"},
    )


def glioblastoma(split: Path) -> Screen:
    """Panobinostat in five patients, under a split file."""
    return Screen(
        name="gbm",
        file="gbm_lemur.h5ad",
        split=split,
        columns={"perturbation_key": "condition", "control": "ctrl", "context_key": "patient_id"},
    )


CELL_TYPE = "seurat_annotations"
CELL_TYPES = (
    *("CD14 Mono", "CD4 Naive T", "CD4 Memory T", "CD16 Mono", "B"),
    *("CD8 T", "T activated", "NK", "DC", "B Activated"),
)
"""Of blood, those with 40 cells or more, from the most to the fewest."""
SAMPLES = {"first": (1, 2, 3, 4), "second": (5, 6), "third": (7, 8, 9, 10)}
"""Sample -> groups of the file's cells, which were drawn from all of them."""


def blood(split: Path) -> Screen:
    """Interferon beta in the cell types of blood, each a context, under a split file."""
    return Screen(
        name="pbmc",
        file="kang_ifnb_sub_scplotter.h5ad",
        split=split,
        columns={"perturbation_key": "stim", "control": "CTRL", "context_key": CELL_TYPE},
        made=_blood_counts,
        n_genes=2000,
    )


def mixed_blood(split: Path) -> Screen:
    """The same cells in three samples of all cell types, which are not named."""
    screen = blood(split)
    return replace(screen, columns={**screen.columns, "context_key": "sample"})


def _blood_counts(cells: ad.AnnData) -> ad.AnnData:
    """Return the counts of the cell types, and the samples that the file's ten groups of cells are divided into."""
    cells = cells[cells.obs[CELL_TYPE].isin(CELL_TYPES).to_numpy()]
    obs = pd.DataFrame({name: cells.obs[name].astype(str) for name in ("stim", CELL_TYPE)})
    of_group = {f"g{number}": sample for sample, numbers in SAMPLES.items() for number in numbers}
    obs["sample"] = [of_group[str(group)] for group in cells.obs["group"]]
    return ad.AnnData(cells.layers["counts"].copy(), obs=obs, var=pd.DataFrame(index=cells.var_names))


START_ALONE = ["model.network_share=0.0", "training.max_steps=25", "training.warmup_steps=5"]
"""Settings of a short training, for the linear start that the network takes no part in."""


def seeded(seed: int) -> list[str]:
    """Return the settings of one seed of several: each measures against another part of the control cells in turn."""
    return [f"training.seed={seed}", f"training.control_rotation={seed % PARTS}"]


def train(screen: Screen, work: Path, run: Path, overrides: list[str]) -> str:
    """Train `scale_tiny` with overrides, and return the command line that does the same.

    Parameters
    ----------
    screen
        What to train on.
    work
        Folder of stores.
    run
        Folder of the run; one that was interrupted goes on.
    overrides
        ``key=value`` settings.
    """
    from bionemo.scale.config.overrides import overridden
    from bionemo.scale.config.presets import PRETRAINING
    from bionemo.scale.training.pretrain import pretrain

    store = screen.store(work)
    pretrain(store, screen.split, run, **overridden(PRETRAINING["scale_tiny"], overrides))
    split = screen.split.relative_to(ROOT) if screen.split.is_relative_to(ROOT) else screen.split.name
    return f"bionemo-scale pretrain --store {store.name} --split {split} --out {run.name} {' '.join(overrides)}"


def with_solver_steps(run: Path, steps: int) -> Path:
    """Return a run directory with the same weights whose prediction takes `steps` solver steps."""
    from bionemo.scale.runs.checksums import seal
    from bionemo.scale.runs.directory import RunDirectory, RunRecord
    from bionemo.scale.runs.sealed_json import read_sealed, write_sealed

    copy = run.with_name(f"{run.name}-{steps}-steps")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy, copy_function=os.link)
    values, _ = read_sealed(run / "run.json")
    values["model"]["solver_steps"] = steps
    write_sealed(copy / "run.json", values)
    record = RunRecord(**{field.name: values[field.name] for field in fields(RunRecord)})
    for checkpoint in RunDirectory(copy).whole_checkpoints().values():
        seal(checkpoint, record)
    return copy


IMPORTED_ONCE = ["bionemo.perteval.run", "bionemo.scale.inference.predict", "bionemo.scale.training.pretrain"]
"""What a process started by `apart` needs."""


def apart(function: Callable[..., None], *arguments) -> bool:
    """Call a function in a process of its own and return whether it ended well.

    Megatron keeps process groups for the life of a process, so two models need two. They are forked from a server that
    has imported what they need and has done nothing else: a fork of this process would inherit the locks of threads
    that it does not have, and could wait for them forever.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(IMPORTED_ONCE)
    process = server.Process(target=_quietly, args=(dict(os.environ), function, arguments))
    process.start()
    process.join()
    return process.exitcode == 0


def _quietly(environment: Mapping[str, str], function: Callable[..., None], arguments: tuple) -> None:
    from bionemo.scale.quiet import hush

    # The server has the environment of the first call.
    os.environ.update(environment)
    hush()
    function(*arguments)
