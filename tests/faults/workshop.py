"""The commands under test, and a folder with what they need: made once, read by all trials."""

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from faults import sandbox
from faults.results import digest

SPLIT = """\
[training]
screen = "train"

[fewshot."screen.context_2"]
val = ["perturbation_1"]
test = ["perturbation_2", "perturbation_3"]
"""
PROTOCOL = """\
title = "drawn"
perturbation_key = "perturbation"
context_key = "context"
control = "control"
batch_key = "batch"
target_sum = 10000
n_genes = 40
hvg_from = "train"

[held_out]
column = "context"
labels = ["context_2"]
val = ["perturbation_1"]
test = ["perturbation_2", "perturbation_3"]
"""
TARGETS = "target,cells\nperturbation_2,34\nperturbation_3,35\n"
"""As many as the simulated screen has."""
PANEL = "".join(f"gene_{number:02}\n" for number in range(1, 49))
SHARD = 16_384
"""Cells of a shard."""
ROOT = Path(__file__).parents[2]
KEYS = "--perturbation-key perturbation --control control --context-key context --batch-key batch"
SMALL = (
    "training.max_steps=6 training.sets_per_batch=4 training.cells_per_set=8 training.checkpoint_every=2 "
    "training.validate_every=4 training.warmup_steps=1 training.log_every=1 model.hidden_size=16"
)


@dataclass(frozen=True)
class Command:
    """A `Command` is a command line, the path that it writes, and what it is known to leave there.

    One that starts itself again, as other ranks, has to be a ``real`` one, and not a fork.
    """

    name: str
    words: tuple[str, ...]
    out: str
    seconds: float = 1.0
    operations: int = 1
    digest: tuple[tuple[str, str], ...] = ()
    printed: str = ""
    real: bool = False

    def known(self, digest: dict[str, str]) -> "Command":
        """Return the command with what it is known to leave."""
        return replace(self, digest=tuple(digest.items()))


def command_lines() -> dict[str, tuple[str, str]]:
    """Return name -> (command line, what it writes) for every command; they run beside the workshop, ``../base``."""
    screen, split = "../base/screen.h5ad", "--split ../base/split.toml"
    predict = "bionemo-scale predict --checkpoint ../base/run"
    shards = f"{predict} --controls {screen} --like ../base/many.h5ad --part all --network-share 0 --out"
    train = f"--store ../base/store {split}"
    scored = f"--predicted ../base/predicted.h5ad --observed {screen} {split} --arms main --no-progress --threads 1"
    return {
        "simulate": (
            "bionemo-scale simulate screen.h5ad --cells 480 --genes 48 --contexts 2 --perturbations 4 --batches 1",
            "screen.h5ad",
        ),
        "prepare": (f"bionemo-scale prepare {screen} --store store --all-genes --threads 2 {KEYS}", "store"),
        "overwrite": (f"bionemo-scale prepare {screen} --store store --all-genes {KEYS} --overwrite", "store"),
        "split": (f"bionemo-scale split {screen} --protocol ../base/protocol.toml --out split.toml", "split.toml"),
        "inspect": ("bionemo-scale inspect ../base/store", ""),
        "check": (f"bionemo-scale pretrain --check {train} --out run {SMALL}", ""),
        "pretrain": (f"bionemo-scale pretrain {train} --out run {SMALL}", "run"),
        "finetune": (
            f"bionemo-scale finetune --from ../base/run {train} --out tuned training.max_steps=2 "
            "training.warmup_steps=1 training.checkpoint_every=1",
            "tuned",
        ),
        "predict": (
            f"{predict} --controls {screen} --like {screen} --out predicted.h5ad",
            "predicted.h5ad",
        ),
        "shards": (f"{shards} shards", "shards"),
        "merged": (f"{shards} merged.h5ad", "merged.h5ad"),
        "submission": (
            f"{predict} --controls ../base/line.h5ad --format vcc2026 --targets ../base/targets.csv "
            "--panel ../base/panel.txt --out submission.h5ad",
            "submission.h5ad",
        ),
        "export": ("bionemo-scale export ../base/run --out exported", "exported"),
        "import": ("bionemo-scale import ../base/exported --out imported", "imported"),
        "evaluate": (f"bionemo-scale evaluate {scored} --out report", "report"),
        "perteval": (f"perteval evaluate {scored} --out report", "report"),
        "challenge": (
            "perteval evaluate --predicted ../base/submission.h5ad --observed ../base/line.h5ad --protocol vcc2026 "
            "--perturbation-key perturbation --control control --context-key context --no-progress --threads 1 "
            "--out scores",
            "scores",
        ),
        "serving": (
            f"bionemo-bench serving --checkpoint ../base/run --controls {screen} --out serving.json --cells 8 "
            "--conditions 8 --repeats 20",
            "serving.json",
        ),
        "throughput": ("bionemo-bench throughput --read ../base/throughput.json --out measured", "measured"),
        "reference": ("perteval reference --cells 8 --genes 20 --threads 1 --no-progress", ""),
        "profile": (f"bionemo-scale profile {train} --out profiled --steps 1 {SMALL}", "profiled"),
    }


