import subprocess
import sys

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from bionemo.screens import simulation
from bionemo.screens.errors import InputError
from bionemo.screens.labels import parse_label
from bionemo.screens.simulated_truth import SimulationSize, draw_truth, moved_modules
from bionemo.screens.simulation import draw_replicate, draw_screen, expected_shift, log1p_of, simulate

# 2.4 million values: more than one block of cells.
SIZE = {"cells": 6000, "genes": 400, "contexts": 2, "perturbations": 5, "batches": 2}


@pytest.fixture(scope="module")
def screen(tmp_path_factory) -> ad.AnnData:
    return ad.read_h5ad(simulate(tmp_path_factory.mktemp("simulation") / "screen.h5ad", **SIZE, seed=3, progress=False))


def mean_counts(screen: ad.AnnData, **where) -> np.ndarray:
    chosen = np.logical_and.reduce([(screen.obs[key] == value).to_numpy() for key, value in where.items()])
    return np.asarray(screen.X[chosen].mean(axis=0)).ravel()


def strongest(effect: np.ndarray) -> tuple[int, ...]:
    return np.unravel_index(np.argmax((effect**2).mean(axis=(2, 3))), effect.shape[:2])


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
    assert truth["log_fold_change"].shape == truth["expected_shift"].shape == (2, 5, 3, 400)
    assert truth["log_fold_change"].dtype == truth["expected_shift"].dtype == np.float32
    assert {key: truth[key] for key in SIZE} == SIZE


def test_every_population_has_the_stored_mixture_of_subpopulations(screen):
    truth = screen.uns["simulation"]
    share = pd.DataFrame(truth["subpopulation_share"], truth["context_labels"], truth["subpopulation_labels"])
    assert share.sum(axis=1).to_numpy() == pytest.approx(1)
    for perturbed, cells in screen.obs.groupby(screen.obs.perturbation != "control"):
        observed = pd.crosstab(cells.context, cells.subpopulation, normalize="index")
        assert np.abs(observed - share).to_numpy().max() < 0.05, perturbed


def test_each_subpopulation_shows_its_stored_effect(screen):
    truth = screen.uns["simulation"]
    context, perturbation = strongest(truth["log_fold_change"])
    where = {"context": truth["context_labels"][context]}
    seen, stored = [], []
    for name, effect in zip(
        truth["subpopulation_labels"], truth["log_fold_change"][context, perturbation], strict=True
    ):
        control, moved = (
            mean_counts(screen, **where, subpopulation=name, perturbation=label)
            for label in ("control", truth["perturbation_labels"][perturbation])
        )
        enough = control > 0.5
        seen.append(np.log(moved[enough] + 0.02) - np.log(control[enough] + 0.02))
        stored.append(effect[enough])
    slope = np.polyfit(np.concatenate(stored), np.concatenate(seen), 1)[0]
    assert np.corrcoef(np.concatenate(stored), np.concatenate(seen))[0, 1] > 0.9
    assert slope == pytest.approx(1, abs=0.15)


def test_cells_whose_gates_are_open_move_more():
    """A module that two subpopulations have alike is moved more where the gate of its drive is more active."""
    truth = draw_truth(SimulationSize(contexts=6, perturbations=1, subpopulations=1), np.random.default_rng(1))
    activity = np.array([-1.0, 0.0, 1.0])
    drive, gate = np.array([[[0.5, 0.0], [0.0, 0.0]]]), np.array([[[1, 0], [0, 0]]])
    given = np.stack([np.zeros(3), activity], axis=1)[:, None]  # [K, U, M]: module 0 at rest, its gate closed to open
    moved = moved_modules(given, np.ones((3, 1, 2)) * [1, 0], drive, gate)[:, 0, 0]
    assert (np.diff(moved[:, 0]) > 0.2).all()
    assert (moved[:, 1] == 0).all()
    assert truth.variance_shares()["state"] > 0.05


