"""The SCALE model: plain torch and Megatron-Core, no NeMo, no input or output."""

from bionemo.scale.model.config import ScaleConfig
from bionemo.scale.model.vocabulary import Vocabulary

__all__ = ["ScaleConfig", "Vocabulary"]
