"""Draw what a simulated screen's cells come from: profiles, modules, and the true effects of perturbations."""

from dataclasses import dataclass

import numpy as np

from bionemo.screens.errors import InputError

CONTROL_SHARE = 3  # cells of the control group for each cell of a perturbation
MINIMUM_GENES = 20  # below that, modules and targets have no genes to act on
COUNTS_PER_GENE = 1.2  # median library size divided by the number of genes


@dataclass(frozen=True, kw_only=True)
class SimulationSize:
    """A `SimulationSize` holds the sizes and shares that a screen is simulated from.

    Attributes
    ----------
    cells
        Number of cells over all conditions.
    genes
        Number of genes. The median library is 1.2 times as large.
    contexts, perturbations, batches
        Number of contexts, of perturbations beside the control, and of batches.
    seed
        Seed of every random number.
    shared
        Share of an effect's variance over genes that all contexts have in common, 0 to 1.
    responders
        Expected share of a population that responds to a perturbation with an effect, above 0 and at most 1. The
        conditions scatter around it, except at 1.

    Raises
    ------
    InputError
        A size or share is out of its range, or there are fewer cells than the conditions need.
    """

    cells: int = 20_000
    genes: int = 1000
    contexts: int = 4
    perturbations: int = 12
    batches: int = 2
    seed: int = 0
    shared: float = 0.6
    responders: float = 0.75

    def __post_init__(self):
        for name in ("cells", "contexts", "perturbations", "batches"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"{name} is {value}: ask for at least 1")
        if self.genes < MINIMUM_GENES:
            raise InputError(f"genes is {self.genes}: ask for at least {MINIMUM_GENES}")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: give a whole number of 0 or more")
        if not 0 <= self.shared <= 1:
            raise InputError(f"shared is {self.shared}: give a share between 0 and 1")
        if not 0 < self.responders <= 1:
            raise InputError(f"responders is {self.responders}: give a share above 0 and at most 1")
        groups = self.contexts * self.batches
        if self.cells < (needed := groups * (self.perturbations + CONTROL_SHARE)):
            raise InputError(
                f"cells is {self.cells}, too few for {groups * (self.perturbations + 1)} conditions: ask for at least "
                f"{needed}, or for fewer contexts, perturbations or batches"
            )


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A `Truth` holds what the cells are drawn from; logarithms are natural.

    K contexts, P perturbations, N batches, G genes.
    """

    baseline: np.ndarray  # [K, G] log rate up to a constant per context
    batch: np.ndarray  # [N, G] log factor
    cycle: np.ndarray  # [2, G] loadings on the cosine and sine of a cell's phase
    state: np.ndarray  # [K, G] loadings on a cell's continuous state
    effect: np.ndarray  # [K, P, G] log fold change of responders
    fraction: np.ndarray  # [K, P] expected share of responders
    dispersion: np.ndarray  # [G] alpha of variance = mean + alpha * mean^2


def draw_truth(size: SimulationSize, rng: np.random.Generator) -> Truth:
    """Draw the profiles, programs and effects of a screen."""
    n_modules = max(4, min(20, size.genes // 40))
    # Most genes belong to one module; the last column collects those that belong to none.
    member = rng.integers(0, round(n_modules * 1.4), size.genes)
    loading = rng.uniform(0.5, 1.5, size.genes)
    modules = np.where(member == np.arange(n_modules)[:, None], loading, 0.0)  # [modules, G]

    profile = rng.normal(0.0, 1.9, size.genes)
    activity = rng.choice([-1.0, 0.0, 1.0], p=[0.25, 0.5, 0.25], size=(size.contexts, n_modules))
    baseline = profile + activity @ modules + rng.normal(0.0, 0.2, (size.contexts, size.genes))

    phase = rng.uniform(0, 2 * np.pi, size.genes)
    cycling = np.where(rng.random(size.genes) < 0.1, rng.uniform(0.4, 1.2, size.genes), 0.0)
    cycle = cycling * np.stack([np.cos(phase), np.sin(phase)])
    state = rng.normal(0.0, 0.35, (size.contexts, n_modules)) @ modules

    mean = COUNTS_PER_GENE * size.genes * softmax(profile)
    # Dispersion falls with the mean, towards a floor, and scatters around that trend.
    dispersion = (0.15 + 0.3 / np.sqrt(mean)) * rng.lognormal(0.0, 0.2, size.genes)
    effect, active = _draw_effects(size, modules, rng)
    fraction = np.full((size.contexts, size.perturbations), float(size.responders))
    if size.responders < 1:
        concentration = 30.0
        fraction = rng.beta(concentration * size.responders, concentration * (1 - size.responders), fraction.shape)
    return Truth(
        baseline=baseline,
        batch=rng.normal(0.0, 0.1, (size.batches, size.genes)),
        cycle=cycle,
        state=state,
        effect=effect,
        fraction=fraction * active,
        dispersion=dispersion,
    )


def _draw_effects(size: SimulationSize, modules: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw log fold changes [K, P, G], and which perturbations [P] have any effect."""
    n_families = max(1, round(size.perturbations / 3))
    family = rng.permutation(np.arange(size.perturbations) % n_families)

    def part() -> np.ndarray:
        """Draw one unit-size effect per perturbation [P, G], alike within a family."""
        weights = np.zeros((n_families, len(modules)))
        for row in weights:
            row[rng.choice(len(modules), 2, replace=False)] = rng.choice([-1.0, 1.0], 2) * rng.uniform(0.7, 1.3, 2)
        targets = np.zeros((size.perturbations, size.genes))
        for row in targets:
            chosen = rng.choice(size.genes, max(2, round(0.03 * size.genes)), replace=False)
            row[chosen] = rng.choice([-1.0, 1.0], len(chosen)) * rng.uniform(0.5, 1.5, len(chosen))
        return _unit(np.sqrt(0.6) * _unit((weights @ modules)[family]) + np.sqrt(0.4) * _unit(targets))

    common = part()
    own = np.stack([part() for _ in range(size.contexts)])
    # Evenly spread strengths in random order: every seed has weak and strong perturbations.
    strength = rng.permutation(np.geomspace(0.15, 0.45, size.perturbations))
    n_null = 0 if size.perturbations < 4 else 1 if size.perturbations < 16 else 2
    active = np.ones(size.perturbations, dtype=bool)
    active[rng.choice(size.perturbations, n_null, replace=False)] = False
    effect = np.sqrt(size.shared) * common + np.sqrt(1 - size.shared) * own
    return (strength * active)[:, None] * effect, active


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return shares over the last axis, which sum to one."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _unit(effect: np.ndarray) -> np.ndarray:
    """Scale each row to root mean square 1; a row of zeros (a module without genes) stays."""
    size = np.sqrt((effect**2).mean(axis=-1, keepdims=True))
    return effect / np.where(size > 0, size, 1.0)
