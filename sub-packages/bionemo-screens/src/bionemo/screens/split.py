"""A `Split` says which conditions train, validate and test; its files have the layout of STATE's.

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
context may hold dots. The cells of all datasets are put together, so a context has one entry at most. What is not held
out trains. STATE lets a label stand under ``val`` and ``test``; here it counts as ``test`` only, because a condition
that is tested must not choose a checkpoint.
"""

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bionemo.screens.digests import digest
from bionemo.screens.errors import InputError, choices
from bionemo.screens.labels import Condition
from bionemo.screens.toml_file import read_toml

SECTIONS = ("datasets", "training", "zeroshot", "fewshot")
HELD_OUT = ("val", "test")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Split:
    """A `Split` holds the held-out conditions of a screen."""

    zeroshot: Mapping[str, str] = field(default_factory=dict)
    """Context -> ``"val"`` or ``"test"``: every cell of the context, controls too, belongs to that part."""
    fewshot: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    """Context -> ``"val"`` and ``"test"`` -> the perturbations that are held out in that context; all its other cells,
    controls too, train."""

    @classmethod
    def from_toml(cls, path: str | Path) -> "Split":
        """Read a split file.

        Raises
        ------
        InputError
            The file is missing, is not TOML, holds a section, key or part that is not known, or has two entries for one
            context.
        """
        return cls.from_dict(read_toml(path, "split"), str(path))

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], source: str = "the split") -> "Split":
        """Build a split from the sections of a file or from `to_dict`; `source` is what messages call it.

        Raises
        ------
        InputError
            As `from_toml`.
        """
        for section, value in table.items():
            if section not in SECTIONS:
                raise InputError(f"The section '{section}' of {source} is not known: {choices(section, SECTIONS)}")
            if not isinstance(value, Mapping):
                raise InputError(f"'{section}' of {source} must be a section, [{section}], not the value {value!r}")
        for dataset, value in table.get("training", {}).items():
            if value != "train":
                raise InputError(f'[training] {dataset} of {source} must be "train", not {value!r}')
        zeroshot, fewshot = table.get("zeroshot", {}), table.get("fewshot", {})
        contexts = _contexts([*zeroshot, *fewshot], {*table.get("datasets", {}), *table.get("training", {})}, source)
        for key, part in zeroshot.items():
            if part not in HELD_OUT:
                raise InputError(f'[zeroshot] "{key}" of {source} must be "val" or "test", not {part!r}')
        held_out = [_held_out_labels(f'[fewshot."{key}"] of {source}', parts) for key, parts in fewshot.items()]
        return cls(
            zeroshot=dict(zip(contexts, zeroshot.values(), strict=False)),
            fewshot=dict(zip(contexts[len(zeroshot) :], held_out, strict=True)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the split as plain, sorted dicts and lists, fit for JSON; `from_dict` reads it."""
        return {
            "zeroshot": dict(sorted(self.zeroshot.items())),
            "fewshot": {
                context: {part: sorted(labels) for part, labels in sorted(parts.items()) if labels}
                for context, parts in sorted(self.fewshot.items())
            },
        }

    def to_toml(self, dataset: str, comment: str) -> str:
        """Return the text of a split file for one dataset, with a comment of one line at its head."""
        lines = [f"# {comment}", "[training]", f'{_quoted(dataset)} = "train"']
        table = self.to_dict()
        if table["zeroshot"]:
            lines += ["", "[zeroshot]"]
        lines += [f"{_quoted(f'{dataset}.{context}')} = {_quoted(part)}" for context, part in table["zeroshot"].items()]
        for context, parts in table["fewshot"].items():
            lines += ["", f"[fewshot.{_quoted(f'{dataset}.{context}')}]"]
            for part, labels in reversed(parts.items()):
                lines += [f"{part} = [", *(f"    {_quoted(label)}," for label in labels), "]"]
        return "\n".join(lines) + "\n"

    @property
    def hash(self) -> str:
        """Return the SHA-256 of what is held out; file layout and dataset names do not change it."""
        return digest(self.to_dict())

    def part(self, context: str, perturbation: str) -> str:
        """Return the part of one condition, ``"train"``, ``"val"`` or ``"test"``; names are not checked."""
        if context in self.zeroshot:
            return self.zeroshot[context]
        lists = self.fewshot.get(context, {})
        return next((part for part in HELD_OUT if perturbation in lists.get(part, ())), "train")

    def parts(self, contexts: Iterable[str], perturbations: Iterable[str], control: str) -> np.ndarray:
        """Return the part of every row of a table of conditions, ``"train"``, ``"val"`` or ``"test"`` [n].

        `contexts` and `perturbations` are the labels of each row [n]; together all conditions of the screen.

        Raises
        ------
        InputError
            The split names a context or a perturbation that the table does not have, or the control label.
        """
        rows = [(str(context), str(label)) for context, label in zip(contexts, perturbations, strict=True)]
        self._check_names(rows, control)
        return np.array([self.part(*row) for row in rows], dtype="<U5")

    def held_out(self, observed: Collection[Condition], control: str) -> set[Condition]:
        """Return the observed conditions that do not train, without the controls.

        Raises
        ------
        InputError
            As `parts`.
        """
        self._check_names(observed, control)
        return {(c, p) for c, p in observed if p != control and self.part(c, p) != "train"}

    def _check_names(self, observed: Collection[Condition], control: str) -> None:
        measured: dict[str, set[str]] = {}
        for context, label in observed:
            measured.setdefault(context, set()).add(label)
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
            for label in sorted(frozenset().union(*parts.values())):
                if label == control:
                    raise InputError(
                        f"The split holds out the control label '{control}' in context '{context}': controls are every "
                        "prediction's input, so leave it out of the list"
                    )
                if label not in measured[context]:
                    raise InputError(
                        f"The split holds out the perturbation '{label}' that context '{context}' does not have: "
                        f"{choices(label, sorted(measured[context] - {control}))}"
                    )


def _contexts(keys: list[str], datasets: set[str], source: str) -> list[str]:
    """Return the context of each key, without its dataset; refuse two keys of one context."""
    longest_first = sorted(datasets, key=len, reverse=True)
    key_of: dict[str, str] = {}
    contexts = []
    for key in keys:
        context = next((key[len(name) + 1 :] for name in longest_first if key.startswith(f"{name}.")), key)
        if context in key_of:
            raise InputError(
                f'{source} holds out the context \'{context}\' twice, as "{key_of[context]}" and "{key}": '
                "put all that it holds out into one entry"
            )
        key_of[context] = key
        contexts.append(context)
    return contexts


def _held_out_labels(where: str, parts: Any) -> dict[str, frozenset[str]]:
    if not isinstance(parts, Mapping):
        raise InputError(f"{where} must be a section with val and test lists, not {parts!r}")
    for part, labels in parts.items():
        if part not in HELD_OUT:
            raise InputError(f"'{part}' in {where} is not known: {choices(part, HELD_OUT)}")
        if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
            raise InputError(f"'{part}' in {where} must be a list of labels, not {labels!r}")
    lists = {part: frozenset(labels) for part, labels in parts.items()}
    both = lists.get("val", frozenset()) & lists.get("test", frozenset())
    if both:
        _log.warning("%s lists %s under val and test: they count as test only.", where, sorted(both))
        lists["val"] -= both
    return lists


def _quoted(text: str) -> str:
    """Return a TOML string: JSON's escapes are among TOML's."""
    return json.dumps(text, ensure_ascii=False)
