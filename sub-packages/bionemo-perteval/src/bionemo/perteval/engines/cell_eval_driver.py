"""Run cell-eval in the environment of this script."""

import math
import tempfile


def score(task: dict) -> list[dict]:
    """Score one pair of h5ad files; return one dictionary a perturbation, a missing number as None.

    Parameters
    ----------
    task
        predicted and observed (h5ad files, log1p), control, label (column of obs), metrics (names), threads.
    """
    import anndata
    from cell_eval import MetricsEvaluator
    from cell_eval.metrics import metrics_registry

    wanted = {name.removesuffix("_real").removesuffix("_pred") for name in task["metrics"]}
    with tempfile.TemporaryDirectory() as scratch:
        evaluator = MetricsEvaluator(
            anndata.read_h5ad(task["predicted"]),
            anndata.read_h5ad(task["observed"]),
            control_pert=task["control"],
            pert_col=task["label"],
            num_threads=task["threads"],
            outdir=scratch,
        )
        results, _ = evaluator.compute(
            profile="full",
            skip_metrics=[name for name in metrics_registry.list_metrics() if name not in wanted],
            write_csv=False,
            break_on_error=True,
        )
    return [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in results.to_dicts()
    ]


if __name__ == "__main__":
    from task_lines import answer_tasks  # pyright: ignore[reportMissingImports]  # the file beside this script

    answer_tasks(score)
