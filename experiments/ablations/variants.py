"""What is varied: one choice at a time, against the network alone at its defaults."""

from dataclasses import dataclass

from experiments.screens import seeded

DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table.

    Attributes
    ----------
    name
        What differs from the default.
    choice
        The group of variants it belongs to.
    overrides
        Settings of the model and its training beside `NETWORK`.
    solver_steps
        Of prediction; above 1 the weights are those of the run with the same overrides and one step.
    trained
        False where nothing of the network is used, so that a short run does.
    """

    name: str
    choice: str
    overrides: tuple[str, ...] = ()
    solver_steps: int = 1
    trained: bool = True


NETWORK = ("model.start=none", "model.evidence=off")
"""Without the linear start the network does all the work, so its choices can show."""

VARIANTS = (
    Variant(name=DEFAULT, choice=""),
    Variant(name="source control", choice="source", overrides=("model.source=control",)),
    Variant(name="source gaussian", choice="source", overrides=("model.source=gaussian",)),
    Variant(name="velocity", choice="prediction", overrides=("model.prediction=velocity",)),
    Variant(name="mean pooling", choice="condition pooling", overrides=("model.condition_pooling=mean",)),
    Variant(name="no DeepSets", choice="DeepSets", overrides=("model.deep_sets=false",)),
    Variant(name="no set loss", choice="set loss", overrides=("model.set_loss=none",)),
    Variant(name="set loss MMD", choice="set loss", overrides=("model.set_loss=mmd",)),
    Variant(name="all cells auto-encoded", choice="reconstruction", overrides=("model.reconstruction_share=1.0",)),
    Variant(name="30% of genes masked", choice="masking", overrides=("model.gene_dropout=0.3",)),
    Variant(name="no pairing", choice="pairing", overrides=("model.pairing=none",)),
    Variant(name="regression head", choice="head", overrides=("model.head=regression",)),
    Variant(
        name="negative binomial head",
        choice="head",
        overrides=("model.head=negative_binomial", "model.set_loss=none"),
    ),
    Variant(name="2 solver steps", choice="solver", solver_steps=2),
    Variant(name="4 solver steps", choice="solver", solver_steps=4),
    Variant(name="8 solver steps", choice="solver", solver_steps=8),
    Variant(name="weights averaged", choice="average", overrides=("training.average_decay=0.99",)),
    Variant(
        name="evidence",
        choice="evidence",
        overrides=("model.start=linear", "model.evidence=on", "model.network_share=1.0"),
    ),
    Variant(name="linear start and network", choice="linear start", overrides=("model.start=linear",)),
    Variant(
        name="linear start alone",
        choice="linear start",
        overrides=("model.start=linear", "model.network_share=0.0"),
        trained=False,
    ),
)


def settings(variant: Variant, seed: int, steps: int) -> list[str]:
    """Return every override of a variant's training run.

    Parameters
    ----------
    variant
        Which.
    seed
        Of the training.
    steps
        Training steps; a tenth of them, at most 20, warm up.
    """
    steps = steps if variant.trained else min(steps, 25)
    own = {setting.partition("=")[0] for setting in variant.overrides}
    network = [setting for setting in NETWORK if setting.partition("=")[0] not in own]
    lengths = [f"training.max_steps={steps}", f"training.warmup_steps={min(20, steps // 10)}"]
    return [*network, *variant.overrides, *lengths, *seeded(seed)]
