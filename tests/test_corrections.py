"""The network earns its place: on a screen with something to learn it corrects the linear start, and not by chance."""

import json

import anndata as ad
import numpy as np
import pytest

from bionemo.screens.controls import ControlRole, ControlRoles
from bionemo.screens.simulation import simulate

HELD_OUT_CONTEXTS = 4


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """Twelve contexts whose state says how a perturbation acts there."""
    path = tmp_path_factory.mktemp("corrections") / "screen.h5ad"
    simulate(path, cells=20_000, genes=200, contexts=12, perturbations=12, batches=1, seed=3, progress=False)
    return path


def test_the_network_is_nearer_to_the_expected_shifts_than_the_linear_start(screen, command):
    """Half of the perturbations are held out in four contexts; their expected shifts have no sampling noise."""
    cells, folder = ad.read_h5ad(screen), screen.parent
    truth = cells.uns["simulation"]
    contexts, labels = (list(map(str, truth[f"{name}_labels"])) for name in ("context", "perturbation"))
    held_out = {context: labels[k % 2 :: 2] for k, context in enumerate(contexts[:HELD_OUT_CONTEXTS])}
    sections = [f'[fewshot."screen.{context}"]\ntest = {json.dumps(of)}\n' for context, of in held_out.items()]
    (folder / "split.toml").write_text('[training]\nscreen = "train"\n\n' + "\n".join(sections))
    columns = ("--perturbation-key", "perturbation", "--control", "control", "--context-key", "context")
    command("prepare", screen, "--store", folder / "store", "--all-genes", *columns)
    command(
        *("pretrain", "--store", folder / "store", "--split", folder / "split.toml", "--out", folder / "run"),
        *("--recipe", "scale_tiny", "training.max_steps=200", "training.trial=false", "model.network_share=1.0"),
    )
    shift_KPG = np.einsum("kpug,ku->kpg", truth["expected_shift"], truth["subpopulation_share"])
    found = {}
    for share in ("0", "1"):
        made = folder / f"{share}.h5ad"
        given = ("--controls", screen, "--like", screen, "--network-share", share, "--out", made)
        command("predict", "--checkpoint", folder / "run", *given)
        found[share] = scores(ad.read_h5ad(made), cells, held_out, (contexts, labels), shift_KPG)
    (start, error_of_start), (network, error_of_network) = found["0"], found["1"]
    assert network > start
    assert error_of_network < 0.92 * error_of_start


def scores(predicted, cells, held_out, names, shift_KPG) -> tuple[float, float]:
    """The mean correlation of predicted and expected shifts, and the squared error over all of them."""
    contexts, labels = names
    is_input = (cells.obs["perturbation"] == "control").to_numpy()
    is_input &= ControlRoles().has(cells.obs_names, ControlRole.INPUT)
    correlations, error, length = [], 0.0, 0.0
    for context, of in held_out.items():
        counts = cells.X[np.flatnonzero(is_input & (cells.obs["context"] == context).to_numpy())].toarray()
        control = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).mean(0)
        for label in of:
            expected = shift_KPG[contexts.index(context), labels.index(label)]
            if not expected.any():
                continue  # a perturbation without an effect
            rows = ((predicted.obs["context"] == context) & (predicted.obs["perturbation"] == label)).to_numpy()
            shift = np.asarray(predicted.X[np.flatnonzero(rows)].mean(0)).ravel() - control
            correlations.append(np.corrcoef(shift, expected)[0, 1])
            error += np.square(shift - expected).sum()
            length += np.square(expected).sum()
    return float(np.mean(correlations)), float(error / length)
