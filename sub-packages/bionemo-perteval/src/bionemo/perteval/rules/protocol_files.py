"""Protocols as TOML files: the public benchmarks in `protocols/`, and a user's own in the same layout."""

from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from bionemo.perteval.metrics.registry import METRICS
from bionemo.perteval.rules.protocol import HVG_SOURCES, HeldOut, Protocol, Published
from bionemo.screens.errors import InputError, nearest
from bionemo.screens.split import Split
from bionemo.screens.toml_file import read_toml

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
_HELD_OUT: dict[str, type] = {"column": str, "labels": list, "val": int, "test": int, "listed_in": str}
_PUBLISHED: dict[str, type] = {"model": str, "source": str, "scores": dict, "not_comparable": list}


def protocol_names() -> list[str]:
    """Return the names of the benchmarks."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))


def find_protocol(name_or_file: str | Path) -> Protocol:
    """Return a benchmark's protocol by its name, or the one in a TOML file.

    Raises
    ------
    InputError
        Where there is neither, or the file holds what a protocol does not have.
    """
    text = str(name_or_file)
    if text in protocol_names():
        return _parse(read_toml(_folder() / f"{text}.toml", "protocol"), text, f"protocol {text!r}")
    if not text.endswith(".toml"):
        raise InputError(
            f"There is no protocol {text!r}{nearest(text, protocol_names())}; name one, or a file that ends in .toml."
        )
    return _parse(read_toml(text, "protocol"), Path(text).stem, f"The protocol file {text}")


def _folder() -> Path:
    return Path(str(files("bionemo.perteval.rules"))) / "protocols"


def _parse(table: dict[str, Any], name: str, source: str) -> Protocol:
    _check(table, _KEYS, source, required=_REQUIRED)
    plain = {key: value for key, value in table.items() if key not in {"held_out", "published", "zeroshot", "fewshot"}}
    for key, known in (("hvg_from", HVG_SOURCES), ("aggregate", ("context",))):
        if key in plain and plain[key] not in known:
            raise InputError(f"{source} has {key} = {plain[key]!r}, but it takes {' or '.join(known)}.")
    for key in ("target_sum", "n_genes"):
        if key in plain and not plain[key] > 0:
            raise InputError(f"{source} has {key} = {plain[key]}, but it has to be above 0.")
    if "target_sum" in plain:
        plain["target_sum"] = float(plain["target_sum"])
    sections = {key: table[key] for key in ("zeroshot", "fewshot") if key in table}
    return Protocol(
        **{"title": name, **plain},
        name=name,
        held_out=_held_out(table["held_out"], table["context_key"], source) if "held_out" in table else None,
        split=Split.from_dict(sections, source) if sections else None,
        published=tuple(_published(row, source) for row in table.get("published", ())),
    )


def _held_out(table: dict[str, Any], context_key: str, source: str) -> HeldOut:
    where = f"[held_out] of {source}"
    _check(table, _HELD_OUT, where, required=("column", "labels"))
    if table["column"] not in context_key.split("+"):
        raise InputError(f"{where} has column = {table['column']!r}, which is not in context_key = {context_key!r}.")
    return HeldOut(**{**table, "labels": tuple(map(str, table["labels"]))})


def _published(table: Any, source: str) -> Published:
    where = f"[[published]] of {source}"
    _check(table, _PUBLISHED, where, required=("model", "source", "scores"))
    known = [metric.name for metric in METRICS]
    for metric in (*table["scores"], *table.get("not_comparable", ())):
        if metric not in known:
            raise InputError(f"{where} names the metric {metric!r}{nearest(metric, known)}.")
    return Published(**{**table, "not_comparable": tuple(table.get("not_comparable", ()))})


def _check(table: Any, known: Mapping[str, type], where: str, *, required: Collection[str]) -> None:
    """Refuse keys that are not known, values of another type, and keys that are missing."""
    if not isinstance(table, dict):
        raise InputError(f"{where} is {table!r}, but it has to be a section.")
    for key, value in table.items():
        if key not in known:
            raise InputError(f"{where} has the key {key!r}, which is not known{nearest(key, known)}.")
        wanted = (int, float) if known[key] is float else known[key]
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise InputError(f"{where} has {key} = {value!r}, but it has to be of type {known[key].__name__}.")
    for key in required:
        if key not in table:
            raise InputError(f"{where} does not say {key}; add it.")