def test_an_active_module_hardly_rises_further_and_falls_the_more():
    given = np.array([[[-1.0]], [[0.0]], [[1.0]]])
    always_open = np.concatenate([given, np.full_like(given, 10.0)], axis=2)  # the gate is a module of its own
    gate = np.array([[[1, 0], [0, 0]]])
    up, down = (
        moved_modules(always_open, np.ones((3, 1, 2)) * [1, 0], sign * np.array([[[0.5, 0], [0, 0]]]), gate)[:, 0, 0, 0]
        for sign in (1, -1)
    )
    assert up[2] < 0.8 * up[1]
    assert -down[2] > 1.3 * up[2]


def test_where_the_target_gene_is_silent_little_happens():
    drawing = simulation._Drawing(SimulationSize(cells=20_000, genes=400, contexts=12, perturbations=12, seed=1))
    reach = drawing.truth.reach[..., 0]
    assert set(np.unique(reach)) == {0.2, 1.0}
    size = np.sqrt(np.square(drawing.log_fold_changes()).mean(axis=(2, 3)))
    ratios = [
        size[silent, p].mean() / size[~silent, p].mean()
        for p, silent in enumerate((reach < 1).T)
        if silent.any() and size[:, p].any()
    ]
    assert len(ratios) > 5
    assert max(ratios) < 0.6


def test_a_dose_series_rises_along_hills_curve_and_labels_say_the_dose():
    size = SIZE | {"doses": 5, "combinations": 2, "contexts": 3}
    screen = draw_screen(**size)
    truth = screen.uns["simulation"]
    labels = list(truth["perturbation_labels"])
    assert labels[:5] == [f"perturbation_1+{dose}uM" for dose in ("0.1", "0.316", "1", "3.16", "10")]
    assert [parse_label(label, "+", "control")[0].dose for label in labels[:5]] == [0.1, 0.316, 1.0, 3.16, 10.0]
    strength = np.sqrt(np.square(truth["log_fold_change"][:, :25]).mean(axis=(2, 3))).reshape(3, 5, 5)
    assert (np.diff(strength[strength.any(axis=2)], axis=1) > 0).all()
    assert [len(parse_label(label, "+", "control")) for label in labels[25:]] == [2, 2]


def test_a_combination_is_not_the_sum_of_its_parts():
    truth = simulation._Drawing(SimulationSize(perturbations=6, combinations=15, contexts=2)).log_fold_changes()
    pairs = [(a, b) for a in range(6) for b in range(a + 1, 6)]
    sums = np.stack([truth[:, a] + truth[:, b] for a, b in pairs], axis=1)
    off = np.square(truth[:, 6:] - sums).mean(axis=(0, 2, 3)) / np.square(truth[:, 6:]).mean(axis=(0, 2, 3))
    assert (off > 0.3).sum() >= 3  # those of one family
    # A partner without an effect changes nothing.
    null = int(np.flatnonzero(~truth[:, :6].any(axis=(0, 2, 3)))[0])
    with_null = [i for i, pair in enumerate(pairs) if null in pair]
    np.testing.assert_allclose(truth[:, 6:][:, with_null], sums[:, with_null], atol=1e-5)


def test_the_expected_shift_is_the_mean_over_many_cells():
    size = {"cells": 60_000, "genes": 60, "contexts": 1, "perturbations": 2, "batches": 2, "seed": 2}
    screen = log1p_of(draw_screen(**size))
    values, obs = screen.X.toarray(), screen.obs
    errors = []
    for perturbation in screen.uns["simulation"]["perturbation_labels"]:
        for subpopulation in (None, *screen.uns["simulation"]["subpopulation_labels"]):
            here = np.ones(len(obs), bool) if subpopulation is None else (obs.subpopulation == subpopulation).to_numpy()
            moved = values[here & (obs.perturbation == perturbation).to_numpy()]
            control = values[here & (obs.perturbation == "control").to_numpy()]
            error = np.sqrt(moved.var(axis=0) / len(moved) + control.var(axis=0) / len(control))
            expected = expected_shift(screen, "context_1", perturbation, subpopulation)
            errors.append((moved.mean(axis=0) - control.mean(axis=0) - expected) / error)
    assert np.sqrt(np.mean(np.square(errors))) < 1.15
    assert np.abs(errors).max() < 5


