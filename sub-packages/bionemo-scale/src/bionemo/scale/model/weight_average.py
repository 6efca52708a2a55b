"""Keep a running average of a model's weights."""

import torch
from megatron.core.transformer.module import MegatronModule


class WeightAverage(MegatronModule):
    """A `WeightAverage` is ``average <- decay * average + (1 - decay) * weights``, saved with the weights.

    It starts as the weights, in a model of its own, and remembers no more than it has seen: in step n the decay is at
    most ``(1 + n) / (10 + n)``.
    """

    def __init__(self, model: MegatronModule):
        super().__init__(config=model.config)
        self.model = model.requires_grad_(False)
        self.steps = torch.nn.Buffer(torch.zeros(1))

    @torch.no_grad()
    def update(self, weights: MegatronModule, decay: float) -> None:
        """Take in the weights of one more step; buffers are copied."""
        live = dict(weights.named_parameters())
        self.steps += 1
        kept = torch.clamp((1 + self.steps) / (10 + self.steps), max=decay)
        for name, average in self.model.named_parameters():
            average.lerp_(live[name].to(average.dtype), (1 - kept).to(average.dtype))
        live = dict(weights.named_buffers())
        for name, buffer in self.model.named_buffers():
            buffer.copy_(live[name])

    def _apply(self, fn, recurse: bool = True):
        # Mixed precision turns modules to bfloat16, in which a small step is rounded away.
        return super()._apply(lambda tensor: fn(tensor).to(tensor.dtype), recurse)
