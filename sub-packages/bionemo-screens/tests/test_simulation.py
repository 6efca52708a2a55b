import subprocess
import sys

import anndata as ad
import h5py
import numpy as np
import pytest

from bionemo.screens import simulation
from bionemo.screens.errors import InputError
from bionemo.screens.simulation import draw_replicate, draw_screen, simulate

# 2.4 million values: more than one block of cells.
SIZE = {"cells": 6000, "genes": 400, "contexts": 2, "perturbations": 5, "batches": 2}


@pytest.fixture(scope="module")
def screen(tmp_path_factory) -> ad.AnnData:
    return ad.read_h5ad(simulate(tmp_path_factory.mktemp("simulation") / "screen.h5ad", **SIZE, seed=3, progress=False))


def mean_counts(screen: ad.AnnData, **where) -> np.ndarray:
    chosen = np.logical_and.reduce([(screen.obs[key] == value).to_numpy() for key, value in where.items()])
    return np.asarray(screen.X[chosen].mean(axis=0)).ravel()


def strongest(effect: np.ndarray) -> tuple[int, ...]:
    return np.unravel_index(np.argmax((effect**2).mean(axis=2)), effect.shape[:2])


def test_counts_look_like_single_cell_counts(screen):
    counts = screen.X.toarray()
    library = counts.sum(axis=1)
    assert screen.shape == (6000, 400)
    assert counts.dtype == np.float32
    assert np.isfinite(counts).all()
    assert (counts >= 0).all()
    assert (counts == np.round(counts)).all()
    assert 0.65 < (counts == 0).mean() < 0.85
    assert 0.9 < np.median(library) / (1.2 * 400) < 1.1
    assert 3 < np.quantile(library, 0.99) / np.quantile(library, 0.01) < 12
    assert library.min() > 0


def test_counts_are_overdispersed(screen):
    here = (
        (screen.obs.context == "context_1") & (screen.obs.perturbation == "control") & (screen.obs.batch == "batch_1")
    )
    counts = screen.X[here.to_numpy()].toarray()
    mean, variance = counts.mean(axis=0), counts.var(axis=0)
    assert np.mean(variance[mean > 0.3] > 1.2 * mean[mean > 0.3]) > 0.9


def test_every_context_and_batch_has_all_conditions_and_thrice_the_controls(screen):
    table = screen.obs.groupby(["context", "batch", "perturbation"], observed=False).size().unstack()
    assert table.shape == (4, 6)
    perturbed = table.drop(columns="control")
    assert (table.control - 3 * perturbed.mean(axis=1)).abs().max() <= 3
    assert perturbed.to_numpy().max() - perturbed.to_numpy().min() <= 1


def test_labels_sort_and_match_the_stored_axes(screen):
    truth = screen.uns["simulation"]
    assert list(screen.obs.perturbation.cat.categories) == ["control", *truth["perturbation_labels"]]
    assert list(screen.obs.context.cat.categories) == list(truth["context_labels"]) == ["context_1", "context_2"]
    assert list(screen.var_names[[0, -1]]) == ["gene_001", "gene_400"]
    assert truth["log_fold_change"].shape == (2, 5, 400)
    assert truth["log_fold_change"].dtype == truth["responder_fraction"].dtype == np.float32
    assert {key: truth[key] for key in SIZE} == SIZE


def test_only_perturbed_cells_respond_and_at_the_stored_share(screen):
    truth, obs = screen.uns["simulation"], screen.obs
    assert not obs.responder[obs.perturbation == "control"].any()
    observed = (
        obs.groupby(["context", "perturbation"], observed=True).responder.mean().unstack()[truth["perturbation_labels"]]
    )
    assert np.abs(observed.to_numpy() - truth["responder_fraction"]).max() < 0.1
    active = truth["responder_fraction"] > 0
    assert truth["responder_fraction"][active].mean() == pytest.approx(0.75, abs=0.1)


def test_responders_show_the_stored_effect_and_the_others_none(screen):
    truth = screen.uns["simulation"]
    context, perturbation = strongest(truth["log_fold_change"])
    effect = truth["log_fold_change"][context, perturbation]
    condition = {
        "context": truth["context_labels"][context],
        "perturbation": truth["perturbation_labels"][perturbation],
    }
    control = mean_counts(screen, **condition | {"perturbation": "control"})
    seen = control > 0.2
    change = {
        responder: np.log(mean_counts(screen, **condition, responder=responder)[seen] + 0.02)
        - np.log(control[seen] + 0.02)
        for responder in (True, False)
    }
    assert np.corrcoef(change[True], effect[seen])[0, 1] > 0.9
    assert np.polyfit(effect[seen], change[True], 1)[0] == pytest.approx(1, abs=0.15)
    assert np.polyfit(effect[seen], change[False], 1)[0] == pytest.approx(0, abs=0.15)


def test_effects_are_sparse_of_varied_strength_and_one_is_null(screen):
    effect = screen.uns["simulation"]["log_fold_change"]
    strength = np.sqrt((effect**2).mean(axis=2))
    null = (effect == 0).all(axis=(0, 2))
    assert null.sum() == 1
    assert (effect[:, ~null] != 0).mean() < 0.5
    assert strength[:, ~null].max() > 1.5 * strength[:, ~null].min()