def test_the_expected_shift_of_a_mixture_is_the_weighted_sum_of_its_parts(screen):
    share = screen.uns["simulation"]["subpopulation_share"][1]
    parts = [expected_shift(screen, "context_2", "perturbation_3", f"subpopulation_{i}") for i in (1, 2, 3)]
    np.testing.assert_allclose(expected_shift(screen, "context_2", "perturbation_3"), share @ parts, atol=1e-6)


def test_a_shift_that_the_screen_cannot_know_is_refused(screen):
    with pytest.raises(InputError, match="no perturbation 'perturbation_9'"):
        expected_shift(screen, "context_1", "perturbation_9")
    with pytest.raises(InputError, match="no simulated truth"):
        expected_shift(ad.AnnData(np.zeros((1, 1))), "context_1", "perturbation_1")


@pytest.mark.parametrize("independent", [0.0, 0.5])
def test_the_learnable_share_is_what_the_effects_show(independent):
    size = SIZE | {"contexts": 40, "perturbations": 6, "genes": 200, "independent": independent}
    simulated = simulation._Drawing(SimulationSize(**size))
    shares, effect = simulated.truth.variance_shares(), simulated.log_fold_changes()
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["independent"] == pytest.approx(independent, abs=0.01)
    assert shares["state"] > 0.15 * (1 - independent)
    # What all contexts have in common is the mean over them, where there are many.
    common = np.square(effect.mean(axis=(0, 2))).mean() / np.square(effect).mean()
    assert shares["common"] == pytest.approx(common, abs=0.03)
    # Subpopulations of a context differ by what follows from the state alone.
    apart = np.square(effect - effect.mean(axis=2, keepdims=True)).mean() / np.square(effect).mean()
    assert 0.02 < apart < shares["state"]


def test_effects_are_sparse_of_varied_strength_and_one_is_null(screen):
    effect = screen.uns["simulation"]["log_fold_change"]
    strength = np.sqrt((effect**2).mean(axis=(2, 3)))
    null = (effect == 0).all(axis=(0, 2, 3))
    assert null.sum() == 1
    assert (effect[:, ~null] != 0).mean() < 0.5
    assert strength[:, ~null].max() > 1.5 * strength[:, ~null].min()


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


def test_what_a_killed_run_left_is_removed(tmp_path):
    for left in (".s.h5ad.partial", ".s.h5ad.partial.0123abcd"):
        (tmp_path / left / "new").mkdir(parents=True)
        (tmp_path / left / "new" / "s.h5ad").write_text("half")
    simulate(tmp_path / "s.h5ad", cells=60, genes=20, contexts=1, perturbations=2)
    assert [path.name for path in tmp_path.iterdir()] == ["s.h5ad"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": 31}, "cells is 31, too few for 24 conditions: ask for at least 32,"),
        ({"cells": 0}, "cells is 0: ask for at least 1"),
        ({"contexts": 0}, "contexts is 0"),
        ({"genes": 5}, "genes is 5: ask for at least 20"),
        ({"seed": -1}, "seed is -1"),
        ({"independent": 1.2}, "independent is 1.2"),
        ({"independent": float("nan")}, "independent is nan"),
        ({"subpopulations": 0}, "subpopulations is 0"),
        ({"doses": 0}, "doses is 0"),
        ({"combinations": 11}, "combinations is 11: 5 perturbations have 10"),
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
        subpopulations=1,
        progress=False,
    )
    assert ad.read_h5ad(path).obs.perturbation.value_counts().to_dict() == {"control": 3, "perturbation_1": 1}
    with h5py.File(path) as file:
        assert "raw" not in file
