"""Hold the result of an evaluation: the scores of every arm, and the tables that follow from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from bionemo.perteval.checks import flags
from bionemo.perteval.checks.flags import Flag
from bionemo.perteval.checks.profiles import Profiles
from bionemo.perteval.metrics import calibration, challenge, intervals, strata
from bionemo.perteval.metrics.registry import METRICS, STRONG_EFFECT, directed, headline
from bionemo.perteval.metrics.scores import failed
from bionemo.perteval.populations.baselines import CONTROL_CELLS, TRANSFERRED_DELTA
from bionemo.perteval.populations.catalogue import Arm
from bionemo.perteval.populations.ceiling import SPLIT_HALVES, spearman_brown
from bionemo.screens.controls import Controls
from bionemo.screens.errors import InputError

_CONDITION = ["context", "perturbation"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An `Evaluation` holds the scores of predictions, baselines, oracles and the ceiling; each of them is an *arm*.

    The scores are under independent control cells where those were asked for, and `shared` has those under shared ones.
    """

    per_perturbation: pd.DataFrame
    """One row per arm, context and perturbation: ``n_cells`` and the metrics; NaN where a metric has no value. Means
    over training seeds, NaN where one of them failed, over splits for the ceiling, and over the divisions of the
    control cells."""
    per_seed: pd.DataFrame
    """The same for the predictions, one row a training seed, with a column ``seed`` (0, 1, ...)."""
    arms: dict[str, Arm]
    """Arm -> its kind (prediction, baseline, oracle, ceiling) and what it is, in the order of the tables."""
    profiles: Profiles
    """What the pictures of the report are drawn from."""
    settings: dict[str, Any]
    """Arguments of `evaluate` after defaults and the prediction's own statements, and what the baselines used."""
    versions: dict[str, str]
    """Versions of the packages that decide the numbers."""
    controls: Controls = Controls.INDEPENDENT
    """Which control cells the scores are under."""
    shared: "Evaluation | None" = None
    """The same under shared control cells, as published protocols have them; None where not asked for, or where they
    are the scores themselves."""
    noise: dict[str, float] = field(default_factory=dict)
    """Context -> share of the variance over genes of the observed shifts that is sampling noise, by split halves."""
    notices: tuple[str, ...] = ()
    """What the reader has to know before any number: which conditions were left out, and what predicted."""
    notes: tuple[str, ...] = ()
    """What the reader of the numbers has to know beside."""
    other_engine: pd.DataFrame | None = None
    """The metrics of cell-eval as another release computes them, in the form of `per_perturbation`; None where not
    asked for."""
    challenge: pd.DataFrame | None = None
    """The members of the Virtual Cell Challenge 2026 as cell-eval2 computes them, as `engines.challenge` returns them;
    None where not asked for."""

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that were computed."""
        return [name for name in METRICS if name in self.per_perturbation]

    @property
    def predictions(self) -> list[str]:
        """Arms that are predictions."""
        return self._of_kind("prediction")

    @cached_property
    def flags(self) -> list[Flag]:
        """Every check of every prediction, raised or not."""
        return flags.flags(self.profiles, self.predictions)

    @property
    def kinds(self) -> "list[Evaluation]":
        """The evaluation itself and, where it is there, the same under shared control cells."""
        return [self] if self.shared is None else [self, self.shared]

    @cached_property
    def per_context(self) -> pd.DataFrame:
        """Mean over the perturbations that have a value. Index: (arm, context); columns: metrics."""
        return self._per_context(self.per_perturbation)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Mean over contexts of `per_context`. Index: arm; columns: metrics."""
        return _over_contexts(self.per_context)

    @cached_property
    def missing(self) -> pd.DataFrame:
        """Number of (context, perturbation) pairs without a value. Index: arm; columns: metrics."""
        empty = self.per_perturbation[self.metrics].isna()
        return pd.DataFrame(empty.groupby(self.per_perturbation["arm"], sort=False).sum())

    @cached_property
    def intervals(self) -> pd.DataFrame:
        """Bootstrap intervals of `table`. Index: (arm, metric); columns: low, high."""
        return intervals.intervals(self.per_perturbation, self.metrics, seed=self.settings["seed"])

    @cached_property
    def strong(self) -> "Evaluation | None":
        """The same of the conditions with at least `STRONG_EFFECT` observed DE genes; None where there are none."""
        mine = pd.DataFrame(self.per_perturbation[self.per_perturbation["arm"] == self.predictions[0]])
        effects = pd.DataFrame(mine.loc[mine["n_de_observed"] >= STRONG_EFFECT, _CONDITION])
        strong = pd.MultiIndex.from_frame(effects)
        if not len(strong):
            return None
        return replace(
            self,
            per_perturbation=_only(self.per_perturbation, strong),
            per_seed=_only(self.per_seed, strong),
            other_engine=None if self.other_engine is None else _only(self.other_engine, strong),
            challenge=None,
            shared=None,
        )

    @cached_property
    def conditions(self) -> int:
        """Number of scored (context, perturbation) pairs."""
        return len(pd.DataFrame(self.per_perturbation[_CONDITION]).drop_duplicates())

    @cached_property
    def per_seed_table(self) -> pd.DataFrame:
        """`table` of every training seed, over the conditions where all seeds of the arm have a value.

        Index: (arm, seed); columns: metrics.
        """
        failed = self.per_seed[self.metrics].isna().groupby([self.per_seed[name] for name in ("arm", *_CONDITION)])
        scores = self.per_seed.assign(**self.per_seed[self.metrics].mask(failed.transform("any")))
        parts = {seed: _over_contexts(self._per_context(rows)) for seed, rows in scores.groupby("seed")}
        return pd.concat(parts, names=["seed"]).swaplevel().sort_index(kind="stable")

    @cached_property
    def seed_spread(self) -> pd.DataFrame:
        """Standard deviation over training seeds of their means. Index: arm; columns: metrics; NaN for one seed."""
        return pd.DataFrame(self.per_seed_table.groupby("arm", sort=False).std())

    @cached_property
    def failed_seeds(self) -> list[str]:
        """One sentence for each training seed that lacks values which other seeds of the same prediction have."""
        empty = self.per_seed[["arm", "seed", *_CONDITION]].join(failed(self.per_seed))
        several = empty.groupby(["arm", *_CONDITION])[self.metrics].transform("sum")
        seeds = empty.groupby(["arm", *_CONDITION])["seed"].transform("size")
        alone = empty[self.metrics] & several.lt(seeds, axis=0)
        counts = alone.groupby([empty["arm"], empty["seed"]], sort=False).sum()
        return [
            f"Training seed {seed} of {arm} has no {name} in {count} of {self.conditions} conditions; they are left "
            f"out of the mean of {arm}."
            for (arm, seed), row in counts.iterrows()
            for name, count in row.items()
            if count
        ]

    @cached_property
    def corrected_ceiling(self) -> pd.Series:
        """The split halves after Spearman-Brown, for the metrics where it means something.

        Corrected for every (context, perturbation), then averaged as in `table`.
        """
        names = [name for name in self.metrics if METRICS[name].corrected]
        rows = pd.DataFrame(self.per_perturbation[self.per_perturbation["arm"] == SPLIT_HALVES]).copy()
        rows[names] = spearman_brown(rows[names].to_numpy(np.float64))
        return _over_contexts(self._per_context(rows)).loc[SPLIT_HALVES, names]

    @property
    def target(self) -> str:
        """The baseline to beat."""
        return TRANSFERRED_DELTA if TRANSFERRED_DELTA in self.arms else CONTROL_CELLS

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """Whether each metric tells a replicate from a prediction that knows no perturbation; see `calibrate`."""
        return calibration.calibrate(
            self.per_perturbation,
            self.table,
            negatives=[name for name, arm in self.arms.items() if arm.generic],
            positives=self._of_kind("ceiling"),
            metrics=[metric for metric in directed() if metric.name in self.metrics],
            seed=self.settings["seed"],
        )

    @cached_property
    def placed(self) -> pd.DataFrame:
        """Strata of every condition, as `strata.place` returns them. Index: (context, perturbation)."""
        return strata.place(
            self.per_perturbation,
            baseline=self.best_baseline(strata.METRIC),
            negative=CONTROL_CELLS,
            replicate=SPLIT_HALVES,
        )

    @cached_property
    def strata(self) -> pd.DataFrame:
        """Every prediction against the best baseline of each stratum in the headline metrics; see `strata.ahead`."""
        return strata.ahead(
            self.per_perturbation,
            self.placed,
            predictions=self.predictions,
            baselines=self._of_kind("baseline"),
            metrics=headline(),
            seed=self.settings["seed"],
        )

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """Every prediction against every later one and against the baseline to beat.

        Index: (first, second, metric); columns as of `intervals.compare`. Empty where there is nothing to compare.
        """
        names = self.predictions
        pairs = [(first, second) for place, first in enumerate(names) for second in names[place + 1 :]]
        return self._compared([*pairs, *((name, self.target) for name in names)])

    @cached_property
    def beside_ceiling(self) -> pd.DataFrame:
        """Every prediction against the split halves, in the form of `comparisons`."""
        return self._compared([(name, SPLIT_HALVES) for name in self.predictions])

    @cached_property
    def engines(self) -> pd.DataFrame | None:
        """Mean scores of this and of the other release of cell-eval; None where no other was asked for.

        Index: (arm, metric), the metrics that both compute; columns: the two releases.
        """
        if self.other_engine is None:
            return None
        shared = [name for name in self.metrics if name in self.other_engine]
        other = self.other_engine.groupby(["arm", "context"], sort=False)[shared].mean()
        pair = {
            self.versions["cell-eval"]: self.table[shared].stack(future_stack=True),
            self.versions["other cell-eval"]: other.groupby("arm", sort=False).mean().stack(future_stack=True),
        }
        table = pd.DataFrame(pair).rename_axis(["arm", "metric"])
        return table.loc[[arm for arm in self.arms if arm in other.index]]

    @cached_property
    def challenge_table(self) -> pd.DataFrame | None:
        """Scaled members of the Virtual Cell Challenge 2026 and their mean; None where not asked for. Index: arm."""
        if self.challenge is None:
            return None
        table = challenge.overview(self.challenge)
        return table.loc[[arm for arm in self.arms if arm in table.index]]

    def compared(self, first: str, second: str) -> pd.DataFrame:
        """Return the rows of `comparisons` for two arms. Index: metric."""
        pair = self.comparisons.index.droplevel("metric") == (first, second)
        return pd.DataFrame(self.comparisons[pair]).droplevel(["first", "second"])

    def compare(self, first: str, second: str) -> pd.DataFrame:
        """Compare two arms over the conditions where both have a value; see `intervals.compare`.

        Raises
        ------
        InputError
            Where there is no such arm.
        """
        for arm in (first, second):
            self._check_arm(arm)
        return self._compared([(first, second)])

    def normalised(self, baseline: str = CONTROL_CELLS) -> pd.DataFrame:
        """Return (score - baseline) / (ceiling - baseline), not clipped: 0 is the baseline, 1 the ceiling.

        Parameters
        ----------
        baseline
            Arm that counts as 0.

        Returns
        -------
        pd.DataFrame
            Index: arm; columns: the metrics that have a better direction. NaN where the ceiling is not better than the
            baseline, because a share of the way between them means nothing then.

        Raises
        ------
        InputError
            Where there is no such arm.
        """
        self._check_arm(baseline)
        sign = {metric.name: metric.sign for metric in directed() if metric.name in self.per_perturbation}
        table = self.table[list(sign)]
        gap = table.loc[SPLIT_HALVES] - table.loc[baseline]
        return (table - table.loc[baseline]) / gap.where(gap * pd.Series(sign) > 0)

    def best(self, metric: str) -> set[str]:
        """Return the arms with the best score, oracles and ceiling apart; empty for a plain count."""
        honest = [*self.predictions, *self._of_kind("baseline")]
        leader = calibration.best_of(self.table, honest, METRICS[metric])
        if METRICS[metric].best is None or leader is None:
            return set()
        scores = self.table.loc[honest, metric]
        return set(scores.index[np.isclose(scores, scores[leader], rtol=1e-6, atol=0.0)])

    def best_baseline(self, metric: str) -> str:
        """Return the baseline with the best mean; the control cells where none has a value."""
        return calibration.best_of(self.table, self._of_kind("baseline"), METRICS[metric]) or CONTROL_CELLS

    def _of_kind(self, kind: str) -> list[str]:
        return [name for name, arm in self.arms.items() if arm.kind == kind]

    def _compared(self, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
        return intervals.compare(self.per_perturbation, pairs, self.metrics, seed=self.settings["seed"])

    def _per_context(self, scores: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame(scores.groupby(["arm", "context"], sort=False)[self.metrics].mean())

    def _check_arm(self, arm: str) -> None:
        if arm not in self.arms:
            raise InputError(f"There is no arm {arm!r}; the arms are {', '.join(self.arms)}.")


def _over_contexts(per_context: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(per_context.groupby("arm", sort=False).mean())


def _only(scores: pd.DataFrame, conditions: pd.MultiIndex) -> pd.DataFrame:
    here = pd.MultiIndex.from_frame(pd.DataFrame(scores[_CONDITION]))
    return pd.DataFrame(scores[here.isin(conditions)]).reset_index(drop=True)
