"""Throughput recipes: some steps of the pretraining recipe of that name, timed."""

from collections.abc import Callable

import nemo_run as run

from bionemo.scale.nemo.pretrain import RECIPES
from bionemo.scale.training.timing import SimulatedScreen, throughput


def _timed(size: str) -> Callable[[], run.Partial]:
    def recipe() -> run.Partial:
        trained = RECIPES[size]()
        screen = run.Config(SimulatedScreen)
        return run.Partial(throughput, model=trained.model, training=trained.training, screen=screen)

    recipe.__name__ = size
    recipe.__doc__ = RECIPES[size].__doc__
    return run.cli.factory(target=throughput, name=size)(recipe)


THROUGHPUTS = {size: _timed(size) for size in RECIPES}
