"""Draw what a simulated screen's cells come from: profiles, pathways, and effects that follow from a cell's state.

A *state* is a context and one of its subpopulations. Genes belong to modules, and each state has an activity ``a_m`` of
every module m. What a perturbation does in a state follows from these activities:

    gain(m)  = 2 sigmoid(3 a_m)                sensitivity by the activity of a pathway, the gate
    reach    = occupancy * target              target: 1 where the target gene is expressed, else 0.2
    module m : S(a_m + sum reach gain(gate_m) drive_m) - S(a_m)
    gene g   : S(sum reach gain(module of g) direct_g), a few genes of the perturbation's own

``S(x) = 2 tanh(x / 2)`` saturates: what is active already hardly rises further. Occupancy is ``d^h / (d^h + EC50^h)``
of a dose d (Hill 1910), and 1 without doses. In a combination the sums inside S go over two perturbations, and each
gate sees what the partner does to its module: the effect is not the sum of the two. Perturbations of one family drive
the same three modules through the same gates.
"""

from dataclasses import dataclass, replace

import numpy as np

from bionemo.screens.errors import InputError

CONTROL_SHARE = 3  # cells of the control group for each cell of a perturbation
MINIMUM_GENES = 20  # below that, modules and targets have no genes to act on
COUNTS_PER_GENE = 1.2  # median library size divided by the number of genes
LOWEST_DOSE, HIGHEST_DOSE = 0.1, 10.0  # micromolar; the doses of a series lie evenly between on a logarithmic axis


