"""The SCALE model: plain torch and Megatron-Core, no NeMo, no input or output."""

from bionemo.scale.config.model import ModelConfig
from bionemo.scale.data.vocabulary import Vocabulary

__all__ = ["ModelConfig", "Vocabulary"]
