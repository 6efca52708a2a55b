"""Say in two sentences how a prediction stands: against its best baselines, and what speaks against believing it."""

from bionemo.perteval.evaluation import Evaluation
from bionemo.perteval.metrics.registry import headline
from bionemo.perteval.report.text import cannot_tell, enumerated, sign
from bionemo.perteval.report.warnings import reasons


def verdict(evaluation: Evaluation, arm: str) -> tuple[str, str]:
    """Return the two sentences about a prediction.

    The first counts the headline metrics that tell anything on this screen, by the interval of the difference from the
    baseline with the best mean. The second names what speaks against the scores, the gravest first.
    """
    return _standing(evaluation, arm), _trust(evaluation, arm)


def _standing(evaluation: Evaluation, arm: str) -> str:
    rows = evaluation.strata
    rows = rows[(rows["by"] == "all") & (rows["arm"] == arm)].set_index("metric")
    telling = [metric.name for metric in headline() if not cannot_tell(evaluation, metric)]
    signs = {name: sign(float(rows.loc[name, "low"]), float(rows.loc[name, "high"])) for name in telling}  # type: ignore[arg-type]
    ahead, behind = ([name for name in telling if signs[name] == of] for of in ("▲", "▽"))
    of = f"of the {len(telling)} metrics that tell anything here" if len(telling) > 1 else "by the only one that tells"
    if not telling:
        return f"{arm} cannot be told from its baselines: no metric tells a replicate from them on this screen."
    if ahead and behind:
        return (
            f"{arm} is ahead of its best baseline in {enumerated(ahead)} and behind it in {enumerated(behind)}, {of}."
        )
    if ahead:
        return f"{arm} is ahead of its best baseline in {enumerated(ahead)} and behind it in none, {of}."
    if behind:
        return f"{arm} is behind its best baseline in {enumerated(behind)} and ahead of it in none, {of}."
    return f"{arm} is level with its best baselines: no difference is larger than its interval, {of}."


def _trust(evaluation: Evaluation, arm: str) -> str:
    raised = [flag.check for flag in evaluation.flags if flag.raised and flag.arm == arm]
    invalid = [check.name for check in raised if check.kind == "invalid"]
    if invalid:
        return f"These scores do not measure prediction: the check of {enumerated(invalid)} calls them invalid."
    cautions = [f"the check of {check.name}" for check in raised]
    against = [*cautions, *reasons(evaluation)]
    if against:
        return f"Against trusting it {'speak' if len(against) > 1 else 'speaks'} {enumerated(against)}; see below."
    return "No check and no warning speaks against these scores."
