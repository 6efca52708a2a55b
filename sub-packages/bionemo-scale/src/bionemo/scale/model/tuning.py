"""How a trained model is finetuned: which of its weights move."""

from bionemo.scale.config.tuning import Method, TuningConfig
from bionemo.scale.model.low_rank import LowRank
from bionemo.scale.model.scale_model import ScaleModel


def tune(model: ScaleModel, tuning: dict) -> LowRank | None:
    """Freeze what does not move in a model that was just built; add the adapters, if any, and return them.

    `tuning` is that of `RunRecord`: the fields of :class:`TuningConfig` and, under ``known``, rows that are not new.
    """
    config = TuningConfig(**{name: value for name, value in tuning.items() if name != "known"})
    if config.method is Method.LOW_RANK:
        return LowRank(model, config.rank, config.alpha, tuning["known"], encoder=not config.freeze_encoder)
    if config.freeze_encoder:
        model.encoder.requires_grad_(False)
    return None
