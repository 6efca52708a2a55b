"""Throughput recipes, one a model size: some steps of the training recipe of that name, timed."""

import nemo_run as run

from bionemo.scale.recipes import pretrain
from bionemo.scale.training.throughput import SimulatedScreen, throughput


@run.cli.factory(target=throughput, name="scale_tiny")
def scale_tiny() -> run.Partial:
    """The smallest model."""
    return _timed(pretrain.scale_tiny())


@run.cli.factory(target=throughput, name="scale_small")
def scale_small() -> run.Partial:
    """The model for a screen of thousands of cells."""
    return _timed(pretrain.scale_small())


@run.cli.factory(target=throughput, name="scale_184m")
def scale_184m() -> run.Partial:
    """The smaller published size."""
    return _timed(pretrain.scale_184m())


@run.cli.factory(target=throughput, name="scale_280m")
def scale_280m() -> run.Partial:
    """The larger published size."""
    return _timed(pretrain.scale_280m())


def _timed(trained: run.Partial) -> run.Partial:
    return run.Partial(throughput, model=trained.model, training=trained.training, screen=run.Config(SimulatedScreen))


THROUGHPUTS = {recipe.__name__: recipe for recipe in (scale_tiny, scale_small, scale_184m, scale_280m)}
