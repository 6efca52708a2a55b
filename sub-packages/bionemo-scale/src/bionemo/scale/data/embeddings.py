"""Read the embeddings of perturbations that a user supplies: vectors of genes or molecules by name."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.screens.errors import InputError, brief, name_list

LAYOUTS = (
    "an .npz with one array [E] for each perturbation under its name, as numpy.savez(path, **vectors) does, or a "
    ".parquet table with a row for each perturbation and the names as its index or only text column"
)


@dataclass(frozen=True)
class Embeddings:
    """`Embeddings` holds the vectors of one file, each feature standardised over its names."""

    names: tuple[str, ...]
    vectors: np.ndarray
    """float32 [names, E]."""
    sha256: str
    """Of the file."""

    @classmethod
    def read(cls, path: str | Path) -> "Embeddings":
        """Read vectors by name from one of two layouts, which `LAYOUTS` describes.

        An InputError says that the file is absent, of another kind, or that its vectors are not finite numbers of one
        length under distinct names.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"--embeddings {path} cannot be read ({error.strerror}): check the path.") from None
        if path.suffix not in _READERS:
            raise InputError(f"--embeddings {path} is neither .parquet nor .npz: write {LAYOUTS}.")
        try:
            names, vectors = _READERS[path.suffix](path)
        except InputError:
            raise
        except Exception as error:  # every reader has its own exceptions for a damaged file
            raise InputError(
                f"--embeddings {path} is damaged or of another layout ({brief(error)}): write {LAYOUTS}."
            ) from None
        twice = pd.Index(names)[pd.Index(names).duplicated()]
        if len(twice):
            raise InputError(f"--embeddings {path} names {twice[0]!r} more than once: keep one vector a name.")
        if not vectors.size or not np.isfinite(vectors).all():
            wrong = [name for name, vector in zip(names, vectors, strict=True) if not np.isfinite(vector).all()]
            raise InputError(
                f"--embeddings {path} holds no finite vector for {wrong[0]!r}: leave the name out or mend it."
                if wrong
                else f"--embeddings {path} holds no vector."
            )
        spread = vectors.std(0)
        # A feature that all names share says nothing.
        standard = (vectors - vectors.mean(0)) / np.where(spread > 1e-6, spread, 1.0)
        return cls(tuple(names), standard.astype(np.float32), hashlib.sha256(content).hexdigest())

    def table(self, vocabulary: Vocabulary) -> torch.Tensor:
        """Return a vector for each of the vocabulary's tokens, float32 [tokens, E]; zeros for the control label."""
        row_of = {name: row for row, name in enumerate(self.names)}
        table = torch.zeros(len(vocabulary.tokens), self.vectors.shape[1])
        for row, name in enumerate(vocabulary.tokens):
            if name in row_of:
                table[row] = torch.from_numpy(self.vectors[row_of[name]])
        return table

    def check(self, perturbations: tuple[str, ...]) -> None:
        """Raise an InputError that names the perturbations without a vector."""
        missing = sorted(set(perturbations) - set(self.names))
        if missing:
            raise InputError(
                f"--embeddings has no vector for {len(missing)} of the {len(perturbations)} perturbations of the "
                f"training cells ({name_list(missing, 5)}): add them, or leave those cells out of the store."
            )


def _read_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    frame = pd.read_parquet(path)
    text = [column for column in frame if not pd.api.types.is_numeric_dtype(frame[column])]
    if len(text) > 1:
        raise InputError(f"--embeddings {path} has the text columns {', '.join(map(str, text))}: keep one, the names.")
    if text:
        frame = frame.set_index(text[0])
    return [str(name) for name in frame.index], frame.to_numpy(dtype=np.float64)


def _read_npz(path: Path) -> tuple[list[str], np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: np.asarray(file[name]) for name in file.files}
    wrong = next((name for name, array in arrays.items() if array.ndim != 1 or array.dtype.kind not in "fiu"), None)
    if wrong is not None:
        held = f"{arrays[wrong].dtype.name} {list(arrays[wrong].shape)}"
        raise InputError(f"--embeddings {path} holds {held} under {wrong!r}, not a vector of numbers: write {LAYOUTS}.")
    vectors = {name: array.astype(np.float64) for name, array in arrays.items()}
    if len({len(vector) for vector in vectors.values()}) > 1:
        raise InputError(f"--embeddings {path} holds vectors of several lengths: they must have one.")
    return list(vectors), np.stack(list(vectors.values())) if vectors else np.empty((0, 0))


_READERS = {".parquet": _read_parquet, ".npz": _read_npz}
