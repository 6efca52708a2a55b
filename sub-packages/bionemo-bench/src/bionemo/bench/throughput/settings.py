"""Say what a throughput benchmark measures, and on what."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from bionemo.bench.harness.gpu import gpu_facts
from bionemo.bench.harness.machine import machine_facts
from bionemo.bench.harness.screen import CONTROL_SHARE, ScreenSize
from bionemo.bench.throughput.arms import INFERENCE, TRAINING, Arm, inference_arms, training_arms
from bionemo.bench.throughput.sizes import SIZES, Size
from bionemo.screens.errors import InputError, choices


@dataclass(frozen=True, kw_only=True)
class ThroughputBenchmark:
    """A `ThroughputBenchmark` says what is measured, and on what."""

    size: str
    """Name of one of `SIZES`."""
    screen: ScreenSize
    device: str = "cpu"
    """`cpu` or `cuda`."""
    gpus: int = 1
    """Processes that share a training; above 1 for CUDA only."""
    steps: int = 0
    """Steps of one measurement; 0 for what the size says."""
    repeats: int = 3
    """Measurements of each arm, at least 3."""
    tasks: tuple[str, ...] = (TRAINING, INFERENCE)
    arms: tuple[str, ...] = ()
    """Names of the arms to measure; all where empty."""
    threads: int = 1
    """Threads that each process computes with."""
    convert_again: bool = False
    """Make and time the formats anew where they are in the cache."""

    def __post_init__(self):
        if self.size not in SIZES:
            raise InputError(f"--size {self.size} is none of {', '.join(SIZES)}.")
        for name, least in (("repeats", 3), ("threads", 1), ("gpus", 1), ("steps", 0)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"--{name} {value} must be at least {least}.")
        for task in self.tasks:
            if task not in (TRAINING, INFERENCE):
                raise InputError(f"--task {task} is neither {TRAINING} nor {INFERENCE}.")
        if self.device not in ("cpu", "cuda"):
            raise InputError(f"--device {self.device} is neither cpu nor cuda.")
        if self.gpus > 1 and self.device == "cpu":
            raise InputError(f"--gpus {self.gpus} needs --device cuda.")
        if self.screen.contexts < 2:
            raise InputError("--contexts 1 leaves no other to learn held-out perturbations in: ask for at least 2.")
        # cell-load's consecutive mode takes the controls of a set from as many that lie together.
        controls = CONTROL_SHARE * self.screen.cells / self.screen.contexts
        if controls < self.sizes.set_size:
            raise InputError(
                f"--cells {self.screen.cells} leaves about {controls:.0f} control cells for a context, fewer than the "
                f"{self.sizes.set_size} of a set: ask for more, or for fewer contexts."
            )
        cells = self.screen.cells / self.screen.contexts / self.screen.perturbations
        if cells < self.sizes.set_size:
            raise InputError(
                f"--cells {self.screen.cells} leaves about {cells:.0f} for a condition, fewer than the "
                f"{self.sizes.set_size} of a set: ask for more, or for fewer perturbations."
            )

    @property
    def sizes(self) -> Size:
        """Return the sizes of the models."""
        return SIZES[self.size]

    @property
    def window(self) -> int:
        """Return the steps of one measurement."""
        return self.steps or self.sizes.steps[self.device == "cuda"]

    def chosen_arms(self, cores: int) -> list[Arm]:
        """Return the arms to measure on a machine of so many cores; an InputError for a name that is none of theirs."""
        every = [*training_arms(max(0, cores - self.threads)), *inference_arms(self.sizes.sets_per_batch)]
        known = {arm.name: arm for arm in every if arm.task in self.tasks}
        for name in self.arms:
            if name not in known:
                raise InputError(f"--arm {name}: {choices(name, known)}")
        return [arm for arm in known.values() if not self.arms or arm.name in self.arms]


def settings_of(benchmark: ThroughputBenchmark) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the machine and the settings, as they are written to JSON.

    Raises
    ------
    InputError
        If there is no such device.
    """
    machine = machine_facts() | gpu_facts(benchmark.gpus if benchmark.device == "cuda" else 0)
    # As they are read back from JSON, so that they can be compared with what was.
    settings = json.loads(
        json.dumps(asdict(benchmark) | {"models": asdict(benchmark.sizes), "steps": benchmark.window})
    )
    return machine, settings
