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
            f"bionemo-scale predict --checkpoint ../base/run --controls {screen} --like {screen} --out predicted.h5ad",
            "predicted.h5ad",
        ),
        "export": ("bionemo-scale export ../base/run --out exported", "exported"),
        "import": ("bionemo-scale import ../base/exported --out imported", "imported"),
        "evaluate": (f"bionemo-scale evaluate {scored} --out report", "report"),
        "perteval": (f"perteval evaluate {scored} --out report", "report"),
        "reference": ("perteval reference --cells 8 --genes 20 --threads 1 --no-progress", ""),
        "profile": (f"bionemo-scale profile {train} --out profiled --steps 1 {SMALL}", "profiled"),
    }


def place(base: Path, folder: Path) -> Path:
    """Make a folder for commands to run in, and put the workshop beside it; return it."""
    (folder / "work").mkdir(parents=True)
    (folder / "base").symlink_to(base)
    return folder / "work"


def warm() -> None:
    """Import what the commands import, so that a fork need not."""
    import jobs  # noqa: F401
    import tensorboard.backend.event_processing.event_file_loader  # noqa: F401

    import bionemo.cellsets
    import bionemo.perteval.run
    import bionemo.scale.cli.app
    import bionemo.scale.finetuning.finetune
    import bionemo.scale.inference.predict
    import bionemo.scale.runs.export
    import bionemo.scale.runs.import_export
    import bionemo.scale.training.fit  # noqa: F401


def make(base: Path) -> dict[str, Command]:
    """Run every command undisturbed in ``base``, count its file operations, and keep what it leaves as the truth."""
    base.mkdir(parents=True)
    (base / "split.toml").write_text(SPLIT)
    (base / "protocol.toml").write_text(PROTOCOL)
    made = {}
    for name, (line, out) in command_lines().items():
        folder = place(base, base / "first" / name)
        command, count, began = Command(name, tuple(line.split()), out), base / f"{name}.count", time.monotonic()
        running = sandbox.start(command.words, folder, base / name, plan={"count": str(count)}, limit=300)
        outcome = running.finish()
        if outcome.code:
            raise RuntimeError(f"{line} does not work undisturbed: {outcome.err[-2000:]}")
        if out and not (base / out).exists():
            (shutil.copytree if (folder / out).is_dir() else shutil.copyfile)(folder / out, base / out)
        made[name] = replace(
            command,
            seconds=time.monotonic() - began,
            operations=count.stat().st_size if count.exists() else 0,
            digest=tuple(digest(folder / out).items()) if out else (),
            printed=outcome.out,
        )
    return made
