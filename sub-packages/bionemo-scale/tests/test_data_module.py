"""The batches that training is given: what is in them, who works it out, and how long it is waited for."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import anndata as ad
import numpy as np
import pytest
import torch
from megatron.core import parallel_state
from scipy import sparse

from bionemo.cellsets import CellStore, prepare
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.data.training_vocabulary import training_vocabulary
from bionemo.scale.linear_start.fit import Fit
from bionemo.scale.linear_start.means import ConditionMeans, base_of
from bionemo.scale.training.data_module import CellSetsDataModule
from bionemo.screens import Split
from bionemo.screens.controls import ControlRole, ControlRoles

Change = Callable[[ad.AnnData], ad.AnnData]
SPLIT = Split.from_dict({"zeroshot": {}, "fewshot": {"A": {"val": ["TP53"]}}})


@pytest.fixture
def data(groups, written, config, compute, tmp_path):
    """Make a data module on the screen, with some choices of the model changed."""
    keys = dict(perturbation_key="target", control="ctrl", context_key="line", batch_key="plate")

    @cache
    def store_of(change: Change | None) -> CellStore:
        path = written(change or (lambda cells: cells), name=f"screen{id(change)}.h5ad")
        return CellStore.open(prepare([path], tmp_path / path.stem, **keys, n_genes=None, progress=False).path)

    def make(change: Change | None = None, rotation: int = 0, **changes) -> CellSetsDataModule:
        model, store = replace(config, **changes), store_of(change)
        training = TrainingConfig(max_steps=100, sets_per_batch=2, cells_per_set=4, control_rotation=rotation)
        module = CellSetsDataModule(store, SPLIT, training_vocabulary(store, SPLIT, model), model, compute, training)
        module.trainer = type("Trainer", (), {"global_step": 0})()
        return module

    return make


def test_a_batch_says_what_its_sets_are(data):
    batch = next(iter(data(head="negative_binomial", set_loss="none").train_dataloader()))
    assert batch.control.shape == batch.perturbed.shape == (2, 4, 20)
    assert batch.condition.perturbation.shape == (2, 1)
    assert batch.condition.evidence is None
    assert batch.library.shape == (2, 2, 4)
    assert (batch.library > 0).all(0).equal(batch.mask)
    assert 0 <= batch.perturbed_cells <= batch.mask.sum()
    moved = batch.to(torch.device("meta"))
    assert {moved.control.device.type, moved.condition.context.device.type, moved.library.device.type} == {"meta"}
    assert {moved.key.device.type, moved.place.device.type} == {"cpu"}


def test_a_batch_says_whether_all_its_sets_are_full(data):
    module = data()
    batches = list(module._batches(module._loader("train", epochs=1)))
    assert {batch.full for batch in batches} == {True, False}
    for batch in batches:
        assert batch.full == (batch.mask.sum() == batch.mask.numel())
        assert batch.to(torch.device("meta")).full == batch.full


def test_waiting_for_batches_counts(data, monkeypatch):
    module = data(start="linear")
    read = CellStore.read
    monkeypatch.setattr(CellStore, "read", lambda *args, **more: (time.sleep(0.05), read(*args, **more))[1])
    batches = iter(module.train_dataloader())
    assert all(len(next(batches).control) == 2 for _ in range(3))
    assert module.wait_seconds >= 0.05


def other_values(role: ControlRole) -> Change:
    """Give the control cells of a role other counts, which change with every gene."""

    def change(cells: ad.AnnData) -> ad.AnnData:
        changed = cells.copy()
        rows = (cells.obs["target"] == "ctrl").to_numpy() & ControlRoles().has(cells.obs_names, role)
        counts = cells.X.toarray()
        counts[rows] = counts[rows] * 2 + np.arange(cells.n_vars) % 3
        changed.X = sparse.csr_matrix(counts)
        return changed

    return change


def fit_of(module: CellSetsDataModule) -> Fit:
    means = ConditionMeans(module.store, module._eligible("train"), module.training.control_roles)
    return Fit(means, list(map(str, module.store.contexts)), module.labels, module.vocabulary)


def epoch(module: CellSetsDataModule, part: str = "train") -> list:
    return list(module._loader(part, epochs=1))


@pytest.mark.parametrize("rotation", [0, 2])
def test_no_set_of_an_epoch_holds_a_control_cell_of_another_role(data, monkeypatch, rotation):
    module = data(rotation=rotation)
    obs, seen = module.store.obs(), []
    monkeypatch.setattr(parallel_state, "get_data_parallel_world_size", lambda: 3)
    for part in ("train", "val"):
        for rank in range(3):
            monkeypatch.setattr(parallel_state, "get_data_parallel_rank", lambda rank=rank: rank)
            for batch in epoch(module, part):
                seen += [batch.rows[batch.mask], batch.control_rows[batch.mask]]
    cells = obs.iloc[torch.cat(seen).unique().numpy()]
    controls = cells.index[cells["perturbation"] == "ctrl"]
    everywhere = obs.index[obs["perturbation"] == "ctrl"]
    roles = ControlRoles(rotation=rotation)
    assert sorted(controls) == sorted(everywhere[roles.has(everywhere, ControlRole.INPUT)])
    assert len(cells) - len(controls) == (obs["perturbation"] != "ctrl").sum()


def test_what_the_truth_is_measured_against_changes_nothing_of_a_training(data):
    before, after = data(start="linear"), data(other_values(ControlRole.TRUTH), start="linear")
    assert before.store.fingerprint != after.store.fingerprint
    for name, value in before.tables().items():
        assert torch.equal(after.tables()[name], value), name
    assert torch.equal(before.scores()._observed, after.scores()._observed)
    assert_equal_batches(before, after)


def test_what_training_shifts_are_measured_against_changes_fits_and_scores_and_bases_but_no_cell_and_no_feature(
    data, monkeypatch
):
    before, after = data(start="linear"), data(other_values(ControlRole.TARGET), start="linear")
    fit, other = fit_of(before), fit_of(after)
    assert not np.array_equal(fit.shares, other.shares)
    assert not torch.equal(before.scores()._observed, after.scores()._observed)
    assert torch.equal(before.mean_expression(), after.mean_expression())
    for context in fit.evidence.contexts:
        known, same = fit.known(context), other.known(context)
        for name in ("elsewhere", "features", "interactions"):
            np.testing.assert_array_equal(getattr(known, name), getattr(same, name))
    solved = fit.shares, fit.basis
    monkeypatch.setattr(Fit, "_solve", lambda self: solved)
    assert_equal_batches(before, data(other_values(ControlRole.TARGET), start="linear"), but=("base",))


@pytest.mark.parametrize("start", ["none", "linear"])
def test_the_base_of_a_set_is_that_of_its_context_and_a_set_of_control_cells_has_none(data, start):
    module = data(start=start)
    means = ConditionMeans(module.store, module._eligible("train"), ControlRoles())
    of_control = {role: means.control[role] for role in (ControlRole.INPUT, ControlRole.TARGET)}
    expected = base_of(of_control, len(module.store.contexts), module.store.n_genes)
    seen = set()
    for sets, batch in zip(epoch(module, "train"), module._batches(module._loader("train", epochs=1)), strict=True):
        for context, label, base_G in zip(sets.context.tolist(), sets.perturbation.tolist(), batch.base, strict=True):
            is_control = label == module.store.control_index
            seen.add(is_control)
            if is_control or start == "none":
                np.testing.assert_allclose(base_G, 0.0 * expected[context] if is_control else expected[context])
    assert seen == {True, False}


def test_a_validation_compares_with_what_training_asks_for(data):
    module = data(start="linear")
    before = module.scores()._observed
    module._base_KG += 1.0
    torch.testing.assert_close(module.scores()._observed, before - 1.0)


def assert_equal_batches(one: CellSetsDataModule, other: CellSetsDataModule, but: tuple[str, ...] = ()) -> None:
    for part in ("train", "val"):
        batches = [(m._batches(m._loader(part, epochs=1))) for m in (one, other)]
        for first, second in zip(*batches, strict=True):
            given, others = ({**vars(batch.condition), **vars(batch)} for batch in (first, second))
            for name in {name for name, value in given.items() if isinstance(value, torch.Tensor)} - set(but):
                torch.testing.assert_close(given[name], others[name], rtol=0, atol=0, equal_nan=True)
