"""`RunDirectory` is a training run on disk: what it was started with, and its whole checkpoints."""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bionemo.scale.config.model import ModelConfig
from bionemo.scale.config.training import MAY_CHANGE
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.errors import Stopped
from bionemo.scale.runs.sealed_json import read_sealed, write_sealed
from bionemo.screens.controls import ControlRoles
from bionemo.screens.digests import digest
from bionemo.screens.errors import InputError, brief
from bionemo.screens.locks import locked

FORMAT = 5
PACKAGES = ("bionemo-scale", "bionemo-cellsets", "nemo-toolkit", "megatron-core", "torch")
_UNFINISHED = "-unfinished"
"""What NeMo puts behind a checkpoint's name for the file that marks it."""
_CHECKPOINT = re.compile(r"step=(\d+)")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A `RunRecord` says everything that a checkpoint's weights mean; it is kept as ``run.json`` beside them."""

    model: dict
    vocabulary: dict
    compute: dict
    training: dict
    global_batch: int
    """Sets of one optimizer step, over all ranks."""
    store: dict
    """Path, fingerprint, obs keys and choice of genes of the training data."""
    control_roles: dict
    """Which control cells of any data have which role, as ``ControlRoles.to_dict`` says it."""
    split: dict
    trained: dict[str, list[str]] | None = None
    """Context -> perturbations with a training cell, controls included; None in runs that did not write it."""
    embeddings: dict | None = None
    """Path and sha256 of the file of perturbation embeddings, if one was given."""

    trial: dict | None = None
    """What a trial has chosen, and the training conditions that it held out; None where there was none."""
    tuning: dict | None = None
    """Of a finetuned run: which weights moved, and how many names of each table the model knew before."""

    def model_config(self) -> ModelConfig:
        """Return the model's configuration."""
        return ModelConfig(**self.model)

    def model_vocabulary(self) -> Vocabulary:
        """Return the model's names."""
        return Vocabulary.from_dict(self.vocabulary)

    def roles(self) -> ControlRoles:
        """Return which control cells have which role."""
        return ControlRoles.from_dict(self.control_roles, "run.json")

    def meaning(self) -> dict[str, Any]:
        """Return what never changes in a run: all but where its files are, how it is computed, and ``MAY_CHANGE``."""
        values = json.loads(json.dumps(vars(self)))
        del values["compute"]
        values["training"] = {name: value for name, value in values["training"].items() if name not in MAY_CHANGE}
        for section in ("store", "embeddings"):
            values[section] = {name: value for name, value in (values[section] or {}).items() if name != "path"}
        return values

    def digest(self) -> str:
        """Return the SHA-256 of :meth:`meaning`, hexadecimal; checkpoints are sealed with it."""
        return digest(self.meaning())


@dataclass(frozen=True, kw_only=True)
class Best:
    """`Best` names the checkpoint that validated best so far, as ``best.json`` keeps it."""

    step: int
    metric: str
    value: float
    network_share: float
    """Share of the network that predicts best with it."""


