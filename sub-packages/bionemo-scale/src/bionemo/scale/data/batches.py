"""`TrainingBatch` is what one training step is given."""

from dataclasses import dataclass, replace

import torch

from bionemo.scale.data.condition import Condition


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """A `TrainingBatch` holds B pairs of a control set and a perturbed set, S cells each, with their conditions."""

    control: torch.Tensor
    """log1p, float32 [B, S, G]; zeros where there is no cell."""
    perturbed: torch.Tensor
    """log1p, float32 [B, S, G], of the same conditions."""
    mask: torch.Tensor
    """bool [B, S], True where a cell is there, for both sets; valid cells come first."""
    condition: Condition
    """The conditions of the sets."""
    key: torch.Tensor
    """int64 [B], what the noise of each set is derived from; stays on the CPU."""
    base: torch.Tensor | None = None
    """float32 [B, G], log1p, what is taken from perturbed cells; 0 for a set of control cells. It is the mean of the
    context's control cells of the role target less that of the role input, and the noise that its conditions share. So
    training learns no noise of control cells; see ``Fit.noise_in_common``."""
    library: torch.Tensor | None = None
    """Counts of each control and each perturbed cell, float32 [2, B, S]; for a head that counts."""
    shift: torch.Tensor | None = None
    """float32 [B, G], log1p, mean shift of all training cells of each condition from control cells of the role target;
    for a network that is given evidence."""
    trust: torch.Tensor | None = None
    """float32 [B], weight of each shift, by its number of cells."""
    place: torch.Tensor | None = None
    """int64 [B], each condition's place in the store's contexts x labels, by which validation scores it; stays on the
    CPU."""
    full: bool = False
    """Whether the host knows that the mask is True everywhere: cells then attend to each other without one, and nobody
    has to ask the device."""
    perturbed_cells: int = 0
    """Perturbed cells in the batch, without those of control sets: what throughput counts."""

    def to(self, device: torch.device) -> "TrainingBatch":
        """Return the batch on a device, all but the keys and places."""
        given = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor) and name not in ("key", "place")
        }
        return replace(self, condition=self.condition.to(device), **given)
