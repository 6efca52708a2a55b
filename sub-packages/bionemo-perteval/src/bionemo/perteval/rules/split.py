"""Which conditions a model was allowed to see: the split files that training reads, read again by the evaluation.

The layout is STATE's: ``[zeroshot] "data.context" = "test"`` holds out whole contexts, controls included;
``[fewshot."data.context"]`` holds out lists of perturbations, ``val`` and ``test``. What is not held out trains.
"""

import hashlib
import json
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bionemo.perteval.inputs.screen import Condition
from bionemo.screens.errors import InputError, nearest

PARTS = ("val", "test")
_SECTIONS = ("datasets", "training", "zeroshot", "fewshot")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Held-out conditions.

    Attributes
    ----------
    zeroshot
        Context -> ``"val"`` or ``"test"``.
    fewshot
        Context -> part -> its held-out perturbations.
    """

    zeroshot: Mapping[str, str] = field(default_factory=dict)
    fewshot: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)

    @classmethod
    def from_toml(cls, path: Path | str) -> "Split":
        """Read a split file.

        Raises
        ------
        InputError
            Where it is missing, no TOML, or holds a section, part or list that a split does not have.
        """
        return cls.from_dict(read_toml(path, "split"), str(path))

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], source: str) -> "Split":
        """Take a split from its parsed sections; `source` is how messages call it."""
        for section, content in table.items():
            if section not in _SECTIONS:
                raise InputError(
                    f"{source} has the section {section!r}, which no split has{nearest(section, _SECTIONS)}."
                )
            if not isinstance(content, Mapping):
                raise InputError(f"{section!r} of {source} is the value {content!r}, but it has to be a section.")
        names = {**table.get("datasets", {}), **table.get("training", {})}
        zeroshot = {_context(key, names): part for key, part in table.get("zeroshot", {}).items()}
        for context, part in zeroshot.items():
            if part not in PARTS:
                raise InputError(f'[zeroshot] {context!r} of {source} is {part!r}, but it has to be "val" or "test".')
        fewshot = {_context(key, names): _lists(key, parts, source) for key, parts in table.get("fewshot", {}).items()}
        return cls(zeroshot=zeroshot, fewshot=fewshot)

    def part(self, context: str, perturbation: str) -> str:
        """Return ``"train"``, ``"val"`` or ``"test"``."""
        if context in self.zeroshot:
            return self.zeroshot[context]
        lists = self.fewshot.get(context, {})
        return next((part for part in PARTS if perturbation in lists.get(part, ())), "train")

    def held_out(self, conditions: Collection[Condition], control: str) -> set[Condition]:
        """Return the conditions that are held out, without the controls.

        Raises
        ------
        InputError
            Where the split names a context or perturbation that `conditions` do not have, or the control label.
        """
        contexts = {context for context, _ in conditions}
        for context in (*self.zeroshot, *self.fewshot):
            if context not in contexts:
                raise InputError(
                    f"The split names context {context!r}, which was not observed{nearest(context, contexts)}."
                )
        for context, parts in self.fewshot.items():
            known = {perturbation for c, perturbation in conditions if c == context}
            for name in sorted(frozenset().union(*parts.values())):
                if name == control:
                    raise InputError(
                        f"The split holds out the control label {control!r} in context {context!r}; controls are every "
                        "model's input, so leave it out."
                    )
                if name not in known:
                    raise InputError(
                        f"The split holds out {name!r} in context {context!r}, where it was not observed"
                        f"{nearest(name, known - {control})}."
                    )
        return {(c, p) for c, p in conditions if p != control and self.part(c, p) != "train"}

    def to_dict(self) -> dict[str, Any]:
        """Return sorted plain values, fit for JSON."""
        return {
            "zeroshot": dict(sorted(self.zeroshot.items())),
            "fewshot": {
                context: {part: sorted(names) for part, names in sorted(parts.items())}
                for context, parts in sorted(self.fewshot.items())
            },
        }

    @property
    def hash(self) -> str:
        """SHA-256 of what is held out; the layout of the file does not change it."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def read_toml(path: Path | str, kind: str) -> dict[str, Any]:
    """Parse a TOML file; `kind` is how messages call it."""
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise InputError(f"The {kind} file {path} cannot be read ({error.strerror}); check the path.") from error
    except ValueError as error:
        raise InputError(f"The {kind} file {path} is not valid TOML ({error}); mend that line.") from error


def _context(key: str, datasets: Collection[str]) -> str:
    """Return the context of a ``dataset.context`` key; a context may hold dots itself."""
    prefixes = [name for name in datasets if key.startswith(f"{name}.")]
    return key[len(max(prefixes, key=len)) + 1 :] if prefixes else key


def _lists(key: str, parts: Any, source: str) -> dict[str, frozenset[str]]:
    where = f'[fewshot."{key}"] of {source}'
    if not isinstance(parts, Mapping):
        raise InputError(f"{where} is {parts!r}, but it has to be a section with val and test lists.")
    for part, names in parts.items():
        if part not in PARTS:
            raise InputError(f"{where} has {part!r}, but a split has only val and test lists.")
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{part!r} in {where} is {names!r}, but it has to be a list of labels.")
    # A condition that is tested must not choose a checkpoint, so one that is listed twice is a test condition.
    lists = {part: frozenset(names) for part, names in parts.items()}
    if "val" in lists:
        lists["val"] -= lists.get("test", frozenset())
    return lists
