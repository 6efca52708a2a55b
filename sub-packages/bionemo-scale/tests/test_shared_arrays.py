"""Arrays that one process works out and all map: the fitted linear start among them, and what it takes of memory."""

import errno
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.linear_start.fit import Fit
from bionemo.scale.linear_start.fitted import FittedLinearStart
from bionemo.scale.linear_start.shared_arrays import shared_arrays
from bionemo.screens.controls import ControlRole
from bionemo.screens.errors import InputError

SHAPES = {"a": ((3, 4), np.float32), "b": ((0, 2), np.float64)}


def test_arrays_are_filled_once_and_mapped_by_all_who_ask(tmp_path):
    filled = []

    def fill(arrays):
        filled.append(1)
        arrays["a"][:] = np.arange(12).reshape(3, 4)

    def ask(_):
        return shared_arrays(tmp_path / "new", "one", SHAPES, fill)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert filled == [1]
    for arrays in found:
        np.testing.assert_array_equal(arrays["a"], np.arange(12).reshape(3, 4))
        assert isinstance(arrays["a"], np.memmap)
        assert not arrays["a"].flags.writeable
    np.testing.assert_array_equal(shared_arrays(None, "", SHAPES, fill)["a"], found[0]["a"])


def test_other_values_take_the_place_of_the_files_that_were_there(tmp_path):
    for key in ("one", "two"):
        shared_arrays(tmp_path, key, SHAPES, lambda arrays: arrays["a"].fill(1))
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == ["a-two.npy", "b-two.npy"]


def test_a_fill_that_fails_leaves_no_file_and_the_next_one_fills(tmp_path):
    with pytest.raises(ZeroDivisionError):
        shared_arrays(tmp_path, "one", SHAPES, lambda arrays: arrays["a"].fill(1 / 0))
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert shared_arrays(tmp_path, "one", SHAPES, lambda arrays: arrays["a"].fill(7))["a"].max() == 7


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        shared_arrays(tmp_path, "one", SHAPES, lambda arrays: None)


def grid(contexts: int, labels: int, genes: int, folder) -> tuple[SimpleNamespace, Vocabulary]:
    """Means of all pairs of contexts and labels, mapped from a file as those of a store are."""
    rng = np.random.default_rng(0)
    pairs = [(k, p + 1) for k in range(contexts) for p in range(labels)]

    def fill(arrays):
        arrays["mean"][:] = np.abs(rng.normal(1.0, 0.5, size=arrays["mean"].shape))
        arrays["noise"][:] = 0.01

    shape = ((len(pairs), genes), np.float32)
    arrays = shared_arrays(folder, "means", {"mean": shape, "noise": shape}, fill)
    control = {k: np.abs(rng.normal(1.0, 0.5, size=genes)) for k in range(contexts)}
    means = SimpleNamespace(
        mean=dict(zip(pairs, arrays["mean"], strict=True)),
        noise=dict(zip(pairs, arrays["noise"], strict=True)),
        cells=dict.fromkeys(pairs, 100),
        batches={p + 1: {0} for p in range(labels)},
        control=dict.fromkeys((ControlRole.INPUT, ControlRole.TARGET), control),
        control_noise={ControlRole.TARGET: {k: np.full(genes, 0.001) for k in range(contexts)}},
        key="means",
    )
    names = tuple(f"p{i}" for i in range(labels))
    vocabulary = Vocabulary(
        genes=tuple(f"g{i}" for i in range(genes)),
        contexts=tuple(f"c{i}" for i in range(contexts)),
        perturbations=("ctrl", *names),
        batches=(),
        control="ctrl",
        kind="counts",
        target_sum=1e4,
        start_labels=names,
    )
    return means, vocabulary


def fitted(means: SimpleNamespace, names: Vocabulary, folder) -> FittedLinearStart:
    return FittedLinearStart(means, list(names.contexts), list(names.perturbations), names, folder=folder)


def test_a_second_process_fits_nothing_and_starts_alike(tmp_path, monkeypatch):
    means, names = grid(3, 6, 40, tmp_path)
    first, in_memory = fitted(means, names, tmp_path), fitted(means, names, None)
    monkeypatch.setattr(Fit, "_solve", lambda self: 1 / 0)
    second = fitted(means, names, tmp_path)
    for condition in [*means.mean, (0, 0)]:
        assert torch.equal(first.delta(*condition), second.delta(*condition))
        assert torch.equal(first.delta(*condition), in_memory.delta(*condition))
    for name, values in first.buffers().items():
        assert torch.equal(values, second.buffers()[name])
    means.key = "others"
    with pytest.raises(ZeroDivisionError):
        fitted(means, names, tmp_path)


def test_fifty_contexts_of_1100_perturbations_and_2000_genes_fit_into_half_a_gigabyte(tmp_path):
    """The peak is that of one context's labels by genes, and of the model's interactions; both are scaled here.

    Files that are mapped do not count: they are shared by all processes, and the system may drop them at any time.
    """

    def peak(contexts: int, labels: int, genes: int) -> int:
        means, names = grid(contexts, labels, genes, tmp_path / f"{contexts}-{labels}-{genes}")
        tracemalloc.start()
        try:
            start = fitted(means, names, tmp_path / f"{contexts}-{labels}-{genes}")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            del start

    small, more_contexts = peak(4, 220, 400), peak(12, 220, 400)
    of_a_context = (more_contexts - small) / 8
    base = small - 4 * of_a_context
    whole = base * (1100 * 2000) / (220 * 400) + 50 * of_a_context * (1100 * 256) / (220 * 256)
    assert whole < 0.5 * 2**30, f"{whole / 2**30:.2f} GiB"
