import gc
import json
import re
import shutil
import threading
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bionemo.cellsets import CellStore, DeviceBatches, SetLoader, SetSampler, prepare
from bionemo.cellsets.loading import loader
from bionemo.cellsets.sampling.controls import ControlPools
from bionemo.cellsets.store import cell_store, kernels
from bionemo.screens import InputError
from bionemo.screens.controls import ControlRole, ControlRoles, Controls

SETTINGS = {"set_size": 16, "sets_per_batch": 3, "seed": 11}


def make(store, epochs=1, eligible=None, reading=None, **changes) -> SetLoader:
    sampler = SetSampler(store, ~store.is_control if eligible is None else eligible, **SETTINGS | changes)
    return SetLoader(store, sampler, epochs=epochs, **reading or {})


def place(one, epoch, sets) -> dict:
    return {"epoch": epoch, "sets": sets, **one.sampler.identity}


def assert_equal(one, other):
    for item in fields(one):
        assert torch.equal(getattr(one, item.name), getattr(other, item.name)), item.name


def keys_of(*loaders) -> list[int]:
    """Return the sets that are not padding, over all ranks."""
    return [key for one in loaders for batch in one for key in batch.key[batch.mask.any(1)].tolist()]


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


def test_missing_controls_of_a_batch_are_said_once(store, caplog):
    list(SetLoader(store, SetSampler(store, ~store.is_control, **SETTINGS), epochs=1))
    (notice,) = caplog.messages
    assert re.match("1 of 6 runs of .* have no control cells of their batch", notice)
    caplog.clear()
    SetLoader(store, SetSampler(store, store.runs["context"] != 1, **SETTINGS))
    assert caplog.messages == []


@pytest.mark.parametrize("roles", [ControlRoles(Controls.SHARED), *(ControlRoles(rotation=n) for n in range(3))])
def test_controls_are_cells_of_the_role_input_alone_and_all_of_them(store, roles):
    obs = store.obs()
    wanted = np.flatnonzero((obs["perturbation"] == "ctrl") & roles.has(obs.index, ControlRole.INPUT))
    batches = list(make(store, epochs=20, reading={"roles": roles}, blocks=2))
    drawn = torch.cat([batch.control_rows[batch.mask] for batch in batches]).unique().numpy()
    np.testing.assert_array_equal(drawn, wanted)
    for batch in batches:
        targets, controls = (obs.iloc[rows[batch.mask].numpy()] for rows in (batch.rows, batch.control_rows))
        assert (targets["context"].to_numpy() == controls["context"].to_numpy()).all()
        falls_back = (targets["context"] == "B") & (targets["batch"] == "p2")
        assert ((targets["batch"].to_numpy() == controls["batch"].to_numpy()) != falls_back.to_numpy()).all()


def test_a_batch_without_input_cells_draws_from_those_of_all_batches(store):
    runs = store.runs.copy()
    of_batch = store.is_control & (runs["context"] == 0) & (runs["batch"] == 1) & (runs["control_part"] == 0)
    runs["control_part"][of_batch] = 1
    changed = SimpleNamespace(runs=runs, is_control=store.is_control, path=store.path, contexts=store.contexts,
                              control=store.control)  # fmt: skip
    changed.has_role = lambda role, roles: CellStore.has_role(changed, role, roles)
    pools = ControlPools(changed)
    here = (runs["context"] == 0) & ~store.is_control
    assert pools.fallback[here].tolist() == (runs["batch"][here] == 1).tolist()
    runs["control_part"][store.is_control & (runs["context"] == 2)] = 1
    with pytest.raises(InputError, match=r"context 'C.2' of .* has no control cells \('ctrl'\) to predict from"):
        ControlPools(changed)


def test_control_runs_may_be_targets(store):
    batches = list(make(store, eligible=store.is_control))
    assert sum(int(batch.mask.sum()) for batch in batches) == store.runs["length"][store.is_control].sum()


