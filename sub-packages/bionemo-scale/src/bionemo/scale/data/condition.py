"""`Condition` holds the conditions of a batch as tensors."""

from dataclasses import dataclass, replace

import torch

from bionemo.scale.data.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A `Condition` holds the rows of the vocabulary's tables for B sets, with at most P perturbations in each."""

    perturbation: torch.Tensor
    """int64 [B, P], rows of ``Vocabulary.tokens``, -1 where a combination has fewer."""
    dose: torch.Tensor
    """float32 [B, P], standardised log10 dose, NaN where none is known."""
    context: torch.Tensor
    """int64 [B], -1 where the context has no token."""
    batch: torch.Tensor
    """int64 [B], -1 where the batch has no token."""
    evidence: torch.Tensor | None = None
    """float32 [B, F, G], what is known of each condition from elsewhere, for a linear start or a network that uses it;
    see ``LinearStart.features``."""

    def to(self, device: torch.device) -> "Condition":
        """Return the conditions on a device."""
        given = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in given.items()})

    def without_context(self, hide_B: torch.Tensor) -> "Condition":
        """Hide context and batch where ``hide_B``, bool [B]."""
        return replace(self, context=self.context.masked_fill(hide_B, -1), batch=self.batch.masked_fill(hide_B, -1))


def token_table(labels: list[str], vocabulary: Vocabulary) -> tuple[torch.Tensor, torch.Tensor]:
    """Look up tokens and doses of labels, [L, P] each, as in `Condition`; an unknown name makes its row all -1."""
    known = [[] if vocabulary.unknown(label) else vocabulary.token_rows(label) for label in labels]
    width = max(1, *map(len, known)) if known else 1
    tokens = torch.full((len(labels), width), -1, dtype=torch.int64)
    doses = torch.full((len(labels), width), torch.nan)
    for row, pairs in enumerate(known):
        for column, (token, dose) in enumerate(pairs):
            tokens[row, column], doses[row, column] = token, dose
    return tokens, doses
