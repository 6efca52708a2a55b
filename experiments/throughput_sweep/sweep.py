"""How fast SCALE trains on this machine, over sizes of a batch and settings; README.md says how to read the result.

Each measurement is one ``nemo scale throughput`` in a process of its own, whose ``throughput.json`` is kept as it is.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PARTS = ("grid", "fp8", "compile", "upload", "recompute", "wide")
PACKAGES = ("torch", "transformer-engine", "megatron-core", "nemo-toolkit", "bionemo-scale", "bionemo-cellsets")
WIDE = (
    *("model.hidden_size=4096", "model.ffn_hidden_size=12288", "model.gene_module_size=512"),
    *("model.num_attention_heads=32", "model.num_query_groups=8"),
)
"""With the eight layers of scale_184m about 2.4 thousand million weights."""
FP8 = ("current", "delayed")
NEMO = shutil.which("nemo", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") or "nemo"


class Sweep:
    """Measurements of one call, written after each so that what was measured survives what was not."""

    def __init__(self, given: argparse.Namespace, folder: Path):
        self.given, self.folder = given, folder
        self.precision = [] if given.precision is None else [f"compute.precision={given.precision}"]
        self.record = {"machine": machine(), "arguments": vars(given) | {"out": str(given.out)}, "measurements": []}
        name = self.record["machine"]["gpu"] or platform.machine()
        self.file = given.out / f"{given.model}-{name.replace(' ', '_')}.json"
        self.data: list[str] = []

    def prepare(self) -> None:
        """One simulated screen for all measurements: runs of cells that are longer than the largest sets."""
        screen, store, split = (self.folder / name for name in ("screen.h5ad", "store", "split.toml"))
        sizes = {"cells": self.given.screen_cells, "genes": self.given.genes, "contexts": 4, "perturbations": 24}
        options = [text for name, size in sizes.items() for text in (f"--{name}", str(size))]
        scale = [sys.executable, "-m", "bionemo.scale.cli"]
        subprocess.run([*scale, "simulate", str(screen), *options, "--batches", "1"], check=True)
        keys = ["--perturbation-key", "perturbation", "--control", "control", "--context-key", "context"]
        subprocess.run(
            [*scale, "prepare", str(screen), "--store", str(store), *keys, "--batch-key", "batch", "--all-genes"],
            check=True,
        )
        split.write_text('[training]\nscreen = "train"\n')
        self.data = [f"store={store}", f"split={split}"]

    def measure(self, part: str, sets: int, cells: int, *settings: str) -> float | None:
        """Train some steps; cells per second, or None where it ended otherwise, and the reason is kept."""
        shape = [f"training.sets_per_batch={sets}", f"training.cells_per_set={cells}"]
        settings = (*shape, *self.precision, *settings)
        out = self.folder / f"measurement_{len(self.record['measurements'])}"
        began = time.time()
        done = subprocess.run(
            [
                *(NEMO, "scale", "throughput", "--factory", self.given.model, f"out={out}", *self.data, *settings),
                *(f"steps={self.given.steps}", f"warm_up={self.given.warm_up}", "--yes"),
            ],
            capture_output=True,
            text=True,
        )
        kept = {"part": part, "settings": settings, "seconds_in_all": time.time() - began, "result": None}
        result = out / "throughput.json"
        if done.returncode == 0 and result.exists():
            kept["result"] = json.loads(result.read_text())
        else:
            kept["failure"] = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        self.record["measurements"].append(kept)
        self.record["goals"] = goals(self.record["measurements"])
        self.file.write_text(json.dumps(self.record, indent=1))
        print(line(kept), flush=True)  # noqa: T201
        return None if kept["result"] is None else kept["result"]["cells_per_second"]

    def run(self) -> None:
        """The grid of batch sizes, then one change at a time at its fastest."""
        parts = self.given.parts
        fastest = (0.0, self.given.sets[0], self.given.cells[0])
        if "grid" in parts:
            for cells in self.given.cells:
                for sets in self.given.sets:
                    rate = self.measure("grid", sets, cells)
                    if rate is None:
                        break  # more sets need more memory still
                    fastest = max(fastest, (rate, sets, cells))
        _, sets, cells = fastest
        changes = {"compile": "compute.compile=true", "upload": "compute.upload_counts=true"}
        changes["recompute"] = "compute.recompute=true"
        for part, change in changes.items():
            if part in parts:
                self.measure(part, sets, cells, change)
        if "fp8" in parts:
            for recipe in FP8:
                self.measure("fp8", sets, cells, f"compute.fp8={recipe}")
        if "wide" in parts:
            for change in ((), *((f"compute.fp8={recipe}",) for recipe in FP8)):
                self.measure("wide", sets, cells, *WIDE, *change)


def machine() -> dict:
    """What the numbers were measured on."""
    on_gpu = torch.cuda.is_available()
    driver = None
    if on_gpu:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(asked, capture_output=True, text=True).stdout.strip().splitlines()[:1]
    return {
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "driver": driver,
        "cuda": torch.version.cuda,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
        "date": time.strftime("%Y-%m-%d"),
    }


def installed(name: str) -> str | None:
    """Version of a package, None where it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def goals(measurements: list[dict]) -> dict[str, dict]:
    """What was aimed at on one H200, beside what was found; None where it was not measured."""

    def best(part: str, key: str, *, fp8: bool = False) -> float | None:
        found = [
            one["result"][key]
            for one in measurements
            if one["part"] == part
            and one["result"] is not None
            and one["result"][key] is not None
            and fp8 == any("fp8" in setting for setting in one["settings"])
        ]
        return max(found, default=None)

    bf16, fp8 = best("wide", "cells_per_second"), best("wide", "cells_per_second", fp8=True)
    measured = [one["result"] for one in measurements if one["part"] == "grid" and one["result"] is not None]
    fastest = max(measured, key=lambda result: result["cells_per_second"], default=None)
    return {
        "MFU of the fastest batch, at least": {"goal": 0.40, "found": fastest and fastest["mfu"]},
        "FP8 over bf16 at width 4,096, at least": {"goal": 1.2, "found": fp8 / bf16 if fp8 and bf16 else None},
        "data wait of the fastest batch, at most": {"goal": 0.02, "found": fastest and fastest["data_wait"]},
    }


def line(kept: dict) -> str:
    """One measurement for a person."""
    name = f"{kept['part']:9} {' '.join(kept['settings'])}"
    result = kept["result"]
    if result is None:
        return f"{name}: {kept['failure']}"
    mfu = "" if result["mfu"] is None else f", MFU {result['mfu']:.1%}"
    return (
        f"{name}: {result['cells_per_second']:,.0f} cells/s{mfu}, {result['steps_per_second']:.2f} steps/s, "
        f"data wait {result['data_wait']:.1%}, {result['peak_memory_gib']:.1f} GiB"
    )


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the JSON")
    parser.add_argument("--model", default="scale_184m", help="recipe of nemo scale throughput")
    parser.add_argument("--sets", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="B, ascending")
    parser.add_argument("--cells", type=int, nargs="+", default=[128, 256, 512], help="S")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="the recipe's own where not given")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--screen-cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=2_000)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        sweep = Sweep(given, Path(folder))
        sweep.prepare()
        sweep.run()
    print(f"kept in {sweep.file}")  # noqa: T201


if __name__ == "__main__":
    main()