LONG = {
    "loader": (
        "loader --out bench --cache bench/cache --cells 1200 --genes 50 --nnz 5 --contexts 2 --perturbations 4 "
        "--set-size 16 --sets-per-batch 2 --seconds 0.1 --no-cold --arm h5py",
        "bench",
        10.0,
    ),
    "scoring": (
        "scoring --out scoring.json --cache ../cache --cells 400 --genes 30 --perturbations 2 --growth 400 --repeats 0 "
        "--controls shared --threads 1",
        "scoring.json",
        15.0,
    ),
    "atlas": (
        "atlas --out atlas --sizes 300 --contexts 2 --genes 40 --cells-per-condition 20 --held-out 0.25 --steps 3",
        "atlas",
        30.0,
    ),
    "kernels": ("kernels --out kernels.json --rounds 1", "kernels.json", 60.0),
}
"""Commands of `bionemo-bench` that are run undisturbed only where a trial needs it; what each writes, and seconds."""


def place(base: Path, folder: Path) -> Path:
    """Make a folder for commands to run in, and put the workshop beside it; return it."""
    (folder / "work").mkdir(parents=True)
    (folder / "base").symlink_to(base)
    return folder / "work"


def write_other_screens(base: Path) -> None:
    """Write labels of as many cells as make two shards, and what a submission is scored on, of one context."""
    import anndata as ad
    import pandas as pd

    screen = ad.read_h5ad(base / "screen.h5ad")
    held_out = screen.obs["perturbation"].isin(["control", "perturbation_2", "perturbation_3"])
    screen[held_out & (screen.obs["context"] == "context_2")].write_h5ad(base / "line.h5ad")
    labels = [("context_1", "perturbation_1"), ("context_1", "perturbation_2"), ("context_2", "perturbation_2")]
    many = pd.DataFrame(labels, columns=pd.Index(["context", "perturbation"])).loc[[0] * SHARD + [1, 2] * 30]
    many["batch"] = screen.obs["batch"].iloc[0]
    many.index = pd.Index(map(str, range(len(many))))
    ad.AnnData(obs=many).write_h5ad(base / "many.h5ad")


def warm() -> None:
    """Import what the commands import, so that a fork need not."""
    import jobs  # noqa: F401
    import matplotlib
    import tensorboard.backend.event_processing.event_file_loader  # noqa: F401

    import bionemo.bench.cli
    import bionemo.bench.loader.benchmark
    import bionemo.bench.serving.benchmark
    import bionemo.bench.throughput.report
    import bionemo.cellsets
    import bionemo.perteval.engines.vcc2026
    import bionemo.perteval.run
    import bionemo.scale.cli.app
    import bionemo.scale.finetuning.finetune
    import bionemo.scale.inference.predict
    import bionemo.scale.runs.export
    import bionemo.scale.runs.import_export
    import bionemo.scale.training.fit  # noqa: F401

    matplotlib.use("Agg")


def make(base: Path) -> dict[str, Command]:
    """Run every command undisturbed in ``base``, count its file operations, and keep what it leaves as the truth."""
    base.mkdir(parents=True)
    (base / "split.toml").write_text(SPLIT)
    (base / "protocol.toml").write_text(PROTOCOL)
    (base / "targets.csv").write_text(TARGETS)
    (base / "panel.txt").write_text(PANEL)
    shutil.copyfile(ROOT / "benchmarks/results/throughput-cpu.json", base / "throughput.json")
    made = {
        name: Command(name, ("bionemo-bench", *line.split()), out, seconds, operations=40)
        for name, (line, out, seconds) in LONG.items()
    }
    for name, (line, out) in command_lines().items():
        folder = place(base, base / "first" / name)
        command, count, began = Command(name, tuple(line.split()), out), base / f"{name}.count", time.monotonic()
        running = sandbox.start(command.words, folder, base / name, plan={"count": str(count)}, limit=300)
        outcome = running.finish()
        if outcome.code:
            raise RuntimeError(f"{line} does not work undisturbed: {outcome.err[-2000:]}")
        if out and not (base / out).exists():
            (shutil.copytree if (folder / out).is_dir() else shutil.copyfile)(folder / out, base / out)
        if name == "simulate":
            write_other_screens(base)
        made[name] = replace(
            command,
            seconds=time.monotonic() - began,
            operations=count.stat().st_size if count.exists() else 0,
            digest=tuple(digest(folder / out).items()) if out else (),
            printed=outcome.out,
        )
    return made