class RunDirectory:
    """A `RunDirectory` holds ``run.json``, ``best.json``, ``checkpoints/`` and ``tensorboard/`` of one run."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.record_file = self.path / "run.json"
        self.best_file = self.path / "best.json"
        self.linear_start = self.path / "linear_start"
        self._written: bytes | None = None

    @contextlib.contextmanager
    def held(self, *, write: bool) -> Iterator[None]:
        """Keep other processes from training in this directory while this lasts.

        Only one of all processes of a training holds it: the one that says `write`. An InputError says that another
        process trains in it, or that it cannot be written.
        """
        if not write:
            yield
            return
        with self.errors_named():
            self.path.mkdir(parents=True, exist_ok=True)
            lock = locked(self.path / "lock")
        if lock is None:
            raise InputError(f"another process trains in {self.path}: wait until it ends, or give another --out.")
        with lock:
            yield

    @contextlib.contextmanager
    def errors_named(self) -> Iterator[None]:
        """Turn an OSError into a sentence."""
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path} cannot be written ({error.strerror}): give another --out.") from None

    def read(self) -> RunRecord:
        """Read what the run was started with; an InputError where the directory is not a run, or of another format."""
        try:
            values, intact = read_sealed(self.record_file)
        except FileNotFoundError:
            raise InputError(
                f"{self.path} holds no run.json: give the directory that `pretrain --out` wrote."
            ) from None
        except (OSError, ValueError) as error:
            raise self._damaged(self.record_file, error) from None
        if values.pop("format", None) != FORMAT:
            raise InputError(f"{self.record_file} is not of format {FORMAT}: use the version that wrote it.")
        if not intact:
            raise self._damaged(self.record_file, ValueError("it was changed after it was written"))
        values.pop("versions", None)
        try:
            record = RunRecord(**values)
            # Whatever will be looked up later must be there.
            _ = record.model_config(), record.model_vocabulary(), record.roles(), record.digest()
            _ = record.training["cells_per_set"], record.training["average_decay"]
            _ = record.store["fingerprint"], record.store["keys"]["context"], record.store["keys"]["perturbation"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged(self.record_file, error) from None
        return record

    def start(self, record: RunRecord, *, write: bool) -> None:
        """Take the directory for ``record``, or make sure that the run it holds can go on with it.

        Only one of all processes of a training writes the record: the one that says `write`. An InputError says that
        the directory holds a checkpoint of a run that was started with something else, or cannot be written.
        """
        if self.last_checkpoint() is not None:
            self._check(self.read(), record)
        if not write:
            return
        values = {"format": FORMAT, "versions": {name: version(name) for name in PACKAGES}} | vars(record)
        with self.errors_named():
            self.path.mkdir(parents=True, exist_ok=True)
            for marker in self.checkpoints.glob(f"step=*{_UNFINISHED}"):
                self.remove_unfinished(marker.with_name(marker.name.removesuffix(_UNFINISHED)))
            if self.last_checkpoint() is None:
                self.best_file.unlink(missing_ok=True)  # of a run whose first checkpoint never became whole
            self._written = write_sealed(self.record_file, values)

    def check_record(self) -> None:
        """Make sure that ``run.json``, which says what the checkpoints mean, is as this process wrote it.

        Raises
        ------
        Stopped
            Something else has written it.
        """
        if self._written is None:
            return
        with contextlib.suppress(OSError):
            if self.record_file.read_bytes() == self._written:
                return
        raise Stopped(
            f"{self.record_file} was changed while the run went on, so no further checkpoint is written: let one "
            f"process train in {self.path}, and start the same command again."
        )

    def whole_checkpoints(self) -> dict[int, Path]:
        """Find the checkpoints that were written to their end, by the steps behind them."""
        return {
            checkpoint_step(path): path
            for path in self.checkpoints.glob("step=*")
            if _CHECKPOINT.fullmatch(path.name) and path.is_dir() and not _marker(path).exists()
        }

    def mark_unfinished(self, checkpoint: Path) -> None:
        """Let a checkpoint count no longer: it is to be written, or removed."""
        _marker(checkpoint).touch()

    def mark_finished(self, checkpoint: Path) -> None:
        """Let a checkpoint count that was written to its end."""
        _marker(checkpoint).unlink()

    def remove_unfinished(self, checkpoint: Path) -> None:
        """Remove a checkpoint that does not count, and then its mark; after a kill the next start goes on with it."""
        shutil.rmtree(checkpoint, ignore_errors=True)
        if not checkpoint.exists():
            _marker(checkpoint).unlink(missing_ok=True)

    def last_checkpoint(self) -> Path | None:
        """Return the newest whole checkpoint; None if there is none."""
        whole = self.whole_checkpoints()
        return whole[max(whole)] if whole else None

    def best_checkpoint(self) -> Path | None:
        """Return the whole checkpoint that validated best; the newest where none was validated."""
        best = self.best()
        chosen = None if best is None else self.whole_checkpoints().get(best.step)
        return chosen or self.last_checkpoint()

    def best(self) -> Best | None:
        """Read which checkpoint validated best; None before the first validation, an InputError where it is damaged."""
        try:
            values, intact = read_sealed(self.best_file)
            if not intact:
                raise ValueError("it was changed after it was written")
            return Best(**values)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{self.best_file} is damaged ({brief(error)}): remove it.") from None

    def mark_best(self, best: Best) -> None:
        """Say which checkpoint validated best so far."""
        write_sealed(self.best_file, vars(best))

    @staticmethod
    def _damaged(file: Path, error: Exception) -> InputError:
        return InputError(f"{file} is damaged ({brief(error)}): restore it or train again.")

    def _check(self, old: RunRecord, new: RunRecord) -> None:
        mend = "give another --out to start afresh, or the same settings to go on"
        if old.store["fingerprint"] != new.store["fingerprint"]:
            raise InputError(f"{self.path} was trained on other data than {new.store['path']}: {mend}.")
        for section in ("split", "vocabulary"):
            if getattr(old, section) != json.loads(json.dumps(getattr(new, section))):
                raise InputError(f"{self.path} was started with another {section}: {mend}.")
        if (old.embeddings or {}).get("sha256") != (new.embeddings or {}).get("sha256"):
            raise InputError(f"{self.path} was started with other embeddings: {mend}.")
        if old.tuning != json.loads(json.dumps(new.tuning)):
            raise InputError(f"{self.path} was started with another tuning, or with none: {mend}.")
        if old.global_batch != new.global_batch:
            raise InputError(
                f"{self.path} takes {old.global_batch} sets a step over all ranks, not {new.global_batch}: adjust "
                f"training.sets_per_batch to the number of devices, or give another --out."
            )
        before, now = old.meaning(), new.meaning()
        for section in ("model", "training", "store"):
            for name in now[section]:
                if before[section].get(name) != now[section][name]:
                    raise InputError(
                        f"{self.path} was started with {section}.{name}={before[section].get(name)}, not "
                        f"{now[section][name]}: {mend}."
                    )
        if before != now:
            other = next(section for section in now if before.get(section) != now[section])
            raise InputError(f"{self.path} was started with another {other}: {mend}.")


def _marker(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + _UNFINISHED)


def checkpoint_step(checkpoint: Path) -> int:
    """Return the optimizer steps behind a checkpoint of :meth:`RunDirectory.last_checkpoint`."""
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    assert match is not None
    return int(match[1])
