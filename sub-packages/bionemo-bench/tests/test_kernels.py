"""Forms that were written for speed: they compute what the plain forms do, and are kept only where they gain."""

import json
from pathlib import Path

import pytest

from bionemo.bench.kernels.benchmark import MEMORY, Setting, Trainer
from bionemo.bench.kernels.tricks import GAIN, TRICKS
from bionemo.scale.config.compute import Precision

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "kernels-cpu.json"


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(Setting(model="scale_tiny", precision=Precision.FP32, cells=16, sets=3, genes=100))


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.name)
def test_both_forms_have_one_loss_and_one_gradient(trainer, trick):
    def pass_through() -> tuple[float, list]:
        trainer.model.zero_grad()
        loss = trainer.model(trainer.batch)["loss"]
        loss.backward()
        # Through the mean of a set DeepSets would reach the cells that are encoded without a gradient.
        decoder = [parameter.grad.norm().item() for parameter in trainer.model.expression_decoder.parameters()]
        return loss.item(), decoder

    loss, gradient = pass_through()
    with trick.plainly():
        other_loss, other_gradient = pass_through()
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert other_gradient == pytest.approx(gradient, rel=1e-4)


def test_the_code_has_the_tricks_that_the_recorded_measurement_keeps():
    recorded = json.loads(RESULTS.read_text("utf-8"))["tricks"]
    kept = {trick["name"] for trick in recorded if trick["best"] >= GAIN}
    assert kept == {*(trick.name for trick in TRICKS), MEMORY}
