"""Run cell-eval2 in the environment of this script.

It computes the members of the Virtual Cell Challenge 2026 with the challenge's own settings, but for two: counts need
not be whole, and a label that is no gene is declared to target none.
"""

# pyright: reportMissingImports=false
# The package lies in this driver's own environment, and task_lines beside this script.
import math
from dataclasses import replace


def members() -> list[str]:
    """Return the names of the scored members."""
    from cell_eval2.competition import competition_members

    return list(competition_members())


def settings(task: dict):
    """Return cell-eval2's settings for the observed cells of a task."""
    from cell_eval2 import EvalConfig

    config = EvalConfig.from_preset("vcc2026")
    return replace(
        config,
        pert_col=task["label"],
        control=task["control"],
        validate_input=False,
        target_gene_map={label: label if gene else None for label, gene in task["targets"].items()},
        device="cpu",
        de=replace(config.de, backend="pdex"),
        num_threads=task["threads"],
        cache_real=task["cache"],
    )


def panel(scores) -> dict:
    """Return member -> its value over the panel; a member without a finite one is left out."""
    from cell_eval2 import aggregate_metrics
    from cell_eval2.catalog import CATALOG

    names = members()
    try:
        table = aggregate_metrics(scores, metrics=names)
    except ValueError:  # the observed effects, less their noise, sum to nothing: no ratio to them
        table = aggregate_metrics(scores, metrics=[name for name in names if CATALOG[name].derived is None])
    found = dict(zip(table["metric"].to_list(), table["mean"].to_list(), strict=True))
    return {name: found[name] for name in names if math.isfinite(found.get(name, math.nan))}


def baseline(real, config) -> dict:
    """Return the 0 points: the panel's values of the mean observed response, given to every perturbation."""
    from cell_eval2 import baseline, compute_metrics

    columns = {"pert_col": config.pert_col, "control": config.control}
    profile = baseline.generic_response_profile(real, target_gene_map=config.target_gene_map, **columns)
    return panel(compute_metrics(baseline.build_baseline_prediction(profile, real, **columns), real, config=config))


def replicate(real, config) -> dict:
    """Return the 1 points: the panel's values of one half of the cells against the other, mean over five divisions.

    `anchor.compute_replicate_anchor` is the same, but refuses a panel where any member has no value.
    """
    from cell_eval2 import anchor, compute_lfc_nmae_reference, compute_metrics, run
    from cell_eval2.ceiling import _disjoint_halves
    from cell_eval2.competition import derived_seeds

    found: dict = {}
    inner = anchor._inner_config(config)
    table = run._compute_de_side(real, cfg=config, fp=None, store=None, side="real")
    for seed in derived_seeds():
        first, second = _disjoint_halves(real, config.pert_col, config.control, seed)
        values = panel(compute_metrics(second, first, config=inner))
        # The gate and the denominator of this member are those of all cells.
        _, reference = compute_lfc_nmae_reference(real, config=config, seed=seed, de_real=table)
        values["de_wilcoxon_lfc_nmae"] = reference["nmae_ref_raw"][0]
        for name in members():
            found.setdefault(name, []).append(values.get(name))
    means = {name: sum(values) / len(values) for name, values in found.items() if None not in values}
    return {name: mean for name, mean in means.items() if math.isfinite(mean)}


def points(task: dict) -> dict:
    """Return the 0 and the 1 points of the observed cells."""
    import anndata

    real, config = anndata.read_h5ad(task["observed"]), settings(task)
    return {"baseline": baseline(real, config), "replicate": replicate(real, config)}


def score(task: dict) -> dict:
    """Return the values of predicted cells, and their place between the 0 and the 1 points, a member each."""
    from cell_eval2 import compute_metrics
    from cell_eval2.catalog import CATALOG
    from cell_eval2.scoring import is_degenerate, score_one

    values = panel(compute_metrics(task["predicted"], task["observed"], config=settings(task)))
    scaled = {}
    for name in set(task["baseline"]) & set(task["replicate"]):
        policy = replace(CATALOG[name].scoring, anchor=task["replicate"][name])
        if not is_degenerate(task["baseline"][name], policy):
            scaled[name] = score_one(values.get(name), task["baseline"][name], policy)
    return {"values": values, "scaled": scaled}


if __name__ == "__main__":
    from task_lines import answer_tasks

    answer_tasks(lambda task: (score if "predicted" in task else points)(task))