def test_a_set_of_input_cells_shares_none_with_its_controls_where_the_run_has_twice_as_many(store):
    eligible, lengths, apart = store.has_role(ControlRole.INPUT, ControlRoles()), {}, {}
    for batch in make(store, eligible=eligible, epochs=20, set_size=8):
        for inside, rows, controls in zip(batch.mask, batch.rows, batch.control_rows, strict=True):
            target, control = set(rows[inside].tolist()), set(controls[inside].tolist())
            assert len(target) == len(control)
            if not target:
                continue
            run = int(np.searchsorted(store.runs["start"], min(target), side="right") - 1)
            start, length = (int(store.runs[name][run]) for name in ("start", "length"))
            assert control <= set(range(start, start + length))
            lengths.setdefault(length >= 2 * len(target), set()).add(length)
            if length >= 2 * len(target):
                assert not target & control
                apart.setdefault(run, set()).add(int(controls[0] - rows[0]) % length)
    assert lengths[True] | lengths[False] == set(store.runs["length"][eligible])
    assert max(lengths[True]) >= 16
    assert min(lengths[False]) < 16
    # Where the controls begin is drawn, not always right behind the set.
    assert all(len(places) > 3 for places in apart.values())


def test_resuming_is_bit_equal(store):
    whole = list(make(store, epochs=2))
    for taken in (0, 1, 4, len(whole) - 1, len(whole)):
        first = make(store, epochs=2)
        states = [first.state_dict()]
        states += [first.state_dict() for _ in first]
        state = states[taken]
        assert state == place(first, taken // (len(whole) // 2), taken % (len(whole) // 2) * 3)
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
    assert one.state_dict() == place(one, 0, 6)
    iterator.close()


@pytest.mark.parametrize(("before", "after"), [((2, 3), (1, 2)), ((1, 1), (3, 2)), ((3, 1), (2, 4))])
@pytest.mark.parametrize("weighting", ["cells", "sqrt"])
def test_resuming_with_other_ranks_and_batches_repeats_and_skips_no_set(store, before, after, weighting):
    def ranks(world_size, sets_per_batch):
        return [
            make(store, sets_per_batch=sets_per_batch, rank=rank, world_size=world_size, weighting=weighting)
            for rank in range(world_size)
        ]

    whole = sorted(keys_of(make(store, weighting=weighting)))
    for taken in (0, 1, 2):
        first = ranks(*before)
        seen = []
        for one in first:
            batches = iter(one)
            seen += keys_of([next(batches) for _ in range(taken)])
            batches.close()
        states = [one.state_dict() for one in first]
        assert all(state == states[0] for state in states)
        assert json.loads(json.dumps(states[0])) == states[0]
        second = ranks(*after)
        for one in second:
            one.load_state_dict(states[0])
        assert sorted(seen + keys_of(*second)) == whole


def test_an_epoch_after_a_resumed_one_is_whole(store):
    one = make(store, epochs=2)
    one.load_state_dict(place(one, 0, 13))
    second = make(store, epochs=2)
    second.load_state_dict(place(one, 1, 0))
    assert keys_of(one)[2:] == keys_of(second)
    assert one.state_dict() == place(one, 2, 0)


def test_a_loader_starts_at_a_step(store):
    one = make(store)
    one.start_at(0, 2)
    assert one.state_dict() == place(one, 0, 6)


def test_threads_do_not_change_a_bit(store, monkeypatch):
    monkeypatch.setattr(cell_store, "PIECE_ROWS", 5)
    for staged in (False, True):
        alone = list(make(store, reading={"staged": staged}))
        for batch, wanted in zip(make(store, reading={"threads": 3, "staged": staged}), alone, strict=True):
            assert_equal(batch.densify() if staged else batch, wanted.densify() if staged else wanted)


@pytest.mark.parametrize("staged", [False, True])
def test_memory_is_used_again_but_not_while_anything_refers_to_it(store, staged):
    def cells(batch):
        return batch.control.values if staged else batch.control

    kept = list(make(store, epochs=3, reading={"staged": staged}))
    wanted = [cells(batch).clone() for batch in kept]
    one, views, places = make(store, epochs=3, reading={"staged": staged}), [], set()
    for number, batch in enumerate(one):
        places.add(cells(batch).data_ptr())
        if number % 3 == 0:
            views.append((number, cells(batch)[:1].numpy() if number % 2 else cells(batch)[1:]))
    for number, view in views:
        np.testing.assert_array_equal(view, wanted[number][:1] if number % 2 else wanted[number][1:])
    for batch, values in zip(kept, wanted, strict=True):
        assert torch.equal(cells(batch), values)
    if not staged:  # buffers of staged values differ in size
        assert len(places) < len(kept) == len({cells(batch).data_ptr() for batch in kept})


def test_a_staged_batch_is_the_dense_one_to_the_bit(store):
    for batch, wanted in zip(make(store, reading={"staged": True}), make(store), strict=True):
        assert batch.perturbed.values.dtype == torch.uint32
        assert batch.perturbed.columns.dtype == torch.uint16
        assert_equal(batch.densify(), wanted)
        moved = batch.to("meta")
        assert moved.perturbed.values.device.type == moved.mask.device.type == "meta"


@pytest.mark.parametrize("staged", [False, True])
def test_bfloat16_is_float32_rounded_once(store, staged):
    reading = {"staged": True} if staged else {"dtype": torch.bfloat16}
    for batch, wanted in zip(make(store, reading=reading), make(store), strict=True):
        batch = batch.densify(torch.bfloat16) if staged else batch
        assert batch.perturbed.dtype == batch.control.dtype == torch.bfloat16
        assert torch.equal(batch.perturbed, wanted.perturbed.to(torch.bfloat16))
        assert torch.equal(batch.control, wanted.control.to(torch.bfloat16))


@pytest.mark.parametrize("staged", [False, True])
def test_controls_may_be_left_out(store, staged):
    reading = {"staged": staged, "controls": False}
    for batch, wanted in zip(make(store, reading=reading), make(store), strict=True):
        batch = batch.densify() if staged else batch
        assert torch.equal(batch.perturbed, wanted.perturbed)
        assert torch.equal(batch.rows, wanted.rows)
        assert batch.control.shape == (3, 0, store.n_genes)
        assert batch.control_rows.shape == (3, 0)


@pytest.mark.parametrize("weighting", ["cells", "conditions"])
def test_blocks_read_what_the_sampler_says_beside_controls_of_their_own(store, weighting):
    eligible = np.ones(len(store.runs), dtype=bool)
    cells, run_of = store.read(np.arange(store.n_cells)), np.repeat(np.arange(len(store.runs)), store.runs["length"])
    pools = ControlPools(store)
    for batch in make(store, epochs=2, eligible=eligible, blocks=4, weighting=weighting):
        np.testing.assert_array_equal(batch.perturbed[batch.mask], cells[batch.rows[batch.mask]])
        for inside, rows, controls in zip(batch.mask, batch.rows.numpy(), batch.control_rows.numpy(), strict=True):
            rows, controls = rows[inside], controls[inside]
            if len(rows):
                (run,) = set(run_of[rows])
                assert len(np.unique(controls)) == min(len(rows), pools.length[run])
                if store.is_control[run] and pools.length[run] >= 2 * len(rows):
                    assert not set(rows) & set(controls)


def test_staged_log1p_values_are_read_unchanged(altered, tmp_path, keys):
    path = altered(lambda data: setattr(data, "X", data.X.log1p()))
    made = prepare([path], tmp_path / "s", already_log1p=True, progress=False, **keys)
    for batch, wanted in zip(make(made, reading={"staged": True}), make(made), strict=True):
        assert batch.perturbed.scale is None
        out = batch.perturbed.densify()
        assert torch.equal(out, wanted.perturbed)
        assert torch.equal(out, torch.from_numpy(made.read(batch.rows.numpy())))


@pytest.mark.parametrize("name", ["col_ptr.npy", "row_ptr.npy"])
def test_staging_refuses_damaged_rows(store, tmp_path, name):
    path = shutil.copytree(store.path, tmp_path / "copy")
    array = np.fromfile(path / name, dtype=np.uint16 if name == "col_ptr.npy" else np.uint64)
    array[1] = 60_000
    array.tofile(path / name)
    with pytest.raises(InputError, match=r"Row 0 of the store .* is damaged"):
        list(make(CellStore.open(path), eligible=np.array([0]), reading={"staged": True, "controls": False}))


@pytest.mark.gpu
def test_a_staged_batch_is_the_same_on_a_gpu(store):
    for batch, wanted in zip(make(store, reading={"staged": True}), make(store), strict=True):
        assert batch.perturbed.values.is_pinned()
        dense = batch.to("cuda", non_blocking=True).densify().to("cpu")
        for item in fields(wanted):
            torch.testing.assert_close(getattr(dense, item.name), getattr(wanted, item.name), rtol=2e-7, atol=0)


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

    def fail_third(*args, **options):
        if fail_third.left == 0:
            raise OSError(5, "Input/output error")
        fail_third.left -= 1
        return real(*args, **options)

    fail_third.left = 2
    monkeypatch.setattr(loader, "read_batch", fail_third)
    one, got = make(store), []
    with pytest.raises(OSError, match="Input/output error"):
        got.extend(one)
    assert fail_third.left == 0
    assert one.state_dict()["sets"] == 6


def test_waiting_is_counted(store, monkeypatch):
    real, gate = loader.read_batch, threading.Event()

    def slow(*args, **options):
        gate.wait(0.1)
        return real(*args, **options)

    monkeypatch.setattr(loader, "read_batch", slow)
    one = make(store)
    assert one.wait_seconds == 0
    next(iter(one))
    assert one.wait_seconds > 0.05


def test_states_that_do_not_fit_are_refused(store):
    one = make(store)
    with pytest.raises(InputError, match="epoch 0, set 297, where an epoch has 15 sets"):
        one.start_at(0, 99)
    with pytest.raises(InputError, match="The loader's state has no 'set_size': give what state_dict returned"):
        one.load_state_dict({"epoch": 0, "sets": 0, "seed": 11})


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"seed": 3}, "seed 3, not 11"),
        ({"set_size": 8}, "set_size 8, not 16"),
        ({"weighting": "sqrt"}, "weighting sqrt, not cells"),
        ({"blocks": 2}, "blocks 2, not 1"),
        ({"eligible": [1, 2]}, "runs [0-9a-f]{16}, not"),
    ],
)
def test_the_state_of_other_sets_is_refused_by_name(store, other, says):
    with pytest.raises(InputError, match=f"The loader's state has {says}"):
        make(store).load_state_dict(make(store, **other).state_dict())