def test_contexts_share_the_stated_part_of_an_effect(tmp_path):
    def similarity(shared):
        size = SIZE | {"cells": 600, "contexts": 6, "perturbations": 12, "batches": 1}
        path = simulate(tmp_path / "screen.h5ad", **size, shared=shared, progress=False)
        effect = ad.read_h5ad(path).uns["simulation"]["log_fold_change"]
        effect = effect[:, effect.any(axis=(0, 2))]
        pairs = [(a, b, p) for a in range(6) for b in range(a) for p in range(effect.shape[1])]
        return np.mean([np.corrcoef(effect[a, p], effect[b, p])[0, 1] for a, b, p in pairs])

    assert similarity(1.0) == pytest.approx(1)
    assert similarity(0.6) == pytest.approx(0.6, abs=0.1)
    assert similarity(0.0) == pytest.approx(0, abs=0.1)


def test_contexts_and_batches_differ_in_their_control_cells(screen):
    def distance(one, other):
        a, b = (np.log1p(mean_counts(screen, perturbation="control", **where)) for where in (one, other))
        return np.sqrt(np.mean((a - b) ** 2))

    between_batches = distance(
        {"context": "context_1", "batch": "batch_1"}, {"context": "context_1", "batch": "batch_2"}
    )
    assert distance({"context": "context_1"}, {"context": "context_2"}) > 2 * between_batches > 0


def test_the_same_seed_gives_the_same_file_content_and_another_seed_another(tmp_path):
    size = SIZE | {"cells": 300}
    first, again, other = (
        ad.read_h5ad(simulate(tmp_path / f"{name}.h5ad", **size, seed=seed, progress=False))
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    for array in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(first.X, array), getattr(again.X, array))
    assert first.obs.equals(again.obs)
    np.testing.assert_array_equal(
        first.uns["simulation"]["log_fold_change"], again.uns["simulation"]["log_fold_change"]
    )
    assert (first.X != other.X).nnz > 0


def test_cells_in_memory_are_those_of_the_file_and_a_replicate_is_of_the_same_populations(screen):
    drawn = draw_screen(**SIZE, seed=3)
    assert (drawn.X != screen.X).nnz == 0
    assert drawn.obs.equals(screen.obs)
    again = draw_replicate(**SIZE, seed=3)
    np.testing.assert_array_equal(
        again.uns["simulation"]["log_fold_change"], drawn.uns["simulation"]["log_fold_change"]
    )
    assert "control" not in set(again.obs["perturbation"])
    counted = [
        cells.obs.groupby(["context", "batch", "perturbation"], observed=True).size() for cells in (again, drawn)
    ]
    assert counted[0].equals(counted[1].drop("control", level="perturbation"))
    context, perturbation = strongest(screen.uns["simulation"]["log_fold_change"])
    where = {"context": f"context_{context + 1}", "perturbation": f"perturbation_{perturbation + 1}"}
    means = [np.log1p(mean_counts(cells, **where)) for cells in (again, drawn)]
    assert (means[0] != means[1]).any()
    control = np.log1p(mean_counts(drawn, context=where["context"], perturbation="control"))
    assert np.corrcoef(means[0] - control, means[1] - control)[0, 1] > 0.8


def test_a_failed_run_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    out = simulate(tmp_path / "screen.h5ad", **SIZE | {"cells": 300}, progress=False)
    before = out.read_bytes()
    monkeypatch.setattr(simulation._Drawing, "_counts", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        simulate(out, **SIZE | {"cells": 400}, progress=False)
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": 31}, "cells is 31, too few for 24 conditions: ask for at least 32,"),
        ({"cells": 0}, "cells is 0: ask for at least 1"),
        ({"contexts": 0}, "contexts is 0"),
        ({"genes": 5}, "genes is 5: ask for at least 20"),
        ({"seed": -1}, "seed is -1"),
        ({"shared": 1.2}, "shared is 1.2"),
        ({"responders": 0.0}, "responders is 0.0"),
        ({"responders": float("nan")}, "responders is nan"),
    ],
)
def test_bad_sizes_are_refused_by_name(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        simulate(tmp_path / "screen.h5ad", **SIZE | change, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_no_h5ad_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"ends in \.h5ad"):
        simulate(tmp_path / "screen.zarr", **SIZE, progress=False)


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        simulate(tmp_path / "file" / "screen.h5ad", **SIZE, progress=False)


@pytest.mark.parametrize("limit", [0, 30_000, 150_000, 2_000_000])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, limit):
    program = f"""
import resource, sys
from pathlib import Path
from bionemo.screens import InputError, simulation
simulation._BLOCK_VALUES = 200_000
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    simulation.simulate(Path(sys.argv[1]), cells=6000, genes=200, contexts=2, perturbations=4, progress=False)
except InputError as error:
    print(error)
"""
    out = tmp_path / "screen.h5ad"
    done = subprocess.run([sys.executable, "-c", program, out], capture_output=True, text=True, check=False)
    message = f"{out} cannot be written (File too large): free space there or choose another path\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, message, "")
    assert not list(tmp_path.iterdir())


def test_the_smallest_screen_is_written(tmp_path):
    path = simulate(
        tmp_path / "new" / "screen.h5ad",
        cells=4,
        genes=20,
        contexts=1,
        perturbations=1,
        batches=1,
        responders=1.0,
        progress=False,
    )
    assert ad.read_h5ad(path).obs.perturbation.value_counts().to_dict() == {"control": 3, "perturbation_1": 1}
    with h5py.File(path) as file:
        assert "raw" not in file
