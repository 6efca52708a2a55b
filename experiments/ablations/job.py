"""Train, predict and score the variants of one screen and seed; started by ``run.py``.

Usage: python -m experiments.ablations.job OUT SCREEN SEED STEPS VARIANT...
"""

import json
import os
import sys
from pathlib import Path

from experiments.ablations.screens import SCREENS
from experiments.ablations.variants import DEFAULT, VARIANTS, Variant, settings
from experiments.screens import apart, train, with_solver_steps

FINISHED = "finished "
"""How a line begins that says that a row was written."""


def main(arguments: list[str]) -> int:
    """Work on all variants; a training that fails leaves the others alone."""
    out, screen, seed, steps = Path(arguments[0]), arguments[1], int(arguments[2]), int(arguments[3])
    chosen = [variant for variant in VARIANTS if variant.name in arguments[4:]]
    failed = 0
    while chosen:
        together = [variant for variant in chosen if variant.overrides == chosen[0].overrides]
        chosen = [variant for variant in chosen if variant not in together]
        failed += not apart(measure, out, screen, seed, steps, together)
    return 1 if failed else 0


def measure(out: Path, screen_name: str, seed: int, steps: int, variants: list[Variant]) -> None:
    """Train once, predict and score with every variant of that training, and write a row file for each."""
    from bionemo.perteval import METRICS, evaluate
    from bionemo.scale.inference.predict import predict

    screen = SCREENS[screen_name]
    overrides = settings(variants[0], seed, steps)
    trained = variants[0].overrides
    name = "-".join([screen.name, *(part.partition(".")[2].replace("=", "_") for part in trained), f"seed_{seed}"])
    run = out / "runs" / name
    command = train(screen, out, run, overrides)
    cells = screen.source(out)
    predicted = {}
    for variant in variants:
        folder = run if variant.solver_steps == 1 else with_solver_steps(run, variant.solver_steps)
        predicted[variant.name] = run / f"{variant.name.replace(' ', '_')}.h5ad"
        predict(folder, cells, predicted[variant.name], like=cells, seed=seed, overwrite=True, progress=False)
    evaluation = evaluate(
        predicted, cells, split=screen.split, controls="independent", arms="main", threads=1, progress=False
    )
    headline = [metric.name for metric in METRICS.values() if metric.headline]
    scores = evaluation.per_perturbation.set_index("arm")
    validated = json.loads((run / "best.json").read_text()) if (run / "best.json").exists() else None
    for variant in variants:
        own = scores.loc[[variant.name]].reset_index()
        row = {
            "screen": screen.name,
            "variant": variant.name,
            "seed": seed,
            "metrics": {metric: _number(evaluation.table.loc[variant.name, metric]) for metric in headline},
            "overrides": overrides,
            "solver_steps": variant.solver_steps,
            "command": command,
            "validation": validated,
            "network_share": _network_share(run),
            "versions": evaluation.versions,
            "conditions": [
                {"context": one["context"], "perturbation": one["perturbation"]}
                | {metric: _number(one[metric]) for metric in [*headline, "n_de_predicted", "n_de_observed"]}
                for one in own.to_dict("records")
            ],
        }
        if variant.name == DEFAULT:
            row["beside"] = {
                arm: {metric: _number(evaluation.table.loc[arm, metric]) for metric in headline}
                for arm in evaluation.arms
                if evaluation.arms[arm].kind != "prediction"
            }
        file = row_file(out, screen.name, variant.name, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(row))
        os.replace(partial, file)
        predicted[variant.name].unlink()
        print(f"{FINISHED}{file.name}", flush=True)  # noqa: T201


def row_file(out: Path, screen: str, variant: str, seed: int) -> Path:
    """Where the row of one (screen, variant, seed) is kept once it is finished."""
    return out / "rows" / f"{screen}-{variant.replace(' ', '_')}-{seed}.json"


def _network_share(run: Path) -> float:
    """Share of the network's own change that predictions have: 1 without a linear start."""
    import torch

    from bionemo.scale.runs.directory import RunDirectory
    from bionemo.scale.runs.load import load_model

    return float(load_model(RunDirectory(run), torch.device("cpu"))[0].network_share)


def _number(value: float) -> float | None:
    return None if value != value else round(float(value), 6)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
