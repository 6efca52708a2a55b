"""Which conditions train, validate and test: STATE's split files.

A split file is TOML with the sections ``[datasets]`` and ``[training]`` (dataset names), ``[zeroshot]`` (whole contexts
held out) and ``[fewshot."dataset.context"]`` (perturbations held out in one context)::

    [training]
    screen = "train"

    [zeroshot]
    "screen.K562" = "test"

    [fewshot."screen.RPE1"]
    val = ["AARS"]
    test = ["NUP107", "RPUSD4"]

A key is ``<dataset>.<context>``; the prefix is left off where the name before the dot is no dataset of the file, so a
context may hold dots. What is not held out trains.
"""

import hashlib
import json
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bionemo.screens.errors import InputError, choices

if TYPE_CHECKING:
    from bionemo.cellsets.store.cell_store import CellStore

SECTIONS = ("datasets", "training", "zeroshot", "fewshot")
HELD_OUT = ("val", "test")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Held-out conditions.

    Attributes
    ----------
    zeroshot : dict
        Context -> "val" or "test": every cell of the context, controls too, belongs to that part.
    fewshot : dict
        Context -> {"val": labels, "test": labels}: these perturbations are held out in that context; all its other
        cells, controls too, train.
    """

    zeroshot: Mapping[str, str] = field(default_factory=dict)
    fewshot: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    @classmethod
    def from_toml(cls, path: str | Path) -> "Split":
        """Read a split file.

        Parameters
        ----------
        path : path
            The TOML file.

        Raises
        ------
        InputError
            If the file is missing, is no TOML, or holds a section, key or part that is not known.
        """
        path = Path(path)
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"The split file {path} cannot be read ({error.strerror}): name an existing file"
            ) from error
        except ValueError as error:
            raise InputError(f"The split file {path} is not valid TOML ({error}): mend that line") from error
        return _parse(table, str(path))

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> "Split":
        """Rebuild a split from `to_dict`; raises as `from_toml` does."""
        return _parse(table, "the split")

    def to_dict(self) -> dict[str, Any]:
        """Return the split as plain, sorted dicts and lists, fit for JSON; `from_dict` reads it."""
        return {
            "zeroshot": dict(sorted(self.zeroshot.items())),
            "fewshot": {
                context: {part: sorted(labels) for part, labels in sorted(parts.items())}
                for context, parts in sorted(self.fewshot.items())
            },
        }

    @property
    def hash(self) -> str:
        """SHA-256 of what is held out; file layout and dataset names do not change it."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def condition_part(self, context: str, perturbation: str) -> str:
        """Return the part of one condition, "train", "val" or "test"; names are not checked."""
        if context in self.zeroshot:
            return self.zeroshot[context]
        for part, labels in self.fewshot.get(context, {}).items():
            if perturbation in labels:
                return part
        return "train"

    def assign(self, store: "CellStore") -> np.ndarray:
        """Return the part of every run of a store.

        Parameters
        ----------
        store : CellStore
            Its run table, contexts and perturbations are used.

        Returns
        -------
        array of str [n_runs]
            "train", "val" or "test".

        Raises
        ------
        InputError
            If the split names a context the store has not, a perturbation that context has not, or the control label.
        """
        return self.assign_runs(store.runs, store.contexts, store.perturbations, store.control)

    def assign_runs(
        self, runs: np.ndarray, contexts: np.ndarray, perturbations: np.ndarray, control: str
    ) -> np.ndarray:
        """Do what `assign` does from a run table and its categories, where no store exists yet."""
        measured: dict[str, set[str]] = {str(context): set() for context in contexts}
        for run in np.unique(runs[["context", "perturbation"]]):
            measured[str(contexts[run["context"]])].add(str(perturbations[run["perturbation"]]))
        for context in (*self.zeroshot, *self.fewshot):
            if context not in measured:
                dataset, _, rest = context.partition(".")
                if rest in measured:
                    raise InputError(
                        f"The split names the context '{context}', whose prefix '{dataset}' is no dataset of the file: "
                        "put it under [datasets] or [training]"
                    )
                raise InputError(f"The split names the unknown context '{context}': {choices(context, measured)}")
        for context, parts in self.fewshot.items():
            for part, labels in parts.items():
                for label in labels:
                    if label == control:
                        raise InputError(
                            f"The split holds out the control label '{control}' ({part} of context '{context}'): "
                            "controls are every prediction's input, so leave it out of the list"
                        )
                    if label not in measured[context]:
                        raise InputError(
                            f"The split holds out the perturbation '{label}' that context '{context}' does not have: "
                            f"{choices(label, sorted(measured[context] - {control}))}"
                        )
        parts = [
            self.condition_part(str(contexts[run["context"]]), str(perturbations[run["perturbation"]])) for run in runs
        ]
        return np.array(parts, dtype="<U5")


def _parse(table: Mapping[str, Any], source: str) -> Split:
    for section, value in table.items():
        if section not in SECTIONS:
            raise InputError(f"The section '{section}' of {source} is not known: {choices(section, SECTIONS)}")
        if not isinstance(value, Mapping):
            raise InputError(f"'{section}' of {source} must be a section, [{section}], not the value {value!r}")
    for dataset, value in table.get("training", {}).items():
        if value != "train":
            raise InputError(f'[training] {dataset} of {source} must be "train", not {value!r}')
    datasets = sorted({*table.get("datasets", {}), *table.get("training", {})}, key=len, reverse=True)

    def context_of(key: str) -> str:
        return next((key[len(name) + 1 :] for name in datasets if key.startswith(f"{name}.")), key)

    zeroshot: dict[str, str] = {}
    for key, part in table.get("zeroshot", {}).items():
        context = context_of(key)
        if part not in HELD_OUT:
            raise InputError(f'[zeroshot] "{key}" of {source} must be "val" or "test", not {part!r}')
        if context in zeroshot:
            raise InputError(f"[zeroshot] of {source} names the context '{context}' twice: keep one of the lines")
        zeroshot[context] = part
    fewshot: dict[str, dict[str, tuple[str, ...]]] = {}
    for key, parts in table.get("fewshot", {}).items():
        context = context_of(key)
        if context in zeroshot or context in fewshot:
            raise InputError(f"{source} holds out the context '{context}' twice: keep one of its entries")
        if not isinstance(parts, Mapping):
            raise InputError(f'[fewshot."{key}"] of {source} must be a section with val and test lists, not {parts!r}')
        fewshot[context] = _held_out_labels(key, parts, source)
    return Split(zeroshot=zeroshot, fewshot=fewshot)


def _held_out_labels(key: str, parts: Mapping[str, Any], source: str) -> dict[str, tuple[str, ...]]:
    labels: dict[str, tuple[str, ...]] = {}
    for part, listed in parts.items():
        if part not in HELD_OUT:
            raise InputError(f"'{part}' in [fewshot.\"{key}\"] of {source} is not known: {choices(part, HELD_OUT)}")
        if not isinstance(listed, list | tuple) or not all(isinstance(label, str) for label in listed):
            raise InputError(f"'{part}' in [fewshot.\"{key}\"] of {source} must be a list of labels, not {listed!r}")
        labels[part] = tuple(dict.fromkeys(listed))
    both = [label for label in labels.get("val", ()) if label in labels.get("test", ())]
    if both:
        # STATE allows the overlap; here parts are disjoint, and a test condition must not choose a checkpoint.
        warnings.warn(
            f'[fewshot."{key}"] of {source} lists {both} under val and test: they count as test only', stacklevel=4
        )
        labels["val"] = tuple(label for label in labels["val"] if label not in both)
    return labels
