"""Hold an evaluation to a protocol: its keys, its held-out conditions, a training that saw none of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bionemo.perteval.inputs.alignment import hold_out, training_notes
from bionemo.perteval.inputs.keys import Keys
from bionemo.perteval.inputs.reading import CellFile
from bionemo.perteval.inputs.screen import Screen
from bionemo.perteval.metrics.registry import METRICS
from bionemo.perteval.rules.departures import departures, gene_departures
from bionemo.perteval.rules.leakage import TrainingRecord, check_leakage
from bionemo.screens.errors import InputError, choices
from bionemo.screens.labels import Condition
from bionemo.screens.protocol import Protocol, Published, find_protocol
from bionemo.screens.split import Split

_FLAGS = ("perturbation_key", "context_key", "control", "target_sum")

TrainedOn = Collection[Condition] | Mapping[str, Collection[Condition]]
"""Conditions that trained the models of all predictions, or prediction -> those of its model."""

HvgFrom = str | Mapping[str, str]
"""Which cells chose the genes of all predictions, or prediction -> which chose its genes."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A `Held` is what a `Ruleset` leaves of an evaluation that keeps it."""

    screen: Screen
    """The screen whose baselines use no held-out condition."""
    held_out: set[Condition]
    """Every held-out condition, the controls apart."""
    hvg_from: dict[str, str | None]
    """File -> which cells chose its genes; None where nobody said."""
    notes: list[str]
    """What could not be checked, was seen in part, or is missing."""


