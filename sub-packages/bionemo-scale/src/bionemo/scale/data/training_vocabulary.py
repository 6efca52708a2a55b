"""Find the names that the training part of a store can teach a model."""

import math

import numpy as np

from bionemo.cellsets import CellStore
from bionemo.scale.config.model import ModelConfig, PerturbationTokens, Start
from bionemo.scale.data.embeddings import Embeddings
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.screens import Split
from bionemo.screens.controls import ControlRoles
from bionemo.screens.errors import InputError
from bionemo.screens.labels import Treatment, parse_labels


def training_vocabulary(
    store: CellStore, split: Split, model: ModelConfig, separator: str = "+", embeddings: Embeddings | None = None
) -> Vocabulary:
    """Return the names that the training part of a store can teach a model; the separator joins the parts of a label.

    An InputError says that the split leaves no perturbed cell to train on, that doses have several units, or that the
    embeddings are not given, not asked for, or lack a perturbation of the training cells.
    """
    runs = store.runs[store.parts(split, ControlRoles()) == "train"]
    labels = np.asarray(store.perturbations)
    perturbed = runs[labels[runs["perturbation"]] != store.control]
    if not len(perturbed):
        raise InputError(f"the split leaves no perturbed cell of {store.path} to train on: hold out less.")
    batches = np.unique(perturbed["batch"][perturbed["batch"] >= 0])
    parsed = parse_labels(map(str, labels), separator, store.control)
    trained = [str(labels[i]) for i in np.unique(perturbed["perturbation"])]
    treatments = [treatment for label in trained for treatment in parsed[label]]
    names = tuple(sorted({treatment.name for treatment in treatments}))
    return Vocabulary(
        genes=tuple(map(str, store.genes)),
        contexts=tuple(str(store.contexts[i]) for i in np.unique(perturbed["context"])),
        perturbations=(store.control, *names),
        batches=tuple(str(store.batches[i]) for i in batches),
        control=store.control,
        kind=store.kind,
        target_sum=store.target_sum,
        separator=separator,
        start_labels=tuple(trained) if model.start is Start.LINEAR else (),
        **_doses(treatments),
        **_embedded(model, (store.control, *names), embeddings),
    )


def _doses(treatments: list[Treatment]) -> dict:
    given = [treatment for treatment in treatments if treatment.dose is not None]
    units = sorted({treatment.unit for treatment in given})
    if len(units) > 1:
        raise InputError(
            f"the doses of the labels have the units {', '.join(unit or '(none)' for unit in units)}: give all of them "
            f"in one unit, or in multiples of mol/l."
        )
    if not given:
        return {}
    logs = np.array([math.log10(treatment.dose) for treatment in given if treatment.dose is not None])
    return {"dose_unit": units[0], "log_dose": (float(logs.mean()), float(logs.std()) or 1.0)}


def _embedded(model: ModelConfig, names: tuple[str, ...], embeddings: Embeddings | None) -> dict:
    if model.perturbation_tokens is PerturbationTokens.LEARNED:
        if embeddings is not None:
            raise InputError(
                "--embeddings is given and model.perturbation_tokens=learned does not use them: set it to embedding or "
                "both."
            )
        return {}
    if embeddings is None:
        raise InputError(
            f"model.perturbation_tokens={model.perturbation_tokens} needs vectors of the perturbations: name their "
            f"file with --embeddings."
        )
    embeddings.check(names[1:])
    further = tuple(sorted(set(embeddings.names) - set(names)))
    return {"embedded": further, "embedding_size": embeddings.vectors.shape[1]}
