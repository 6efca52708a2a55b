"""The batches that training is given: what is in them, who works it out, and how long it is waited for."""

import threading
import time
from dataclasses import replace

import pytest
import torch

from bionemo.cellsets import CellStore, prepare
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.data.training_vocabulary import training_vocabulary
from bionemo.scale.training.data_module import CellSetsDataModule
from bionemo.screens import Split

SPLIT = Split.from_dict({"zeroshot": {}, "fewshot": {"A": {"val": ["TP53"]}}})


@pytest.fixture
def data(groups, written, config, compute, tmp_path):
    """Make a data module on the screen, with some choices of the model changed."""
    keys = dict(perturbation_key="target", control="ctrl", context_key="line", batch_key="plate")
    store = CellStore.open(prepare([written()], tmp_path / "store", **keys, n_genes=None, progress=False).path)

    def make(**changes) -> CellSetsDataModule:
        model = replace(config, **changes)
        training = TrainingConfig(max_steps=100, sets_per_batch=2, cells_per_set=4)
        module = CellSetsDataModule(store, SPLIT, training_vocabulary(store, SPLIT, model), model, compute, training)
        module.trainer = type("Trainer", (), {"global_step": 0})()
        return module

    return make


def test_a_batch_says_what_its_sets_are(data):
    batch = next(iter(data(head="negative_binomial", set_loss="none").train_dataloader()))
    assert batch.control.shape == batch.perturbed.shape == (2, 4, 20)
    assert batch.condition.perturbation.shape == (2, 1)
    assert batch.condition.delta is None
    assert batch.library.shape == (2, 2, 4)
    assert (batch.library > 0).all(0).equal(batch.mask)
    assert 0 <= batch.perturbed_cells <= batch.mask.sum()
    moved = batch.to(torch.device("meta"))
    assert {moved.control.device.type, moved.condition.context.device.type, moved.library.device.type} == {"meta"}
    assert {moved.key.device.type, moved.place.device.type} == {"cpu"}


def test_first_shifts_are_made_where_batches_are_read_ahead_and_waiting_for_them_counts(data):
    module = data(start="linear")
    threads, delta = set(), module.linear_start.delta
    module.linear_start._made.clear()

    def slow(context, label):
        if module.labels[label] != "ctrl" and (context, label) not in module.linear_start._made:
            threads.add(threading.current_thread())
            time.sleep(0.05)
        return delta(context, label)

    module.linear_start.delta = slow
    batches = iter(module.train_dataloader())
    seen = [next(batches) for _ in range(3)]
    assert all(batch.condition.delta.shape == (2, 20) for batch in seen)
    assert threads
    assert threading.current_thread() not in threads
    assert module.wait_seconds >= 0.05
