"""The file that predictions go to."""

import os
from pathlib import Path

import anndata as ad

from bionemo.screens.errors import InputError


def check_target(out: Path, inputs: dict[str, Path | None]) -> None:
    """Make sure that ``out`` can be written and is none of the files that are read.

    Parameters
    ----------
    out
        File to write; it and the directories above it need not exist.
    inputs
        Option -> file it names, or None.

    Raises
    ------
    InputError
        ``out`` is an input, a directory, under a file, or in a directory that may not be written to.
    """
    for option, path in inputs.items():
        if path is not None and out.resolve() == path.resolve():
            raise InputError(f"--out {out} is the file given with {option}, which it would replace: name another file.")
    if out.is_dir():
        raise InputError(f"--out {out} is a directory: name a file in it, such as {out / 'predicted.h5ad'}.")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise InputError(f"--out {out} is under {above}, which is a file: name a file in a directory.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"--out {out} cannot be written, since {above} is not yours to write to: name another place.")


def write_whole(cells: ad.AnnData, out: Path) -> None:
    """Write all of the file or nothing; a file that was there stays until the new one is whole.

    Raises
    ------
    InputError
        The place cannot be written to, or is full.
    """
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            cells.write_h5ad(partial)
            os.replace(partial, out)
        finally:
            partial.unlink(missing_ok=True)
    # h5py raises a RuntimeError where a disk fills up.
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{out} could not be written ({reason}): free the place, or name another.") from error
