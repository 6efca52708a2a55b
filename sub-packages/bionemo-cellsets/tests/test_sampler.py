from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bionemo.cellsets import SetSampler
from bionemo.cellsets.sampling.set_slices import set_rows
from bionemo.cellsets.store.cell_store import RUN_DTYPE
from bionemo.screens import InputError


def run_table(lengths) -> SimpleNamespace:
    """Return what the sampler needs of a store."""
    runs = np.zeros(len(lengths), dtype=RUN_DTYPE)
    runs["length"] = lengths
    runs["start"] = np.cumsum(lengths) - lengths
    return SimpleNamespace(runs=runs)


def batches(store, epoch=0, **arguments):
    sampler = SetSampler(store, **arguments)
    return [sampler.step(epoch, step) for step in range(sampler.steps_per_epoch)]


cases = st.fixed_dictionaries(
    {
        "lengths": st.lists(st.integers(1, 40), min_size=1, max_size=12),
        "eligible": st.lists(st.booleans(), min_size=12, max_size=12),
        "set_size": st.integers(1, 17),
        "sets_per_batch": st.integers(1, 5),
        "world_size": st.integers(1, 4),
        "seed": st.integers(0, 2**40),
        "epoch": st.integers(0, 3),
        "blocks": st.integers(1, 8),
    }
)


@settings(max_examples=150, deadline=None)
@given(cases)
def test_every_eligible_cell_exactly_once_an_epoch_over_all_ranks(case):
    store = run_table(case["lengths"])
    eligible = np.array(case["eligible"][: len(case["lengths"])])
    eligible[0] = True
    arguments = {name: case[name] for name in ("set_size", "sets_per_batch", "seed", "world_size")}
    arguments["blocks"] = min(case["blocks"], case["set_size"])
    ranks = [
        batches(store, case["epoch"], eligible_runs=eligible, rank=rank, **arguments)
        for rank in range(case["world_size"])
    ]
    assert len({len(steps) for steps in ranks}) == 1
    sets = np.concatenate([step for steps in ranks for step in steps])
    rows = set_rows(store.runs, sets, case["set_size"])
    wanted = np.concatenate([np.arange(r["start"], r["start"] + r["length"]) for r in store.runs[eligible]])
    np.testing.assert_array_equal(np.sort(rows[rows >= 0]), wanted)
    # A set lies in one run, and a run has at most one short set.
    run_of_row = np.repeat(np.arange(len(store.runs)), store.runs["length"])
    for one, members in zip(sets, rows, strict=True):
        assert (members >= 0).sum() == one["length"]
        assert set(run_of_row[members[members >= 0]]) <= {one["run"]}
    short = sets[(sets["length"] > 0) & (sets["length"] < case["set_size"])]
    assert len(short) == len(np.unique(short["run"]))
    assert (sets["key"] >= 0).all()
    # Padding is at the end of the last global batch only.
    last = np.concatenate([steps[-1] for steps in ranks])["length"]
    assert not np.any((last[:-1] == 0) & (last[1:] > 0))
    assert all((step["length"] > 0).all() for steps in ranks for step in steps[:-1])


@settings(max_examples=60, deadline=None)
@given(cases, st.integers(1, 3))
def test_ranks_share_what_one_process_sees(case, per_rank):
    store, world = run_table(case["lengths"]), case["world_size"]
    arguments = {
        "eligible_runs": np.arange(len(case["lengths"])), "set_size": case["set_size"], "seed": case["seed"],
        "blocks": min(case["blocks"], case["set_size"]),
    }  # fmt: skip
    alone = batches(store, case["epoch"], sets_per_batch=per_rank * world, **arguments)
    ranks = [
        batches(store, case["epoch"], sets_per_batch=per_rank, rank=rank, world_size=world, **arguments)
        for rank in range(world)
    ]
    for step, whole in enumerate(alone):
        np.testing.assert_array_equal(whole, np.concatenate([steps[step] for steps in ranks]))


