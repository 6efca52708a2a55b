import gc
import threading
import warnings
from dataclasses import fields

import numpy as np
import pytest
import torch

from bionemo.cellsets import InputError, SetLoader, SetSampler, loader
from bionemo.cellsets.controls import ControlPools

SETTINGS = {"set_size": 16, "sets_per_batch": 3, "seed": 11}


def make(store, epochs=1, eligible=None, **changes) -> SetLoader:
    sampler = SetSampler(store, ~store.is_control if eligible is None else eligible, **SETTINGS | changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SetLoader(store, sampler, epochs=epochs)


def assert_equal(one, other):
    for item in fields(one):
        assert torch.equal(getattr(one, item.name), getattr(other, item.name)), item.name


def readers() -> int:
    return sum(thread.name == "cellsets-reader" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert readers() == 0


def test_an_epoch_holds_every_perturbed_cell_once_beside_its_controls(store):
    seen, obs, cells = [], store.obs(), store.read(np.arange(store.n_cells))
    batches = list(make(store))
    for batch in batches:
        assert batch.perturbed.shape == batch.control.shape == (3, 16, store.n_genes)
        assert batch.perturbed.dtype == torch.float32
        np.testing.assert_array_equal(batch.mask, batch.rows >= 0)
        np.testing.assert_array_equal(batch.mask, batch.control_rows >= 0)
        assert not batch.perturbed[~batch.mask].any()
        assert not batch.control[~batch.mask].any()
        np.testing.assert_array_equal(batch.perturbed[batch.mask], cells[batch.rows[batch.mask]])
        np.testing.assert_array_equal(batch.control[batch.mask], cells[batch.control_rows[batch.mask]])
        for b in range(3):
            inside = batch.mask[b]
            targets, controls = obs.iloc[batch.rows[b][inside]], obs.iloc[batch.control_rows[b][inside]]
            context, plate = store.contexts[batch.context[b]], store.batches[batch.batch[b]]
            if not inside.any():
                continue
            assert set(targets["context"]) == set(controls["context"]) == {context}
            assert set(targets["perturbation"]) == {store.perturbations[batch.perturbation[b]]}
            assert set(controls["perturbation"]) == {"ctrl"}
            assert set(targets["batch"]) == {plate}
            # Plate p2 of line B has no controls: those of the line's other plate stand in.
            assert set(controls["batch"]) == {"p1" if context == "B" else plate}
        seen.append(batch.rows[batch.mask])
    rows = torch.cat(seen).numpy()
    perturbed = np.flatnonzero((obs["perturbation"] != "ctrl").to_numpy())
    np.testing.assert_array_equal(np.sort(rows), perturbed)
    assert len(batches) == len(make(store))


def test_controls_repeat_only_where_the_pool_is_smaller_than_the_set(store):
    pools = ControlPools(store)
    for batch in make(store, epochs=3):
        for rows, run in zip(batch.control_rows, batch.rows[:, 0], strict=True):
            rows = rows[rows >= 0].numpy()
            if len(rows):
                run = int(np.searchsorted(store.runs["start"], run, side="right") - 1)
                assert len(np.unique(rows)) == min(len(rows), pools.length[run])


def test_missing_controls_of_a_batch_are_said_once(store):
    sampler = SetSampler(store, ~store.is_control, **SETTINGS)
    with pytest.warns(UserWarning, match="1 of 6 runs of .* have no control cells of their batch") as caught:
        SetLoader(store, sampler)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SetLoader(store, SetSampler(store, store.runs["context"] != 1, **SETTINGS))


def test_control_runs_may_be_targets(store):
    batches = list(make(store, eligible=store.is_control))
    assert sum(int(batch.mask.sum()) for batch in batches) == store.runs["length"][store.is_control].sum()


def test_resuming_is_bit_equal(store):
    whole = list(make(store, epochs=2))
    for taken in (0, 1, 4, len(whole) - 1, len(whole)):
        first = make(store, epochs=2)
        states = [first.state_dict()]
        states += [first.state_dict() for _ in first]
        state = states[taken]
        assert state == {"epoch": taken // (len(whole) // 2), "step": taken % (len(whole) // 2), "seed": 11}
        second = make(store, epochs=2)
        second.load_state_dict(state)
        rest = list(second)
        assert len(rest) == len(whole) - taken
        for batch, wanted in zip(rest, whole[taken:], strict=True):
            assert_equal(batch, wanted)


def test_two_ranks_see_what_one_process_sees(store):
    whole = list(make(store, sets_per_batch=4))
    ranks = [list(make(store, sets_per_batch=2, rank=rank, world_size=2)) for rank in (0, 1)]
    for batch, *shares in zip(whole, *ranks, strict=True):
        for item in fields(batch):
            assert torch.equal(getattr(batch, item.name), torch.cat([getattr(share, item.name) for share in shares]))


def test_state_counts_what_was_handed_out_not_what_was_read_ahead(store):
    one = make(store, epochs=None)
    iterator = iter(one)
    next(iterator)
    next(iterator)
    assert one.state_dict() == {"epoch": 0, "step": 2, "seed": 11}
    iterator.close()


def test_endless_goes_on_and_finite_starts_over(store):
    endless, finite = make(store, epochs=None), make(store, epochs=1)
    keys = []
    for _ in range(2):
        for batch in endless:
            keys.append(batch.key)
            break
    assert not torch.equal(keys[0], keys[1])
    first = next(iter(finite))
    assert_equal(first, next(iter(finite)))
    assert [batch.key.tolist() for batch in finite] == [batch.key.tolist() for batch in finite]
    with pytest.raises(TypeError, match="endless"):
        len(endless)


def test_breaking_off_and_iterating_again_end_the_thread(store):
    one = make(store, epochs=None)
    for _ in one:
        break
    assert readers() == 0
    old = iter(one)
    next(old)
    new = iter(one)
    next(new)
    assert readers() == 1
    assert list(old) == []
    one.close()
    assert list(new) == []
    abandoned = iter(make(store, epochs=None))
    next(abandoned)
    del abandoned, old, new
    gc.collect()
    assert readers() == 0


def test_an_error_while_reading_reaches_the_consumer(store, monkeypatch):
    real = loader.read_batch

    def fail_third(*args):
        if fail_third.left == 0:
            raise OSError(5, "Input/output error")
        fail_third.left -= 1
        return real(*args)

    fail_third.left = 2
    monkeypatch.setattr(loader, "read_batch", fail_third)
    one, got = make(store), []
    with pytest.raises(OSError, match="Input/output error"):
        got.extend(one)
    assert fail_third.left == 0
    assert one.state_dict()["step"] == 2


def test_waiting_is_counted(store, monkeypatch):
    real, gate = loader.read_batch, threading.Event()

    def slow(*args):
        gate.wait(0.1)
        return real(*args)

    monkeypatch.setattr(loader, "read_batch", slow)
    one = make(store)
    assert one.wait_seconds == 0
    next(iter(one))
    assert one.wait_seconds > 0.05


def test_states_that_do_not_fit_are_refused(store):
    one = make(store)
    with pytest.raises(InputError, match="has seed 3, not 11"):
        one.load_state_dict({"epoch": 0, "step": 0, "seed": 3})
    with pytest.raises(InputError, match="step 99, where an epoch has"):
        one.load_state_dict({"epoch": 0, "step": 99, "seed": 11})
    with pytest.raises(InputError, match="prefetch is 0"):
        SetLoader(store, one.sampler, prefetch=0)


def test_batches_move_as_one(store):
    batch = next(iter(make(store)))
    moved = batch.to("meta")
    assert all(getattr(moved, item.name).device.type == "meta" for item in fields(moved))
