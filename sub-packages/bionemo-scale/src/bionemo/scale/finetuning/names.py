"""The names of a model that is trained further: its own, then those that the new data add."""

import logging
from dataclasses import replace

from bionemo.scale.config.tuning import Genes, Method, TuningConfig
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.screens.errors import InputError, name_list
from bionemo.screens.labels import parse_label

LEAST_SHARED = 0.5
"""The share of a model's genes that other data must have to train it further."""
_log = logging.getLogger("bionemo.scale")


def extended_vocabulary(old: Vocabulary, new: Vocabulary, tuning: TuningConfig) -> Vocabulary:
    """Join the vocabularies of a trained model and of the training part of new data; old names keep their rows.

    The genes are in the order of the new data, and their control label takes the place of the old one. An InputError
    says that the genes are others than `tuning` lets through, or that expression, labels or doses are on another scale.
    """
    _check_genes(old, new, tuning)
    _check_scale(old, new)
    known = set(old.perturbations)
    added = [name for name in new.perturbations[1:] if name not in known and not _of_known_parts(name, old)]
    if new.control in old.tokens[1:]:
        raise InputError(
            f"the control label {new.control!r} of the new data is a perturbation of the model: give control cells "
            f"another label."
        )
    perturbations = (new.control, *old.perturbations[1:], *added)
    return replace(
        old,
        genes=new.genes,
        control=new.control,
        contexts=_joined(old.contexts, new.contexts),
        perturbations=perturbations,
        batches=_joined(old.batches, new.batches),
        embedded=tuple(sorted({*old.embedded, *new.embedded} - set(perturbations))),
        dose_unit=old.dose_unit or new.dose_unit,
        log_dose=old.log_dose or new.log_dose,
        start_labels=_joined(old.start_labels, new.start_labels),
    )


def _joined(old: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
    return (*old, *(name for name in new if name not in old))


def _of_known_parts(name: str, old: Vocabulary) -> bool:
    """Whether a name that the new data alone do not take apart is a combination of what the model knows."""
    parts = parse_label(name, old.separator, old.control)
    return len(parts) > 1 and all(part.name in old.tokens for part in parts)


def _check_genes(old: Vocabulary, new: Vocabulary, tuning: TuningConfig) -> None:
    missing, fresh = sorted(set(old.genes) - set(new.genes)), sorted(set(new.genes) - set(old.genes))
    if not missing and not fresh:
        return
    said = []
    if missing:
        # Most often they are written in another way: Tp53 for TP53.
        spelled = {name.casefold(): name for name in fresh}
        near = next((spelled[name.casefold()] for name in missing if name.casefold() in spelled), None)
        hint = f"; they write '{near}'" if near else ""
        said.append(f"lack {len(missing)} of the model's {len(old.genes)} genes ({name_list(missing, 3)}{hint})")
    if fresh:
        said.append(f"have {len(fresh)} that it does not know ({name_list(fresh, 3)})")
    differ, mend = (
        f"the new data {' and '.join(said)}",
        "prepare them with the model's genes, `prepare --genes-of` its run",
    )
    if tuning.genes is Genes.SAME:
        raise InputError(f"{differ}: {mend}, or train on the shared ones and the new with tuning.genes=shared.")
    if len(missing) > (1 - LEAST_SHARED) * len(old.genes):
        raise InputError(f"{differ}, and tuning.genes=shared wants {LEAST_SHARED:.0%} of the model's: {mend}.")
    if fresh and tuning.method is Method.LOW_RANK:
        raise InputError(f"{differ}, which adapters of low rank cannot learn: {mend}, or finetune with all weights.")
    _log.warning("%s: weights are kept for the shared genes alone, and begin with nothing for the new", differ)


def _check_scale(old: Vocabulary, new: Vocabulary) -> None:
    for field, mend in (
        ("kind", "prepare the new data from what the model was trained on, counts or log1p values"),
        ("target_sum", f"prepare the new data with --target-sum {old.target_sum:g}"),
        ("separator", f"set training.separator={old.separator or 'none'}"),
    ):
        before, now = getattr(old, field), getattr(new, field)
        if before != now:
            raise InputError(f"the model was trained with {field}={before}, and the new data have {now}: {mend}.")
    if old.log_dose and new.log_dose and old.dose_unit != new.dose_unit:
        raise InputError(
            f"the model knows doses in {old.dose_unit or '(no unit)'}, and the new data give them in "
            f"{new.dose_unit or '(no unit)'}: convert them."
        )