@settings(max_examples=100, deadline=None)
@given(cases, st.sampled_from(["conditions", "sqrt"]))
def test_weighted_sets_share_the_epoch_and_go_round_their_runs(case, weighting):
    store, power = run_table(case["lengths"]), {"conditions": 0.0, "sqrt": 0.5}[weighting]
    arguments = {"eligible_runs": np.arange(len(case["lengths"])), "weighting": weighting}
    arguments |= {name: case[name] for name in ("set_size", "sets_per_batch", "seed")}
    arguments["blocks"] = min(case["blocks"], case["set_size"])
    sampler = SetSampler(store, **arguments)
    sets = np.concatenate(batches(store, case["epoch"], **arguments))
    sets = sets[sets["length"] > 0]
    assert len(sets) == sampler.n_sets == SetSampler(store, **arguments | {"weighting": "cells"}).n_sets
    weights = np.array(case["lengths"]) ** power
    share = sampler.n_sets * weights / weights.sum()
    rows = set_rows(store.runs, sets, case["set_size"])
    for run, length in enumerate(case["lengths"]):
        own, size = sets["run"] == run, min(case["set_size"], length)
        assert np.floor(share[run] - 1e-9) <= own.sum() <= np.ceil(share[run] + 1e-9)
        assert (sets["length"][own] == size).all()
        members = rows[own]
        seen = np.bincount(members[members >= 0] - store.runs["start"][run], minlength=length)
        assert seen.min() >= own.sum() * size // length
        assert seen.max() <= -(-own.sum() * size // length)
        assert all(len(np.unique(one[one >= 0])) == size for one in members)


def test_weighted_shares_hold_on_average_over_epochs():
    store = run_table([400, 9, 1, 100])
    for weighting, power in {"conditions": 0.0, "sqrt": 0.5}.items():
        sampler = SetSampler(
            store, np.arange(4), set_size=8, sets_per_batch=16, seed=0, weighting=weighting
        )  # fmt: skip
        count = np.zeros(4)
        for epoch in range(300):
            for step in range(sampler.steps_per_epoch):
                runs = sampler.step(epoch, step)["run"]
                count += np.bincount(runs[runs >= 0], minlength=4)
        weights = np.array([400, 9, 1, 100]) ** power
        np.testing.assert_allclose(count / count.sum(), weights / weights.sum(), rtol=0.02)


def test_a_step_depends_on_nothing_that_was_asked_before():
    store = run_table([50, 20, 3])
    arguments = {"eligible_runs": np.arange(3), "set_size": 8, "sets_per_batch": 2, "seed": 5}
    used, fresh = SetSampler(store, **arguments), SetSampler(store, **arguments)
    for epoch, step in ((0, 3), (4, 1), (0, 0), (1, 2)):
        used.step(epoch, step)
    np.testing.assert_array_equal(used.step(2, 1), fresh.step(2, 1))


@settings(max_examples=60, deadline=None)
@given(cases, st.sampled_from(["cells", "conditions", "sqrt"]), st.integers(1, 20), st.data())
def test_batches_at_once_are_those_one_at_a_time(case, weighting, count, data):
    arguments = {name: case[name] for name in ("set_size", "sets_per_batch", "seed", "world_size")}
    sampler = SetSampler(
        run_table(case["lengths"]),
        np.arange(len(case["lengths"])),
        rank=case["world_size"] - 1,
        weighting=weighting,
        blocks=min(case["blocks"], case["set_size"]),
        **arguments,
    )
    position = data.draw(st.integers(0, sampler.n_sets - 1))
    together = sampler.batches_at(case["epoch"], position, count)
    assert 1 <= len(together) <= count
    assert len(together) == count or position + len(together) * sampler.global_batch >= sampler.n_sets
    for number, batch in enumerate(together):
        np.testing.assert_array_equal(
            batch, sampler.batches_at(case["epoch"], position + number * sampler.global_batch, 1)[0]
        )


def test_blocks_part_neighbours_anew_each_epoch():
    store, place = run_table([4096]), np.arange(64)
    arguments = {"eligible_runs": np.arange(1), "set_size": 64, "sets_per_batch": 1, "seed": 3}
    met: dict[int, list[int]] = {1: [], 4: []}
    for blocks, partners in met.items():
        for epoch in range(8):
            for one in batches(store, epoch, blocks=blocks, **arguments):
                rows = set_rows(store.runs, one, 64)[0]
                if 1000 in rows:
                    partners += rows[np.abs(rows - 1000) > 64].tolist()
                    slice_starts = np.sort(one["starts"][0])
                    assert len(slice_starts) == blocks
                    assert (np.diff(slice_starts) >= 16).all()
                    if blocks == 1:
                        np.testing.assert_array_equal(rows, (one["starts"][0, 0] + place) % 4096)
    assert met[1] == []
    assert len(set(met[4])) > 200


def test_epochs_and_seeds_differ_in_order_boundaries_and_keys():
    store = run_table([100])
    arguments = {"eligible_runs": np.array([True]), "set_size": 8, "sets_per_batch": 13}
    (first,), (second,) = (batches(store, epoch, seed=1, **arguments) for epoch in (0, 1))
    (other,) = batches(store, 0, seed=2, **arguments)
    for sets in (second, other):
        assert set(sets["starts"][:, 0] % 8) != set(first["starts"][:, 0] % 8)
        assert set(sets["key"]).isdisjoint(first["key"])
    assert len(set(first["key"])) == 13
    assert first["starts"].tolist() != sorted(first["starts"].tolist())


def test_masks_and_indices_mean_the_same():
    store = run_table([9, 8, 7])
    arguments = {"set_size": 4, "sets_per_batch": 2, "seed": 0}
    by_mask = SetSampler(store, np.array([True, False, True]), **arguments)
    by_index = SetSampler(store, np.array([2, 0]), **arguments)
    np.testing.assert_array_equal(by_mask.step(1, 1), by_index.step(1, 1))
    assert (by_mask.n_sets, by_mask.n_cells, by_mask.steps_per_epoch) == (5, 16, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eligible_runs": np.array([False, False])}, "No run is eligible"),
        ({"eligible_runs": np.array([True])}, "has shape \\(1,\\): the store has 2 runs"),
        ({"eligible_runs": np.array([0, 2])}, "must be distinct and lie in \\[0, 2\\)"),
        ({"eligible_runs": np.array([0, 0])}, "must be distinct"),
        ({"set_size": 0}, "set_size is 0"),
        ({"sets_per_batch": 0}, "sets_per_batch is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"blocks": 0}, "blocks is 0"),
        ({"blocks": 5}, "blocks is 5: it must be at most 8 and at most the set size"),
        ({"weighting": "size"}, "weighting is 'size': choose one of cells, sqrt, conditions"),
        ({"rank": 2, "world_size": 2}, "rank is 2: it must be less than the world size, 2"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    arguments = {"eligible_runs": np.array([0]), "set_size": 4, "sets_per_batch": 2, "seed": 0} | change
    with pytest.raises(InputError, match=message):
        SetSampler(run_table([5, 5]), **arguments)


def test_steps_outside_the_epoch_are_refused():
    sampler = SetSampler(run_table([5]), np.array([0]), set_size=4, sets_per_batch=2, seed=0)
    with pytest.raises(IndexError, match="the steps 0 to 0"):
        sampler.step(0, 1)


def test_sets_of_all_runs_are_mixed_anew_each_epoch():
    sampler = SetSampler(run_table([16] * 20), np.arange(20), set_size=8, sets_per_batch=40, seed=0)
    orders = [sampler.step(epoch, 0)["run"].tolist() for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert all(sorted(order) == np.repeat(np.arange(20), 2).tolist() != order for order in orders)


def test_an_epoch_that_goes_on_with_other_ranks_still_has_every_cell_once():
    store = run_table([40, 3, 25, 17])
    common = dict(eligible_runs=np.ones(4, bool), set_size=5, seed=7)
    one = batches(store, sets_per_batch=4, **common)
    for ranks, each in ((2, 2), (4, 1)):
        others = [batches(store, sets_per_batch=each, rank=rank, world_size=ranks, **common) for rank in range(ranks)]
        went_on = [step for steps in others for step in steps[2:]]
        rows = set_rows(store.runs, np.concatenate([*one[:2], *went_on]), 5)
        np.testing.assert_array_equal(np.sort(rows[rows >= 0]), np.arange(85))
