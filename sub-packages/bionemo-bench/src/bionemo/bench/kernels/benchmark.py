"""Time training steps and predictions with and without each trick, alternating, on synthetic cells."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch

from bionemo.bench.harness.machine import machine_facts
from bionemo.bench.kernels.tricks import GAIN, TRICKS
from bionemo.scale.config.compute import ComputeConfig, Device, LayerKind, Precision
from bionemo.scale.config.presets import MODELS
from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.data.condition import Condition
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.linear_start.apply import FEATURES
from bionemo.scale.memory import keep_freed_memory
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.scale.runs.load import one_process_groups

STEPS = 2
"""Steps of one measurement, after one that is not measured."""
CLOCKS = ("training", "prediction")
"""What is judged, in CPU seconds."""
MEMORY = "freed memory is kept for the next step"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A `Setting` is a model and a batch that steps are timed with, on one thread."""

    model: str
    """Name of a preset."""
    precision: Precision
    cells: int
    """S, cells of a set."""
    sets: int = 16
    genes: int = 2000


SETTINGS = tuple(
    Setting(model="scale_tiny", precision=precision, cells=cells) for cells in (32, 128) for precision in Precision
)
"""The default model with the set size of its recipe, and with that of the large screens' recipes."""


class Trainer:
    """A `Trainer` carries out training steps of one setting, as Megatron does: float32 weights beside bf16 ones."""

    def __init__(self, setting: Setting):
        one_process_groups(torch.device("cpu"))
        torch.set_num_threads(1)
        torch.manual_seed(0)
        names = Vocabulary(
            genes=tuple(f"gene{i}" for i in range(setting.genes)),
            contexts=("A", "B"),
            perturbations=("control", "p", "q"),
            batches=(),
            control="control",
            kind="counts",
            target_sum=1e4,
            start_labels=("p", "q"),
        )
        model = ScaleModel(MODELS[setting.model], ComputeConfig(device=Device.CPU, layer_spec=LayerKind.LOCAL), names)
        cells_2BSG = (torch.randn(2, setting.sets, setting.cells, setting.genes) - 1).relu()
        model.gene_mean.copy_(cells_2BSG.mean((0, 1, 2)))
        self.model = model.to(torch.bfloat16 if setting.precision is Precision.BF16 else torch.float32)
        row_B = torch.arange(setting.sets)
        self.batch = TrainingBatch(
            control=cells_2BSG[0],
            perturbed=cells_2BSG[1],
            mask=torch.ones(setting.sets, setting.cells, dtype=torch.bool),
            condition=Condition(
                perturbation=(row_B % 3)[:, None],
                dose=torch.full((setting.sets, 1), torch.nan),
                context=row_B % 2,
                batch=torch.full_like(row_B, -1),
                evidence=0.1 * torch.randn(setting.sets, FEATURES, setting.genes),
            ),
            key=row_B,
        )
        self.weights = [parameter.detach().float().clone().requires_grad_() for parameter in model.parameters()]
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-4)

    def step(self) -> float:
        """Carry out one step and return its loss."""
        loss = self.model(self.batch)["loss"]
        loss.backward()
        with torch.no_grad():
            for weight, parameter in zip(self.weights, self.model.parameters(), strict=True):
                weight.grad = None if parameter.grad is None else parameter.grad.float()
                parameter.grad = None
            torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
            self.optimizer.step()
            for weight, parameter in zip(self.weights, self.model.parameters(), strict=True):
                parameter.copy_(weight)
        return float(loss.detach())

    def measure(self) -> dict[str, float]:
        """Return CPU and wall seconds of a training step, and in float32 the CPU seconds of a prediction."""
        self.step()
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(STEPS):
            self.step()
        trained = time.process_time()
        seconds = {"training": trained - cpu, "training_wall": time.perf_counter() - wall}
        if self.model.gene_mean.dtype == torch.float32:  # as `predict` computes, whatever the training did
            for _ in range(STEPS):
                self.predict()
            seconds["prediction"] = time.process_time() - trained
        return {clock: taken / STEPS for clock, taken in seconds.items()}

    def predict(self) -> torch.Tensor:
        """Predict the batch, log1p [B, S, G]."""
        batch = self.batch
        return self.model.predict(batch.control, batch.mask, batch.condition, batch.key, network_share=1.0)


def run(rounds: int, settings: tuple[Setting, ...] = SETTINGS, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure every trick at every setting, ``rounds`` times in each form, and judge it by the best setting."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in (*(trick.name for trick in TRICKS), MEMORY)}
    for setting in settings:
        for name, forms in (_in_one_process(setting, rounds) | {MEMORY: _memory(setting, rounds)}).items():
            medians = {
                form: {clock: median(one[clock] for one in taken) for clock in taken[0]}
                for form, taken in forms.items()
            }
            pairs = list(zip(forms["plain"], forms["fast"], strict=True))
            gains = {
                clock: median(plain[clock] / fast[clock] for plain, fast in pairs)
                for clock in CLOCKS
                if clock in pairs[0][0]
            }
            found[name].append({"setting": asdict(setting), **medians, "plain_over_fast": gains})
            told = ", ".join(f"{clock} {gain:.3f}" for clock, gain in gains.items())
            report(f"{setting.model} S={setting.cells} {setting.precision}: {told}: {name}")
    best = {name: max(max(result["plain_over_fast"].values()) for result in results) for name, results in found.items()}
    return {
        "machine": machine_facts(),
        "torch": torch.__version__,
        "rounds": rounds,
        "least_gain": GAIN,
        "tricks": [
            {"name": name, "best": best[name], "kept": best[name] >= GAIN, "results": results}
            for name, results in found.items()
        ],
    }


def _in_one_process(setting: Setting, rounds: int) -> dict[str, dict[str, list[dict[str, float]]]]:
    keep_freed_memory()
    trainer = Trainer(setting)
    for _ in range(3):
        trainer.step()
    taken: dict[str, dict[str, list]] = {trick.name: {"plain": [], "fast": []} for trick in TRICKS}
    for turn in range(rounds):
        for trick in TRICKS:
            for form in ("plain", "fast") if turn % 2 else ("fast", "plain"):
                with trick.plainly() if form == "plain" else nullcontext():
                    taken[trick.name][form].append(trainer.measure())
    return taken


def _memory(setting: Setting, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Measure in fresh processes: what the C library does with freed memory cannot be taken back."""
    taken: dict[str, list[dict[str, float]]] = {"plain": [], "fast": []}
    for turn in range(max(rounds // 2, 1)):
        for form in ("plain", "fast") if turn % 2 else ("fast", "plain"):
            with get_context("spawn").Pool(1) as pool:
                taken[form].append(pool.apply(_alone, (setting, form == "fast")))
    return taken


def _alone(setting: Setting, keep: bool) -> dict[str, float]:
    if keep:
        keep_freed_memory()
    trainer = Trainer(setting)
    trainer.step()
    measured = [trainer.measure() for _ in range(3)]
    return {clock: median(one[clock] for one in measured) for clock in measured[0]}
