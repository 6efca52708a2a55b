"""Tests of observed cells kept on disk by the content of the cells, so that the next prediction finds them done."""

import hashlib
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from bionemo.perteval.significance.mann_whitney import Moments, Tested
from bionemo.screens.errors import InputError

_FORMAT = b"perteval test 1"
_ARRAYS = ("p_value", "z", "fold_change", "mean", "variance", "zeros")


@dataclass(frozen=True)
class TestCache:
    """A folder of tests; anything in it may be deleted at any time.

    Parameters
    ----------
    folder
        Made where absent.
    """

    folder: Path

    __test__ = False  # not a test case, whatever pytest takes the name for

    def for_controls(self, controls: sp.csr_matrix) -> "ControlsCache":
        """Return the tests against these control cells, log1p [n, G]."""
        return ControlsCache(self.folder, _digest(_FORMAT, controls))


@dataclass(frozen=True)
class ControlsCache:
    """Tests against one set of control cells."""

    folder: Path
    controls: bytes

    def get(self, cells: sp.csr_matrix) -> Tested | None:
        """Return the kept test of a population, or None where there is none that can be read."""
        try:
            with np.load(self._path(cells)) as kept:
                arrays = {name: kept[name] for name in _ARRAYS}
                count = int(kept["cells"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        moments = Moments(cells=count, **{name: arrays.pop(name) for name in ("mean", "variance", "zeros")})
        return Tested(moments=moments, **arrays)

    def put(self, cells: sp.csr_matrix, tested: Tested) -> None:
        """Keep a test; raises InputError where the folder cannot be written."""
        path = self._path(cells)
        moments = tested.moments
        arrays = {
            **{name: getattr(tested, name) for name in _ARRAYS[:3]},
            **{name: getattr(moments, name) for name in _ARRAYS[3:]},
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as part:
                np.savez(part, cells=moments.cells, **arrays)
            os.replace(part.name, path)
        except OSError as error:
            raise InputError(
                f"The cache {self.folder} cannot be written ({error.strerror or error}); name another with --cache."
            ) from error

    def _path(self, cells: sp.csr_matrix) -> Path:
        return self.folder / f"{_digest(self.controls, cells).hex()}.npz"


def _digest(start: bytes, cells: sp.csr_matrix) -> bytes:
    digest = hashlib.sha256(start)
    digest.update(repr(cells.shape).encode())
    for array in (cells.indptr.astype(np.int64), cells.indices.astype(np.int64), cells.data.astype(np.float32)):
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.digest()
