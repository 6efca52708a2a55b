"""Keep what all conditions of a (context, batch) share: their control cells, as the model encodes them.

Every population of a (context, batch) starts from the first cells of one endless order of its control cells, cut into
sets of S cells, the size that the model was trained on. What depends on the control cells alone is worked out once a
set and kept.

Shapes: S cells of a set, G genes, D latent.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from bionemo.scale.flow.noise import set_noise
from bionemo.scale.inference.rounding import CountGrid
from bionemo.scale.inference.starts import Draw, Pools, chance, scale_to
from bionemo.scale.model.scale_model import ScaleModel

SETS_KEPT = 64
"""So many sets are kept with their latents."""

Place = tuple[str, str | None]
"""A context, and a batch of it or None."""


@dataclass
class SourceSet:
    """A `SourceSet` is one set of control cells."""

    expression: sparse.csr_matrix
    """float32 [S, G], log1p."""
    grid: CountGrid
    gaussian_SD: torch.Tensor
    """The noise of the source."""
    alone_SD: torch.Tensor | None = None
    """The cells encoded each on its own."""
    whole: tuple[torch.Tensor, torch.Tensor] | None = None
    """Latents of the whole set, and what the decoder makes of them before its projection to genes, [S, D] each."""


class SourceSets:
    """`SourceSets` makes source sets for a model in evaluation mode, and keeps the last ones.

    The order of the control cells and the noise follow from the seed.
    """

    def __init__(self, model: ScaleModel, pools: Pools, *, cells_per_set: int, seed: int):
        self.pools, self.cells_per_set = pools, cells_per_set
        self._model, self._seed = model, seed
        self._sets: OrderedDict[tuple[Place, int], SourceSet] = OrderedDict()
        self._draws: dict[Place, _PlaceDraw] = {}

    def forget_draws(self) -> None:
        """Free the orders of control cells, which are made again where they are asked for; sets are kept."""
        self._draws.clear()

    def rows(self, place: Place, cells: int) -> np.ndarray:
        """Return the control cells that a population of so many cells starts from, int [cells], among all."""
        found = self._draw(place)
        return self.pools.of_context(place[0]).rows[found.draw.first(cells)]

    def library(self, place: Place, cells: int) -> np.ndarray:
        """Return the library sizes of these control cells, [cells]."""
        return self.pools.of_context(place[0]).library[self._draw(place).draw.first(cells)]

    def scale_G(self, place: Place, cells: int) -> np.ndarray:
        """Return what each gene of these control cells is multiplied by, see :func:`scale_to`."""
        found = self._draw(place)
        if cells not in found.scales:
            drawn = self.pools.of_context(place[0]).expression[found.draw.first(cells)]  # pyright: ignore[reportIndexIssue]
            found.scales[cells] = scale_to(found.mean_G, drawn)
        return found.scales[cells]

    def get(self, place: Place, number: int) -> SourceSet:
        """Return a set of S cells, by its number in the order of the place's control cells."""
        key = place, number
        if key in self._sets:
            self._sets.move_to_end(key)
            return self._sets[key]
        context, size, model = self.pools.of_context(place[0]), self.cells_per_set, self._model
        inside = self._draw(place).draw.first((number + 1) * size)[number * size :]
        noise = set_noise(
            torch.from_numpy(chance(self._seed, "noise", *place, number).integers(2**62, size=1)),
            cells=size,
            width=model.scale.hidden_size,
            device=model.gene_mean.device,
        )
        made = self._sets[key] = SourceSet(
            context.expression[inside],  # pyright: ignore[reportIndexIssue, reportArgumentType]
            CountGrid(context.library[inside], model.vocabulary.target_sum),
            noise.gaussian_BSD[0],
        )
        if len(self._sets) > SETS_KEPT:
            self._sets.popitem(last=False)
        return made

    def encoded(self, source: SourceSet, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode the first cells of a set; only what is across cells depends on how many they are.

        Return latents, and what the decoder makes of them before its projection to genes, [cells, D] each.
        """
        model, whole = self._model, cells == self.cells_per_set
        if whole and source.whole is not None:
            return source.whole
        if source.alone_SD is None:
            # Set by set, so that the numbers do not depend on which others are encoded.
            dense_SG = torch.from_numpy(source.expression.toarray()).to(model.gene_mean.device)
            source.alone_SD = model.encoder.within_cell((dense_SG - model.gene_mean)[None])[0]
        assert source.alone_SD is not None
        z0_1SD = source.alone_SD[None, :cells]
        if model.encoder.across_cells is not None:
            z0_1SD = model.encoder.across_cells(z0_1SD, torch.ones_like(z0_1SD[..., 0], dtype=torch.bool))
        found = z0_1SD[0], model.expression_decoder.trunk(z0_1SD)[0]
        if whole:
            source.whole = found
        return found

    def _draw(self, place: Place) -> "_PlaceDraw":
        if place not in self._draws:
            members = self.pools.members(*place)
            pool: sparse.csr_matrix = self.pools.of_context(place[0]).expression[members]  # pyright: ignore
            mean_G = np.asarray(pool.mean(0), dtype=np.float64).ravel()
            self._draws[place] = _PlaceDraw(Draw(members, chance(self._seed, "cells", *place)), mean_G, {})
        return self._draws[place]


@dataclass
class _PlaceDraw:
    """The order of a place's control cells, and what follows from it."""

    draw: Draw
    """The value comes from :meth:`Pools.of_context`."""
    mean_G: np.ndarray
    """float64 [G], of all that are drawn from."""
    scales: dict[int, np.ndarray]
    """Number of cells -> scale, float32 [G]."""
