"""Stores damaged in every way: one sentence, never a crash, and never a wrong row once verified."""

import hashlib
import json
import shutil
import warnings

import numpy as np
import pytest

from bionemo.cellsets import CellStore, describe
from bionemo.cellsets.store.manifest import COLUMNS, DATA, LIBRARY_SIZE, ROW_POINTERS, RUNS, TABLES, sealed
from bionemo.screens import InputError

WRONG = [
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    float("inf"),
    float("nan"),
    "x",
    "../..",
    "\0",
    "n" * 5000,
    [],
    {},
    [[1]],
    {"a": 1},
]
ARRAYS = (DATA, COLUMNS, ROW_POINTERS, RUNS, LIBRARY_SIZE)


def flip(path, rng):
    content = bytearray(path.read_bytes())
    for at in rng.integers(0, len(content), rng.integers(1, 9)):
        content[at] ^= int(rng.integers(1, 256))
    path.write_bytes(content)


def truncate(path, rng):
    path.write_bytes(path.read_bytes()[: rng.integers(0, path.stat().st_size)])


def extend(path, rng):
    path.write_bytes(path.read_bytes() + rng.bytes(int(rng.integers(1, 50))))


def shift(path, rng):
    content = path.read_bytes()
    at = int(rng.integers(0, len(content)))
    path.write_bytes(content[at:] + content[:at])


def empty(path, rng):
    path.write_bytes(b"")


def delete(path, rng):
    path.unlink()


def directory(path, rng):
    path.unlink()
    path.mkdir()


def loop(path, rng):
    path.unlink()
    path.symlink_to(path)


def swap(path, rng):
    files = [file for file in path.parent.iterdir() if file.is_file()]
    other = files[rng.integers(0, len(files))]
    content = other.read_bytes()
    other.write_bytes(path.read_bytes())
    path.write_bytes(content)


def retype(path, rng):
    """Write an array anew, as another type or with an entry that no store has."""
    if path.name not in ("runs.npy", "library_size.npy"):
        return flip(path, rng)
    array = np.load(path)
    kind = rng.integers(0, 5)
    if kind == 0:
        array = array.view(np.uint8)
    elif kind == 1:
        array = array.astype(array.dtype.newbyteorder(">"))
    elif kind == 2:
        array = array[: rng.integers(0, len(array))]
    elif kind == 3:
        array = array[None]
    else:
        at = rng.integers(0, len(array))
        array[at] = (
            tuple(rng.choice([-1, 2**31 - 1, -(2**31)], 6)) if array.dtype.names else rng.choice([-1, np.nan, np.inf])
        )
    return np.save(path, array)


def mistype(path, rng):
    """Put a value of another kind somewhere into a JSON file."""
    if path.suffix != ".json":
        return flip(path, rng)
    content = node = json.loads(path.read_text())
    while isinstance(node, dict | list) and len(node):
        key = rng.choice(list(node)) if isinstance(node, dict) else int(rng.integers(0, len(node)))
        if rng.random() < 0.4 or not isinstance(node[key], dict | list) or not node[key]:
            if rng.random() < 0.3:
                del node[key]
            else:
                node[key] = WRONG[rng.integers(0, len(WRONG))]
            break
        node = node[key]
    return path.write_text(json.dumps(content))


DAMAGES = (flip, truncate, extend, shift, empty, delete, directory, loop, swap, retype, mistype)


def sign(path):
    """Make the manifest agree with the files, as one would who wants the damage to pass."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        for name, entry in manifest["files"].items():
            content = (path / name).read_bytes()
            entry["bytes"], entry["sha256"] = len(content), hashlib.sha256(content).hexdigest()
        (path / "manifest.json").write_text(json.dumps(sealed(manifest)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass


def used(path, *, verify):
    """Open, describe and read a store whole; None where that ends in the one error it may."""
    try:
        store = CellStore.open(path, verify=verify)
        describe(store, verify=False)
        store.obs()
        rows = store.read(np.arange(store.n_cells))
        store.counts(0, store.n_cells)
    except InputError as error:
        if "\n" in str(error):
            raise AssertionError("more than one line") from error
        return None
    return rows, store.genes.tolist(), store.runs.tolist()


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_crashes_or_passes_for_data(store, tmp_path, damage):
    sound = used(store.path, verify=False)
    names = ["manifest.json", *store.manifest["files"]]
    noticed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        path = tmp_path / str(seed)
        shutil.copytree(store.path, path)
        # The files that decide what is read come first, and oftener.
        decisive = ["manifest.json", TABLES, *ARRAYS]
        name = names[rng.integers(0, len(names))] if seed % 4 == 0 else decisive[seed % len(decisive)]
        damage(path / name, rng)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            verified = used(path, verify=True)
            if verified is not None:
                np.testing.assert_array_equal(verified[0], sound[0])
                assert verified[1:] == sound[1:]
            noticed += verified is None
            used(path, verify=False)
            sign(path)
            used(path, verify=True)
        shutil.rmtree(path)
    assert noticed > 25


def test_a_truncated_array_under_an_altered_manifest_is_not_read_beyond(store, tmp_path):
    """What an attacker or a careless copy could do: fewer values than the row pointers say."""
    path = tmp_path / "s"
    shutil.copytree(store.path, path)
    for name in (DATA, COLUMNS):
        content = np.fromfile(path / name, dtype=getattr(store, "data" if name == DATA else "columns").dtype)
        content[:-7].tofile(path / name)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"n_values": store.n_values - 7}))
    sign(path)
    opened = CellStore.open(path, verify=True)
    with pytest.raises(InputError, match=r"Row 314 .* is damaged"):
        opened.read(np.arange(315))
    with pytest.raises(InputError, match=r"Rows 0 to 314 of the store .* are damaged"):
        opened.counts(0, 315)


def test_nothing_that_the_manifest_says_is_changed_unnoticed(store, tmp_path):
    path = tmp_path / "s"
    shutil.copytree(store.path, path)
    manifest = json.loads((path / "manifest.json").read_text())
    for name, value in manifest.items():
        changed = manifest | {name: f"{value}x" if isinstance(value, str) else "x"}
        (path / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(InputError):
            CellStore.open(path)
    (path / "manifest.json").write_text(json.dumps(manifest))
    CellStore.open(path)


def test_nothing_outside_of_a_store_is_opened(store, tmp_path):
    """A manifest's names and a store's links could lead to any file of the machine."""
    for name in ("../outside", str(tmp_path / "outside")):
        path = shutil.copytree(store.path, tmp_path / f"names{len(name)}")
        manifest = json.loads((path / "manifest.json").read_text())
        (tmp_path / "outside").write_bytes(b"secret")
        manifest["files"][name] = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
        (path / "manifest.json").write_text(json.dumps(sealed(manifest)))
        with pytest.raises(InputError, match=r"outside' of the store .* leads elsewhere"):
            CellStore.open(path)
    for name in (DATA, RUNS, "manifest.json", "obs_features"):
        path = shutil.copytree(store.path, tmp_path / f"links{name[:3]}")
        (path / name).rename(tmp_path / "moved")
        (path / name).symlink_to(tmp_path / "moved")
        with pytest.raises(InputError, match=f"'{name}.* of the store .* is a link or a name that leads elsewhere"):
            CellStore.open(path)
        (tmp_path / "moved").rename(tmp_path / f"moved{name[:3]}")
    (tmp_path / "whole").symlink_to(store.path)  # the store's own place may be a link
    assert CellStore.open(str(tmp_path / "whole"), verify=True).fingerprint == store.fingerprint