def test_workers_that_would_repeat_the_epoch_are_refused(store):
    passed = torch.utils.data.DataLoader(make(store), batch_size=None, num_workers=2)
    with pytest.raises(InputError, match="make the DataLoader with num_workers=0"):
        list(passed)


def test_settings_of_reading_are_checked(store):
    one = make(store)
    for name in ("epochs", "prefetch", "threads"):
        with pytest.raises(InputError, match=f"{name} is 0: it must be at least 1"):
            SetLoader(store, one.sampler, **{name: 0})
    with pytest.raises(InputError, match=r"dtype is torch.float16: choose"):
        SetLoader(store, one.sampler, dtype=torch.float16)
    with pytest.raises(InputError, match="give their dtype to densify"):
        SetLoader(store, one.sampler, dtype=torch.bfloat16, staged=True)


def test_batches_move_as_one(store):
    batch = next(iter(make(store)))
    moved = batch.to("meta")
    assert all(getattr(moved, item.name).device.type == "meta" for item in fields(moved))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_uploaded_batches_are_those_of_the_loader(store, dtype):
    uploaded = DeviceBatches(make(store, epochs=2, reading={"staged": True}), "cpu", dtype)
    wanted = list(make(store, epochs=2, reading={"dtype": dtype}))
    assert len(uploaded) == len(wanted)
    for batch, one in zip(uploaded, wanted, strict=True):
        assert_equal(batch, one)


