"""Run cell-eval in the environment of this script: one JSON task a line on stdin, one JSON answer a line on stdout.

Imports nothing of this package, which is not installed there.
"""

import json
import logging
import math
import os
import sys
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


def main() -> None:
    """Answer tasks until stdin ends; what the libraries print goes nowhere, so that stdout holds answers only."""
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    logging.disable(logging.WARNING)
    for line in sys.stdin:
        try:
            answer = {"answer": score(json.loads(line))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
