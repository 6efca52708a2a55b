"""A `Protocol` holds the rules of a benchmark; `protocols/` has the public ones, and a user's own have the same layout.

Preparing takes the columns and the control label from it, ``bionemo-scale split`` what it holds out, and the evaluation
all of it.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from bionemo.screens.errors import InputError, choices, name_list
from bionemo.screens.labels import Condition
from bionemo.screens.split import Split
from bionemo.screens.toml_file import read_toml

HVG_SOURCES = ("train", "all", "given")
"""Cells that chose the genes: the training cells, all cells, or none because the panel came with the data."""

_KEYS: dict[str, type] = {
    "title": str,
    "perturbation_key": str,
    "control": str,
    "context_key": str,
    "batch_key": str,
    "target_sum": float,
    "n_genes": int,
    "hvg_from": str,
    "aggregate": str,
    "held_out": dict,
    "published": list,
    "zeroshot": dict,
    "fewshot": dict,
}
_REQUIRED = ("perturbation_key", "control", "context_key", "hvg_from")
_HELD_OUT: dict[str, type] = {"column": str, "labels": list, "val": list, "test": list, "listed_in": str}
_PUBLISHED: dict[str, type] = {"model": str, "source": str, "scores": dict, "not_comparable": list}


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """`HeldOut` says what a benchmark keeps from the training."""

    column: str
    """The column of the context key whose labels are held out."""
    labels: tuple[str, ...]
    """These labels are held out. Capitals do not count, because the public files differ in them."""
    val: frozenset[str] = frozenset()
    """Perturbations that every held-out context keeps for validation; empty where a split file has to list them."""
    test: frozenset[str] = frozenset()
    """The same for the test."""
    listed_in: str = ""
    """Where these names were published."""

    @property
    def listed(self) -> frozenset[str]:
        """Return all held-out perturbations; none where a split file has to list them."""
        return self.val | self.test

    def absent(self, contexts: Collection[str]) -> list[str]:
        """Return the labels that none of the contexts has."""
        return [label for label in self.labels if not any(_has(context, label) for context in contexts)]


@dataclass(frozen=True, kw_only=True)
class Published:
    """`Published` holds scores that a paper printed for a protocol."""

    model: str
    """Whose scores."""
    source: str
    """Where they stand."""
    scores: Mapping[str, float]
    """Name of a metric -> score."""
    not_comparable: tuple[str, ...] = ()
    """Metrics that depend on what the paper does not state."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A `Protocol` holds the rules of a benchmark."""

    name: str
    """Name of its file without the ending."""
    title: str
    """What people call it."""
    perturbation_key: str
    """An obs column; a key ``A+B`` joins two columns."""
    control: str
    """Label of the control cells."""
    context_key: str
    batch_key: str | None = None
    """This and `context_key` are obs columns."""
    target_sum: float | None = None
    """Counts per cell before log1p; None where the data are normalised already."""
    n_genes: int | None = None
    """How many genes."""
    hvg_from: str = "train"
    """Which of `HVG_SOURCES` chose them."""
    aggregate: str = "context"
    """What means go over; there is only ``"context"``: perturbations inside a context, then contexts."""
    held_out: HeldOut | None = None
    """What must not train; None where the split alone says it."""
    split: Split | None = None
    """The held-out conditions, where the protocol lists them itself."""
    published: tuple[Published, ...] = ()
    """Scores to print beside."""

    @property
    def hash(self) -> str:
        """Return the SHA-256 of the rules; names, sources, published scores and layout of the file do not count."""
        rules = {key: value for key, value in vars(self).items() if key not in {"name", "title", "published"}}
        rule = self.held_out
        rules["held_out"] = rule and [rule.column, sorted(rule.labels), sorted(rule.val), sorted(rule.test)]
        rules["split"] = None if self.split is None else self.split.to_dict()
        canonical = json.dumps(rules, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def holds_out(self, context: str) -> bool:
        """Say whether a context is one of the held-out ones."""
        return self.held_out is None or any(_has(context, label) for label in self.held_out.labels)

    def split_of(self, observed: Collection[Condition]) -> Split | None:
        """Return what the protocol holds out of a screen; None where it does not list the perturbations.

        A context that lacks some of the listed perturbations holds out those that it has. `observed` has the conditions
        of all cells; the contexts of the split are as it writes them.
        """
        rule = self.held_out
        if self.split is not None or rule is None or not rule.listed:
            return self.split
        fewshot: dict[str, dict[str, frozenset[str]]] = {}
        for context in sorted({context for context, _ in observed if self.holds_out(context)}):
            measured = {label for of, label in observed if of == context}
            if measured & rule.listed:
                fewshot[context] = {"val": rule.val & measured, "test": rule.test & measured}
        return Split(fewshot=fewshot)


def protocol_names() -> list[str]:
    """Return the names of the public benchmarks."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))


def find_protocol(name_or_file: str | Path) -> Protocol:
    """Return a benchmark's protocol by its name, or the one in a TOML file.

    Raises
    ------
    InputError
        There is neither, or the file holds what a protocol does not have.
    """
    text = str(name_or_file)
    if text in protocol_names():
        return _parse(read_toml(_folder() / f"{text}.toml", "protocol"), text, f"protocol '{text}'")
    if not text.endswith(".toml"):
        raise InputError(
            f"There is no protocol '{text}': {choices(text, protocol_names())}, or name a file that ends in .toml"
        )
    return _parse(read_toml(text, "protocol"), Path(text).stem, f"The protocol file {text}")


def _folder() -> Path:
    return Path(str(files("bionemo.screens"))) / "protocols"


def _has(context: str, label: str) -> bool:
    """Say whether a context, or a context joined of several columns by plus signs, has a label."""
    # Labels may hold a plus themselves (CD14+ monocytes), so a joined context cannot be cut apart.
    return f"+{label}+".casefold() in f"+{context}+".casefold()


def _parse(table: dict[str, Any], name: str, source: str) -> Protocol:
    _check(table, _KEYS, source, required=_REQUIRED)
    plain = {key: value for key, value in table.items() if key not in {"held_out", "published", "zeroshot", "fewshot"}}
    for key, known in (("hvg_from", HVG_SOURCES), ("aggregate", ("context",))):
        if key in plain and plain[key] not in known:
            raise InputError(f"{source} has {key} = {plain[key]!r}: use {' or '.join(known)}")
    for key in ("target_sum", "n_genes"):
        if key in plain and not plain[key] > 0:
            raise InputError(f"{source} has {key} = {plain[key]}: it must be above 0")
    if "target_sum" in plain:
        plain["target_sum"] = float(plain["target_sum"])
    sections = {key: table[key] for key in ("zeroshot", "fewshot") if key in table}
    held_out = _held_out(table["held_out"], table["context_key"], source) if "held_out" in table else None
    if sections and held_out and held_out.listed:
        raise InputError(
            f"{source} lists perturbations under [held_out] and [{next(iter(sections))}]: keep one of them"
        )
    return Protocol(
        **{"title": name, **plain},
        name=name,
        held_out=held_out,
        split=Split.from_dict(sections, source) if sections else None,
        published=tuple(_published(row, f"[[published]] of {source}") for row in table.get("published", ())),
    )


def _held_out(table: Any, context_key: str, source: str) -> HeldOut:
    where = f"[held_out] of {source}"
    _check(table, _HELD_OUT, where, required=("column", "labels"))
    columns = context_key.split("+")
    if table["column"] not in columns:
        raise InputError(f"{where} has column = {table['column']!r}, but context_key = {context_key!r}: name one of it")
    lists = {part: frozenset(map(str, table.get(part, ()))) for part in ("val", "test")}
    both = lists["val"] & lists["test"]
    if both:
        raise InputError(f"{where} lists {name_list(sorted(both))} under val and test: keep each in one of them")
    return HeldOut(**{**table, **lists, "labels": tuple(map(str, table["labels"]))})


def _published(table: Any, where: str) -> Published:
    _check(table, _PUBLISHED, where, required=("model", "source", "scores"))
    return Published(**{**table, "not_comparable": tuple(table.get("not_comparable", ()))})


def _check(table: Any, known: Mapping[str, type], where: str, *, required: Collection[str]) -> None:
    """Refuse keys that are not known, values of another type, and keys that are missing."""
    if not isinstance(table, dict):
        raise InputError(f"{where} must be a section, not {table!r}")
    for key, value in table.items():
        if key not in known:
            raise InputError(f"{where} has the key '{key}', which is not known: {choices(key, known)}")
        wanted = (int, float) if known[key] is float else known[key]
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise InputError(f"{where} has {key} = {value!r}: give a value of type {known[key].__name__}")
    for key in required:
        if key not in table:
            raise InputError(f"{where} does not say {key}: add it")