@dataclass(frozen=True, kw_only=True)
class SimulationSize:
    """A `SimulationSize` holds the sizes and shares that a screen is simulated from.

    Raises
    ------
    InputError
        A size or share is out of its range, or there are fewer cells than the conditions need.
    """

    cells: int = 20_000
    """Number of cells over all conditions."""
    genes: int = 1000
    """Number of genes. The median library is 1.2 times as large."""
    contexts: int = 4
    perturbations: int = 12
    """Number of perturbations beside the control."""
    batches: int = 2
    seed: int = 0
    """Seed of every random number."""
    subpopulations: int = 3
    """Number of cell states that each context is a mixture of; contexts have the same ones in other shares."""
    doses: int = 1
    """Number of doses of every perturbation, 0.1 to 10 uM; 1 gives labels without a dose."""
    combinations: int = 0
    """Number of pairs of perturbations that are given together, at the highest dose."""
    independent: float = 0.0
    """Share of an effect's variance that is drawn anew for each context, which nothing can learn; 0 to 1."""

    def __post_init__(self):
        for name in ("cells", "contexts", "perturbations", "batches", "subpopulations", "doses"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"{name} is {value}: ask for at least 1")
        if self.genes < MINIMUM_GENES:
            raise InputError(f"genes is {self.genes}: ask for at least {MINIMUM_GENES}")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: give a whole number of 0 or more")
        if not 0 <= self.combinations <= (pairs := self.perturbations * (self.perturbations - 1) // 2):
            raise InputError(f"combinations is {self.combinations}: {self.perturbations} perturbations have {pairs}")
        if not 0 <= self.independent <= 1:
            raise InputError(f"independent is {self.independent}: give a share between 0 and 1")
        groups = self.contexts * self.batches
        if self.cells < (needed := groups * (self.labels + CONTROL_SHARE)):
            raise InputError(
                f"cells is {self.cells}, too few for {groups * (self.labels + 1)} conditions: ask for at least "
                f"{needed}, or for fewer contexts, perturbations, doses, combinations or batches"
            )

    @property
    def labels(self) -> int:
        """Return the number of perturbation labels beside the control's."""
        return self.perturbations * self.doses + self.combinations


@dataclass(frozen=True, kw_only=True)
class Treatments:
    """`Treatments` say which perturbations each label stands for; a label has one or two.

    P labels; a label of one perturbation has it twice, the second time with an occupancy of 0.
    """

    names: list[str]  # P labels, spelled as `bionemo.screens.labels` reads them
    agents: np.ndarray  # int [P, 2] perturbations
    occupancy: np.ndarray  # [P, 2] share of the full effect that the dose has


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A `Truth` holds what the cells are drawn from; logarithms are natural.

    K contexts, U subpopulations, P labels, N batches, M modules, A perturbations, G genes.
    """

    baseline: np.ndarray  # [K, U, G] log rate up to a constant per state
    share: np.ndarray  # [K, U] share of a context's cells
    batch: np.ndarray  # [N, G] log factor
    cycle: np.ndarray  # [2, G] loadings on the cosine and sine of a cell's phase
    state: np.ndarray  # [K, G] loadings on a cell's continuous state
    dispersion: np.ndarray  # [G] alpha of variance = mean + alpha * mean^2
    treatments: Treatments
    reach: np.ndarray  # [K, P, 2] occupancy * target
    access: np.ndarray  # [K, U, G] gain of each gene's module, 1 without one
    moved: np.ndarray  # [K, U, P, M] change of each module
    modules: np.ndarray  # [M, G] loadings
    direct: np.ndarray  # [A, G] log fold changes of genes of a perturbation's own, at a reach and a gain of 1
    kept: float = 1.0  # what the part that follows from the state is multiplied by
    independent: np.ndarray | None = None  # [K, P, G] what no state explains

    def effect(self, context: np.ndarray, subpopulation: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Return log fold changes of the expected count, [n, G], of n conditions given by their indices."""
        effect = self.learnable(context, subpopulation, label)
        return effect if self.independent is None else effect + self.independent[context, label]

    def learnable(self, context: np.ndarray, subpopulation: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Return the part of `effect` that follows from the state, [n, G]."""
        reach, agents = self.reach[context, label], self.treatments.agents[label]
        direct = reach[:, :1] * self.direct[agents[:, 0]] + reach[:, 1:] * self.direct[agents[:, 1]]
        own = _saturated(direct * self.access[context, subpopulation])
        return self.kept * (self.moved[context, subpopulation, label] @ self.modules + own)

    def variance_shares(self) -> dict[str, float]:
        """Return which shares of the effects' squared size are common, follow from the state, and are independent.

        `common` is a label's mean over all states, `state` what its learnable part differs from that by, and
        `independent` the rest; they sum to 1. A screen without effects has zeros.
        """
        common, square, independent = 0.0, 0.0, 0.0
        for label in range(len(self.treatments.names)):
            context, subpopulation = (axis.ravel() for axis in np.indices(self.share.shape))
            learnable = self.learnable(context, subpopulation, np.full_like(context, label))
            common += np.square(learnable.mean(axis=0)).sum() * len(learnable)
            square += np.square(learnable).sum()
            if self.independent is not None:
                independent += np.square(self.independent[context, label]).sum()
        total = (square + independent) or 1.0
        return {"common": common / total, "state": (square - common) / total, "independent": independent / total}


def draw_truth(size: SimulationSize, rng: np.random.Generator) -> Truth:
    """Draw the profiles, programs and effects of a screen."""
    n_modules = max(4, min(20, size.genes // 40))
    # Most genes belong to one module; the last column collects those that belong to none.
    member = rng.integers(0, round(n_modules * 1.4), size.genes)
    loading = rng.uniform(0.5, 1.5, size.genes)
    modules = np.where(member == np.arange(n_modules)[:, None], loading, 0.0)  # [M, G]

    profile = rng.normal(0.0, 1.9, size.genes)
    activity_KUM = rng.choice([-1.2, 0.0, 1.2], p=[0.35, 0.3, 0.35], size=(size.contexts, 1, n_modules))
    states_UM = rng.choice([-1.0, 0.0, 1.0], p=[0.4, 0.2, 0.4], size=(size.subpopulations, n_modules))
    activity_KUM = activity_KUM + (states_UM if size.subpopulations > 1 else 0.0)
    baseline_KUG = profile + _saturated(activity_KUM) @ modules
    baseline_KUG += rng.normal(0.0, 0.2, (size.contexts, 1, size.genes))

    phase = rng.uniform(0, 2 * np.pi, size.genes)
    cycling = np.where(rng.random(size.genes) < 0.1, rng.uniform(0.4, 1.2, size.genes), 0.0)
    mean = COUNTS_PER_GENE * size.genes * softmax(profile)
    # Each perturbation has a target gene among the better expressed; in some contexts it is silent.
    target = rng.choice(np.argsort(profile)[-max(2, size.genes // 4) :], size.perturbations)
    silent_KA = rng.random((size.contexts, size.perturbations)) < 0.15
    for context, agent in np.argwhere(silent_KA):
        baseline_KUG[context, :, target[agent]] = profile[target[agent]] - 5.0

    family = rng.permutation(np.arange(size.perturbations) % max(1, round(size.perturbations / 3)))
    drive, direct, gate = _draw_effects(size, family, modules, rng)
    treatments = _draw_treatments(size, family, rng)
    reach_KP2 = np.where(silent_KA, 0.2, 1.0)[:, treatments.agents] * treatments.occupancy
    truth = Truth(
        baseline=baseline_KUG,
        share=rng.dirichlet(np.full(size.subpopulations, 8.0), size.contexts),
        batch=rng.normal(0.0, 0.1, (size.batches, size.genes)),
        cycle=cycling * np.stack([np.cos(phase), np.sin(phase)]),
        state=rng.normal(0.0, 0.35, (size.contexts, n_modules)) @ modules,
        # Dispersion falls with the mean, towards a floor, and scatters around that trend.
        dispersion=(0.15 + 0.3 / np.sqrt(mean)) * rng.lognormal(0.0, 0.2, size.genes),
        treatments=treatments,
        reach=reach_KP2,
        access=np.where(modules.any(axis=0), _gain(activity_KUM) @ (modules > 0), 1.0),
        moved=moved_modules(activity_KUM, reach_KP2, drive[treatments.agents], gate[treatments.agents]),
        modules=modules,
        direct=direct,
    )
    return _with_independent(truth, size.independent, rng) if size.independent else truth


def _draw_effects(
    size: SimulationSize, family: np.ndarray, modules: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw what perturbations drive [A, M], their direct effects [A, G] and the gates of their drives [A, M]."""
    n_families, n_modules = family.max() + 1, len(modules)
    weights = np.zeros((n_families, n_modules))
    for row in weights:
        row[rng.choice(n_modules, 3, replace=False)] = rng.choice([-1.0, 1.0], 3) * rng.uniform(0.7, 1.3, 3)
    gate = rng.integers(0, n_modules, (n_families, n_modules))[family]
    direct = np.zeros((size.perturbations, size.genes))
    for row in direct:
        chosen = rng.choice(size.genes, max(2, round(0.03 * size.genes)), replace=False)
        row[chosen] = rng.choice([-1.0, 1.0], len(chosen)) * rng.uniform(0.5, 1.5, len(chosen))

    # Evenly spread strengths in random order: every seed has weak and strong perturbations.
    strength = rng.permutation(np.geomspace(0.15, 0.45, size.perturbations))
    n_null = 0 if size.perturbations < 4 else 1 if size.perturbations < 16 else 2
    strength[rng.choice(size.perturbations, n_null, replace=False)] = 0.0
    drive = np.sqrt(0.7) * strength[:, None] * (weights / _length(weights @ modules))[family]
    return drive, np.sqrt(0.3) * strength[:, None] * direct / _length(direct), gate


def _draw_treatments(size: SimulationSize, family: np.ndarray, rng: np.random.Generator) -> Treatments:
    """Name the labels, and say what share of its full effect each perturbation has in them.

    Pairs of one family, whose effects do not add up, are four times as likely to be combined as others.
    """
    agents = numbered("perturbation", size.perturbations)
    half = np.exp(rng.normal(0.0, 0.7, size.perturbations))  # EC50, micromolar
    slope = rng.uniform(1.0, 2.0, size.perturbations)
    doses = np.geomspace(LOWEST_DOSE, HIGHEST_DOSE, size.doses) if size.doses > 1 else np.array([np.inf])
    spelled = [f"+{dose:.3g}uM" if np.isfinite(dose) else "" for dose in doses]
    occupancy = 1 / (1 + (half[:, None] / doses) ** slope[:, None])  # [A, doses]

    names = [agent + dose for agent in agents for dose in spelled]
    pairs = [(agent, agent) for agent in range(size.perturbations) for _ in doses]
    taken = [(share, 0.0) for share in occupancy.ravel()]
    possible = np.argwhere(np.triu(np.ones((size.perturbations, size.perturbations)), 1))
    chance = np.where(family[possible[:, 0]] == family[possible[:, 1]], 4.0, 1.0)
    chosen = rng.choice(len(possible), size.combinations, replace=False, p=chance / chance.sum()) if len(chance) else []
    for one, other in possible[np.sort(chosen).astype(int)]:
        names.append(f"{agents[one]}{spelled[-1]}+{agents[other]}{spelled[-1]}")
        pairs.append((one, other))
        taken.append((occupancy[one, -1], occupancy[other, -1]))
    return Treatments(names=names, agents=np.array(pairs), occupancy=np.array(taken))


def moved_modules(
    activity_KUM: np.ndarray, reach_KP2: np.ndarray, drive_P2M: np.ndarray, gate_P2M: np.ndarray
) -> np.ndarray:
    """Return the change of each module's activity, saturated, [K, U, P, M]."""
    reach = reach_KP2[:, None, ..., None]  # [K, 1, P, 2, 1]
    alone = reach * _gain(activity_KUM[:, :, gate_P2M]) * drive_P2M
    heard = activity_KUM[:, :, None, None] + alone[..., ::-1, :]  # a gate sees what the partner does to it
    gain = _gain(np.take_along_axis(heard, np.broadcast_to(gate_P2M, heard.shape), axis=-1))
    driven = (reach * gain * drive_P2M).sum(axis=3)
    resting = activity_KUM[:, :, None]
    return _saturated(resting + driven) - _saturated(resting)


def _with_independent(truth: Truth, share: float, rng: np.random.Generator) -> Truth:
    """Return a truth where a share of each label's variance is drawn anew for every context."""
    n_contexts, n_labels, n_genes = len(truth.share), len(truth.treatments.names), truth.modules.shape[1]
    context, subpopulation = (axis.ravel() for axis in np.indices(truth.share.shape))
    labels = (np.full_like(context, label) for label in range(n_labels))
    size_P1 = np.stack([_length(truth.learnable(context, subpopulation, label).ravel()) for label in labels])
    drawn = rng.normal(size=(n_contexts, n_labels, n_genes)) * (rng.random((n_contexts, n_labels, n_genes)) < 0.1)
    drawn *= np.sqrt(share) * size_P1 / _length(drawn)
    return replace(truth, kept=np.sqrt(1 - share), independent=drawn)


def numbered(prefix: str, count: int) -> list[str]:
    """Number labels from one, padded so that they sort."""
    return [f"{prefix}_{number:0{len(str(count))}d}" for number in range(1, count + 1)]


def _gain(activity: np.ndarray) -> np.ndarray:
    """Return how strongly cells respond at an activity of the gate, 0 to 2; 1 at an activity of 0."""
    return 2 / (1 + np.exp(-3 * activity))


def _saturated(value: np.ndarray) -> np.ndarray:
    """Return S(x) = 2 tanh(x / 2): x near 0, and never beyond 2."""
    return 2 * np.tanh(value / 2)


def _length(rows: np.ndarray) -> np.ndarray:
    """Return the root mean square over the last axis, kept; not below 1e-9, for a module may have no genes."""
    return np.maximum(np.sqrt(np.square(rows).mean(axis=-1, keepdims=True)), 1e-9)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return shares over the last axis, which sum to one."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)
