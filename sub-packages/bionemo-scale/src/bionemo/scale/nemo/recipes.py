"""Make the recipes known to nemo-run: a factory for each task and name."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from enum import Enum
from typing import Any

import nemo_run as run

from bionemo.scale.config.overrides import overridden
from bionemo.scale.config.presets import ABOUT, FINETUNING, PRETRAINING, Recipe
from bionemo.scale.finetuning.finetune import finetune
from bionemo.scale.training.pretrain import pretrain
from bionemo.scale.training.throughput import SimulatedScreen, throughput
from bionemo.screens.errors import InputError

TASKS: dict[Callable, dict[str, Recipe]] = {
    pretrain: PRETRAINING,
    finetune: FINETUNING,
    throughput: {name: {**recipe, "screen": SimulatedScreen()} for name, recipe in PRETRAINING.items()},
}
"""Entry points and the recipes of each."""


def configured(task: Callable, recipe: Recipe, overrides: Sequence[str]) -> run.Partial:
    """Apply ``key=value`` to a recipe of one of `TASKS`, and make of it what nemo-run shows, writes down and starts.

    The keys are settings (``training.max_steps=100``) and the task's further arguments (``store=...``). An InputError
    says that there is no such setting, that a value is wrong, or that an argument is missing.
    """
    arguments = {name: given for name, given in inspect.signature(task).parameters.items() if name not in recipe}
    chosen = overridden(recipe, overrides, {name: given.annotation for name, given in arguments.items()})
    for name, given in arguments.items():
        if given.default is given.empty and name not in chosen:
            raise InputError(f"{name} is not given: add {name}=... to the command.")
    described: dict[str, Any] = {name: _described(v) if name in recipe else v for name, v in chosen.items()}
    return run.Partial(task, **described)


def _described(config: Any) -> run.Config:
    """Describe a configuration by the fields that are not as they are by default."""
    given = {f.name: getattr(config, f.name) for f in fields(config) if getattr(config, f.name) != f.default}
    return run.Config(type(config), **{name: v.value if isinstance(v, Enum) else v for name, v in given.items()})


def _register(task: Callable, name: str, recipe: Recipe) -> None:
    def factory() -> run.Partial:
        given: dict[str, Any] = {section: _described(config) for section, config in recipe.items()}
        return run.Partial(task, **given)

    factory.__name__, factory.__doc__ = name, ABOUT[name]
    run.cli.factory(target=task, name=name)(factory)


for _task, _recipes in TASKS.items():
    for _name, _recipe in _recipes.items():
        _register(_task, _name, _recipe)