@dataclass(frozen=True, kw_only=True)
class Ruleset:
    """A `Ruleset` is what the caller of `evaluate` asks to be kept."""

    protocol: Protocol | None = None
    """The named protocol; None where none was named."""
    split: Split | None = None
    """The user's split file, else the conditions that the protocol names with their contexts, else None."""
    pairs: frozenset[Condition] = frozenset()
    """Further held-out conditions."""
    strict: bool = False
    """Whether to refuse statistics of held-out cells and what cannot be checked."""

    @classmethod
    def read(
        cls, protocol: str | Path | None, split: str | Path | None, *, pairs: Collection[Condition], strict: bool
    ) -> "Ruleset":
        """Read the files that the caller named."""
        found = None if protocol is None else find_protocol(protocol)
        if found is not None:
            _check_published(found)
        held_out = found.split if found else None
        if split is not None:
            if held_out is not None and held_out.hash != Split.from_toml(split).hash:
                raise InputError(
                    f"The protocol {protocol} lists its held-out conditions itself, and {split} lists others; leave "
                    "--split out."
                )
            held_out = Split.from_toml(split)
        return cls(protocol=found, split=held_out, pairs=frozenset((str(c), str(p)) for c, p in pairs), strict=strict)

    def keys(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Fill arguments that were not given from the protocol.

        Raises
        ------
        InputError
            Where an argument contradicts it: such an evaluation would carry the protocol's name without being it.
        """
        if self.protocol is None:
            return dict(given)
        filled = dict(given)
        for name in _FLAGS:
            ruled = getattr(self.protocol, name)
            if ruled is None:  # the protocol leaves it open
                continue
            if given[name] is None:
                filled[name] = ruled
            elif given[name] != ruled:
                raise InputError(
                    f"--{name.replace('_', '-')} {given[name]} contradicts the protocol {self.protocol.name!r}, which "
                    f"says {ruled}; leave it out, or give a protocol file of your own."
                )
        return filled

    def check_scale(self, stated: Mapping[str, Any], name: str) -> None:
        """Refuse a prediction that says it was normalised to another sum than the protocol's."""
        made, ruled = stated.get("target_sum"), None if self.protocol is None else self.protocol.target_sum
        if ruled is not None and made not in (None, "") and float(made) != ruled:  # type: ignore[arg-type]
            raise InputError(
                f"{name} was normalised to {float(made):g} counts per cell, the protocol {self.protocol.name!r} to "  # type: ignore[union-attr,arg-type]
                f"{ruled:g}; predict from data on the protocol's scale."
            )

    def held_out(self, observed: Collection[Condition], control: str) -> set[Condition]:
        """Return every held-out condition, the controls apart; names of the split have to be observed."""
        _check_observed(self.pairs, observed, "--held-out")
        split = self.split_of(observed)
        return set(self.pairs) | (split.held_out(observed, control) if split else set())

    def split_of(self, observed: Collection[Condition]) -> Split | None:
        """Return the user's split, else what the protocol holds out of the observed conditions."""
        return self.split or (self.protocol.split_of(observed) if self.protocol else None)

    def hold(
        self,
        screen: Screen,
        predictions: Sequence[CellFile],
        *,
        trained_on: TrainedOn | None = None,
        hvg_from: HvgFrom | None = None,
    ) -> Held:
        """Refuse predictions that break a rule, and keep what is held out from the baselines.

        `trained_on` and `hvg_from` are what the user says of the training, as in `TrainingRecord.of`; for all files, or
        by the name of the prediction.

        Raises
        ------
        InputError
            Naming the rule and what breaks it.
        """
        observed = screen.whole(screen.rows)
        held_out = self.held_out(observed, screen.control)
        names = [prediction.arm for prediction in predictions]
        trained_by = _by_name(trained_on, names, "--training-conditions")
        chosen_by = _by_name(hvg_from, names, "--hvg-from")
        if self.protocol is not None:
            _check_contexts(self.protocol, {context for context, _ in _scored(screen)})
        for pairs in trained_by.values():
            _check_observed({(str(c), str(p)) for c, p in pairs}, observed, "--training-conditions")
        notes: list[str] = []
        sources: dict[str, str | None] = {}
        for prediction in predictions:
            self.check_scale(prediction.stated, prediction.name)
            record = TrainingRecord.of(
                prediction, trained_on=trained_by.get(prediction.arm), hvg_from=chosen_by.get(prediction.arm)
            )
            notes += check_leakage(
                record,
                prediction.name,
                scored=_scored(screen),
                held_out=held_out,
                control=screen.control,
                split=self.split_of(observed),
                strict=self.strict,
            )
            sources[prediction.name] = record.hvg_from
        barred = {condition for condition in screen.rows if held_out.issuperset(screen.whole([condition]))}
        screen = hold_out(screen, barred)
        notes = [*dict.fromkeys(notes), *training_notes(screen, barred)]
        return Held(screen=screen, held_out=held_out, hvg_from=sources, notes=notes)

    def statement(self, screen: Screen, keys: Keys, hvg_from: Mapping[str, str | None]) -> dict[str, Any]:
        """Return what the report says of the protocol, as plain values; `hvg_from` is that of `Held`.

        Without a protocol the keys are one of their own, so that every report has a hash.
        """
        observed = screen.whole(screen.rows)
        protocol, split, lacking = self.protocol, self.split_of(observed), []
        if protocol is None:
            values = {name: getattr(keys, name) for name in _FLAGS}
            protocol = Protocol(name="", title="", hvg_from="given", **values)
        else:
            lacking = departures(protocol, _scored(screen), split, observed)
            if protocol.n_genes not in (None, screen.genes.size):
                lacking.append(f"{screen.genes.size} genes were scored and not {protocol.n_genes}")
            lacking += gene_departures(protocol, hvg_from)
        return {
            "name": protocol.name or None,
            "title": protocol.title or None,
            "hash": protocol.hash,
            "split_hash": split.hash if split else None,
            "strict": self.strict,
            "aggregate": "perturbations, then contexts",
            "n_genes": protocol.n_genes,
            "departures": lacking,
            "published": [] if lacking else [_published(row) for row in protocol.published],
        }


def _check_published(protocol: Protocol) -> None:
    """Refuse published scores of a metric that there is not."""
    for metric in (metric for row in protocol.published for metric in (*row.scores, *row.not_comparable)):
        if metric not in METRICS:
            raise InputError(
                f"[[published]] of the protocol {protocol.name!r} names the metric {metric!r}: "
                f"{choices(metric, METRICS)}"
            )


def _check_contexts(protocol: Protocol, contexts: Collection[str]) -> None:
    """Refuse to score a context that the protocol trains on."""
    for context in sorted(contexts):
        if not protocol.holds_out(context):
            labels = protocol.held_out.labels if protocol.held_out else ()
            raise InputError(
                f"Context {context!r} is scored, but the protocol {protocol.name!r} holds out only "
                f"{', '.join(labels)}; drop it from the prediction."
            )


def _by_name(given: Any, names: Sequence[str], option: str) -> dict[str, Any]:
    """Return prediction -> what the user says of it, from one value for all or from a mapping."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    for name in given:
        if name not in names:
            raise InputError(f"{option} names {name!r}, which is no prediction: {choices(name, names)}")
    return dict(given)


def _check_observed(pairs: Collection[Condition], observed: Collection[Condition], option: str) -> None:
    """Refuse pairs that were not observed: a misspelt one would hide what it should name."""
    unknown = sorted(set(pairs) - set(observed))
    if unknown:
        context, name = unknown[0]
        of_context = [p for c, p in observed if c == context]
        hint = choices(name, of_context) if of_context else choices(context, sorted({c for c, _ in observed}))
        raise InputError(
            f"{option} names {context} / {name}, which was not observed ({len(unknown)} such pairs; mend the labels, "
            f"or drop those lines): {hint}"
        )


def _scored(screen: Screen) -> list[Condition]:
    return screen.whole((context, name) for context, names in screen.scored.items() for name in names)


def _published(row: Published) -> dict[str, Any]:
    return {**vars(row), "scores": dict(row.scores), "not_comparable": list(row.not_comparable)}
