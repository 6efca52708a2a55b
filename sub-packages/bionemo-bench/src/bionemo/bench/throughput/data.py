"""Write the cells of the benchmark in the formats of both projects, with one split."""

import json
import shutil
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np

import bionemo.cellsets as cellsets
import bionemo.screens as screens
from bionemo.bench.harness.formats import FORMATS, Formats
from bionemo.bench.harness.screen import ScreenSize
from bionemo.bench.harness.worker import Bench
from bionemo.bench.throughput.arms import SCALE, Arm
from bionemo.bench.throughput.sizes import CONTROL
from bionemo.scale.runs import scale_portable

_TESTED_CONTEXTS = 2


class BenchmarkData:
    """A `BenchmarkData` has the files of a screen; `cache` is where packages for other environments are linked."""

    def __init__(self, bench: Bench, cache: Path, size: ScreenSize, *, again: bool, progress: bool):
        self._folder, self._cache, self._size = bench.data / f"throughput-{size.name}", cache, size
        self._formats = Formats(bench, self._folder, size, again=again, progress=progress)
        self.store = self._formats.folder_of("store") / "data"
        self.split = self._folder / "split.toml"
        self.part_counts, self.part_dense = self._folder / "part-counts.h5ad", self._folder / "part-dense.h5ad"

    @property
    def made(self) -> dict[str, Any]:
        """Return what was found of each format."""
        return self._formats.made

    def make(self) -> None:
        """Write what is not there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._formats.make_screen()
        for name in FORMATS:
            self._formats.make(name)
        self.split.write_text(self._split())
        for name in ("plain", "dense"):
            folder = self._formats.folder_of(name)
            text = f"[datasets]\nscreen = {json.dumps(str(folder / 'data.h5ad'))}\n\n{self._split()}"
            (folder / "state.toml").write_text(text)
        if not (self.part_counts.is_file() and self.part_dense.is_file()):
            self._write_part()

    def state_toml(self, *, sorted_rows: bool) -> Path:
        """Return what STATE is told of its data."""
        return self._formats.folder_of("dense" if sorted_rows else "plain") / "state.toml"

    def files(self, arm: Arm) -> list[Path]:
        """Return what an arm's training reads."""
        if arm.system == SCALE or arm.options["loader"]:
            return self._formats.data_of("store")
        return self._formats.data_of("dense" if arm.options["consecutive"] else "plain")

    def paths(self) -> list[Path]:
        """Return everything that some arm reads."""
        formats = [path for name in ("plain", "dense", "store") for path in self._formats.data_of(name)]
        return [*formats, self.part_counts, self.part_dense]

    def packages(self) -> Path:
        """Return a folder that another environment imports our loader and our blocks from, and nothing else."""
        folder = self._cache / "packages"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "bionemo").mkdir(parents=True)
        for package in (cellsets, screens):
            source = Path(package.__path__[0])
            (folder / "bionemo" / source.name).symlink_to(source)
        (folder / "scale_portable.py").symlink_to(Path(scale_portable.__file__))
        return folder

    def _tested(self) -> dict[str, list[str]]:
        half = [f"p{number:05}" for number in range(2, 2 + max(1, self._size.perturbations // 2))]
        contexts = [f"context{number:03}" for number in range(min(_TESTED_CONTEXTS, self._size.contexts - 1))]
        return dict.fromkeys(contexts, half)

    def _split(self) -> str:
        fewshot = {
            context: {"val": frozenset(["p00001"]), "test": frozenset(names)}
            for context, names in self._tested().items()
        }
        return screens.Split(fewshot=fewshot).to_toml("screen", "What the benchmark of throughput holds out.")

    def _write_part(self) -> None:
        """Write the cells to predict and the control cells of their contexts: counts for us, dense log1p for STATE."""
        screen = ad.read_h5ad(self._formats.folder_of("sorted") / "data.h5ad", backed="r")
        tested = self._tested()
        obs: Any = screen.obs
        labels = obs[["context", "perturbation"]].astype(str)
        wanted = {(context, name) for context, names in tested.items() for name in [CONTROL, *names]}
        rows = np.flatnonzero([pair in wanted for pair in zip(labels["context"], labels["perturbation"], strict=True)])
        part: Any = screen[rows].to_memory()
        part.write_h5ad(self.part_counts)
        file: Any
        with h5py.File(self._formats.folder_of("dense") / "data.h5ad") as file:
            dense = file["obsm/X_hvg"][rows]
        ad.AnnData(obs=part.obs, var=part.var, obsm={"X_hvg": dense}).write_h5ad(self.part_dense)
