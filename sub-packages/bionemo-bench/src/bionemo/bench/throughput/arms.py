"""Name what is measured: ways of training and ways of predicting, and where STATE runs."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bionemo.bench.harness.environments import Environment

STATE, SCALE = "state", "scale"
TRAINING, INFERENCE = "training", "inference"
SHIPPED_WORKERS = 12
_STATE_PACKAGES = ("torch==2.13.0", "arc-state==0.11.1", "cell-load==0.10.4")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An `Arm` is one way of training or predicting."""

    name: str
    """Its name on the command line and in JSON."""
    label: str
    """Its name in the table."""
    task: str
    """`TRAINING` or `INFERENCE`."""
    system: str
    """`STATE` or `SCALE`: whose training or prediction runs."""
    precision: str = "fp32"
    """`fp32` or `bf16`."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the driver is told."""
    as_is: bool = False
    """Whether it is STATE with nothing of ours in it."""


def state_environment() -> Environment:
    """Return STATE's environment, which experiments/state_baseline makes and uses too; STATE_VENV names another."""
    home = os.environ.get("STATE_VENV") or "~/.cache/bionemo-scale/state-0.11.1"
    return Environment(name="STATE", requirements=_STATE_PACKAGES, home=Path(home).expanduser().absolute())


def training_arms(spare_cores: int) -> list[Arm]:
    """Return the ways of training, in the order in which one changes into the next.

    Parameters
    ----------
    spare_cores : int
        Cores beside those that compute: where STATE is tuned it has a worker process on each, up to what it ships with.
    """
    workers = min(spare_cores, SHIPPED_WORKERS)

    def state(name: str, label: str, *, precision: str = "fp32", as_is: bool = True, **options: Any) -> Arm:
        options = {"consecutive": True, "workers": workers, "hold": True, "loader": False, "blocks": False} | options
        return Arm(
            name=name,
            label=f"STATE, {label}",
            task=TRAINING,
            system=STATE,
            precision=precision,
            options=options,
            as_is=as_is,
        )

    def scale(name: str, label: str, precision: str) -> Arm:
        return Arm(name=name, label=label, task=TRAINING, system=SCALE, precision=precision)

    ours: dict[str, Any] = {"as_is": False, "workers": 0, "loader": True}
    return [
        state("state", "as shipped", consecutive=False, workers=SHIPPED_WORKERS, hold=False),
        state("state-sorted", "sorted, consecutive", hold=False),
        state("state-held", "sorted, consecutive, held open"),
        state("state-bf16", "sorted, consecutive, held open, bf16", precision="bf16"),
        state("loader", "our loader", **ours),
        state("blocks", "our loader and blocks", blocks=True, **ours),
        state("precision", "our loader and blocks, bf16", blocks=True, precision="bf16", **ours),
        scale("scale", "SCALE", "fp32"),
        scale("scale-bf16", "SCALE, bf16", "bf16"),
    ]


def inference_arms(sets_per_batch: int) -> list[Arm]:
    """Return the ways of predicting; STATE's commands take one set at a time and cannot be told otherwise."""

    def arm(name: str, label: str, system: str, **options: Any) -> Arm:
        return Arm(name=name, label=label, task=INFERENCE, system=system, options=options, as_is=system == STATE)

    return [
        arm("tx-predict", "STATE, tx predict", STATE, command="predict"),
        arm("tx-infer", "STATE, tx infer", STATE, command="infer"),
        arm("predict-1", "SCALE, 1 set at a time", SCALE, sets_at_once=1),
        arm("predict", f"SCALE, {sets_per_batch} sets at a time", SCALE, sets_at_once=sets_per_batch),
    ]