def test_the_state_of_uploaded_batches_counts_those_handed_out(store):
    wanted = [batch.key.tolist() for batch in make(store, epochs=4)]
    uploaded, seen = DeviceBatches(make(store, epochs=None, reading={"staged": True}), "cpu"), []
    for taken in (1, 3, 2):  # each time broken off, with a batch uploaded ahead
        for number, batch in enumerate(uploaded, 1):
            seen.append(batch.key.tolist())
            if number == taken:
                break
        sets = len(seen) * 3
        assert uploaded.state_dict() == place(uploaded.loader, sets // 15, sets % 15)
    assert seen == wanted[:6]
    resumed = DeviceBatches(make(store, epochs=None, reading={"staged": True}), "cpu")
    resumed.load_state_dict(uploaded.state_dict())
    batches = iter(resumed)
    assert [next(batches).key.tolist() for _ in range(3)] == wanted[6:9]
    batches.close()


def test_only_staged_loaders_are_uploaded(store):
    with pytest.raises(InputError, match="staged=True"):
        DeviceBatches(make(store), "cpu")


@pytest.mark.gpu
def test_uploads_are_equal_and_run_beside_the_computation(store):
    uploaded = DeviceBatches(make(store, epochs=3, reading={"staged": True}), "cuda")
    busy, begun = torch.randn(4096, 4096, device="cuda"), []
    for batch, wanted in zip(uploaded, make(store, epochs=3), strict=True):
        copies = [cells.clone() for cells in (batch.perturbed, batch.control)]
        begun.append(torch.cuda.Event())
        for _ in range(20):
            busy = torch.nn.functional.normalize(busy @ busy)
        begun[-1].record()
        # The host came here without waiting: the device still multiplies.
        assert not begun[-1].query()
        for cells, reference in zip(copies, (wanted.perturbed, wanted.control), strict=True):
            torch.testing.assert_close(cells.cpu(), reference, rtol=2e-7, atol=0)


def test_a_dataloader_passes_batches_and_state_through(store):
    one = make(store, epochs=2)
    passed = torch.utils.data.DataLoader(one, batch_size=None)
    states = []
    for batch, wanted in zip(passed, make(store, epochs=2), strict=True):
        assert_equal(batch, wanted)
        states.append(one.state_dict())
    assert states[3] == place(one, 0, 12)
    again = make(store, epochs=2)
    again.load_state_dict(states[3])
    rest = [batch.key.tolist() for batch in torch.utils.data.DataLoader(again, batch_size=None)]
    assert rest == [batch.key.tolist() for batch in make(store, epochs=2)][4:]


def test_dense_cells_are_numpys_float64_logarithms_rounded_once():
    rng = np.random.default_rng(0)
    counts = (rng.pareto(0.6, (400, 500)) * 2 + 1).clip(max=2**32 - 1).astype(np.uint32)
    library_size = rng.uniform(1, 1e6, 400).astype(np.float32)
    columns, row_pointers = np.tile(np.arange(500, dtype=np.uint16), 400), np.arange(401, dtype=np.uint64) * 500
    out = np.empty((400, 500), dtype=np.float32)
    kernels.densify_counts(np.arange(400), out, counts.reshape(-1), columns, row_pointers, 500, library_size, 1e4)
    assert counts.max() > 1e6
    np.testing.assert_array_equal(out, np.log1p(counts * (1e4 / library_size[:, None].astype(np.float64))).astype("f4"))
