"""Open AnnData files so that nothing but the named file is read and nothing in it is run.

An HDF5 file may point into other files, and a zarr array may name a codec that unpickles, which runs code. Both are
refused before any array is read, so a file from elsewhere is only ever data. Every command that reads cells opens its
files here.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import pandas as pd
import zarr
from anndata.io import read_elem

from bionemo.screens.errors import InputError, brief

# fmt: off
ZARR_CODECS = frozenset((
    "adler32", "astype", "bitround", "blosc", "bytes", "bz2", "categorize", "crc32", "crc32c", "delta",
    "fixedscaleoffset", "fletcher32", "gzip", "jenkins_lookup3", "json2", "lz4", "lzma", "packbits", "quantize",
    "sharding_indexed", "shuffle", "transpose", "vlen-array", "vlen-bytes", "vlen-utf8", "zlib", "zstd",
))
# fmt: on
"""Codecs and filters, of both formats of zarr, that only turn bytes into numbers and text."""
_PACKED = {b"\x1f\x8b": "gunzip", b"PK": "unzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"\x28\xb5": "unzstd"}
_ZARR_FILES = ("zarr.json", ".zgroup", ".zmetadata")


def open_anndata_file(path: str | Path) -> h5py.File | zarr.Group:
    """Open an h5ad file or a zarr directory (format 2 or 3) to read, checked; its content tells which, not its name.

    An `h5py.File` must be closed.

    Raises
    ------
    InputError
        If there is no such file, it is neither HDF5 nor zarr, it leads to other files, or it has a codec that is not
        among `ZARR_CODECS`.
    """
    path = Path(path)
    if path.is_dir():
        return _open_zarr(path)
    _refuse_foreign(path)
    with ExitStack() as closing:
        try:
            file = closing.enter_context(h5py.File(path, "r"))
            ways = list(_ways_out(file))
        except Exception as error:  # whatever h5py stumbles over, the file is the cause
            raise InputError(
                f"{path} cannot be read as .h5ad ({brief(error)}): copy or write the file again"
            ) from error
        for name, reason in ways:
            raise InputError(
                f"'{name}' of {path} {reason}, and only the named file is read: write one file that holds all of it"
            )
        closing.pop_all()
    return file


@contextmanager
def reading(path: str | Path) -> Iterator[Any]:
    """Open an AnnData file as `open_anndata_file` does, close it afterwards, and blame the file for what fails.

    Raises
    ------
    InputError
        The file cannot be opened, or reading it fails.
    """
    file: Any = open_anndata_file(path)
    try:
        yield file
    except InputError:
        raise
    except Exception as error:  # whatever the reader stumbles over, the file is the cause
        raise InputError(f"{path} cannot be read as AnnData ({brief(error)}): write the file again") from error
    finally:
        if isinstance(file, h5py.File):
            file.close()


def read_anndata(path: str | Path, *, obs_only: bool = False) -> ad.AnnData:
    """Read an AnnData file into memory, old layouts included, checked as `open_anndata_file` does.

    With `obs_only` only the two tables are read, obs and var; X is then None.

    Raises
    ------
    InputError
        If the file cannot be opened, is no AnnData, or is damaged.
    """
    with reading(path) as file:
        missing = [table for table in ("obs", "var") if table not in file]
        if missing:
            raise InputError(f"{path} has no '{missing[0]}' table: name an AnnData file")
        if obs_only and all(_is_group(file[table]) for table in ("obs", "var")):
            tables: list[Any] = [read_elem(file[table]) for table in ("obs", "var")]
            return ad.AnnData(obs=tables[0], var=tables[1])
        if isinstance(file, zarr.Group):
            cells = ad.io.read_zarr(file)
        elif obs_only:  # before anndata 0.7 the categories of a table were kept beside it, in uns
            cells = ad.read_h5ad(path, backed="r")
            cells.file.close()
        else:
            cells = ad.read_h5ad(path)
        return ad.AnnData(obs=pd.DataFrame(cells.obs), var=pd.DataFrame(cells.var)) if obs_only else cells


def _is_group(node: Any) -> bool:
    return isinstance(node, h5py.Group | zarr.Group)


def _refuse_foreign(path: Path) -> None:
    """Refuse a path that is no HDF5 file, saying what it is instead."""
    if not path.exists():
        raise InputError(f"There is no file {path}: name an existing .h5ad file or .zarr directory")
    try:
        with path.open("rb") as file:
            begin = file.read(2)
        is_hdf5 = h5py.is_hdf5(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or brief(error)}): check the file") from error
    if is_hdf5:
        return
    if begin in _PACKED:
        raise InputError(f"{path} is a packed file: unpack it with {_PACKED[begin]} and name the .h5ad file inside")
    if not begin:
        raise InputError(f"{path} is empty: copy or write the file again")
    raise InputError(f"{path} is neither an .h5ad file nor a .zarr directory: name an AnnData file")


def _ways_out(file: h5py.File) -> Iterator[tuple[str, str]]:
    """Yield the names of what lies in other files, and how it gets there."""
    links: list[str] = []
    datasets: dict[str, h5py.Dataset] = {}
    file.visititems_links(lambda name, link: links.append(name) if isinstance(link, h5py.ExternalLink) else None)
    yield from ((name, "is a link to another file") for name in links)
    # A soft link stays inside the file: what it points to is visited under its own name.
    file.visititems(lambda name, node: datasets.update({name: node}) if isinstance(node, h5py.Dataset) else None)
    for name, dataset in datasets.items():
        if dataset.is_virtual:
            yield name, "is a virtual dataset of other files"
        elif dataset.external:
            yield name, "keeps its values in another file"


def _open_zarr(path: Path) -> zarr.Group:
    if not any((path / name).is_file() for name in _ZARR_FILES):
        if (path / ".zarray").is_file():
            raise InputError(f"{path} is a single zarr array: name the AnnData directory that holds it")
        inside = sorted(file.name for file in path.iterdir() if file.suffix in (".h5ad", ".zarr"))
        which = f"name one of the AnnData files in it, such as '{inside[0]}'" if inside else "name an AnnData file"
        raise InputError(f"{path} is a directory but no zarr, it has no {' or '.join(_ZARR_FILES[:2])}: {which}")
    root = os.path.realpath(path)
    try:
        group = zarr.open_group(str(path), mode="r")
        for name, node in group.members(max_depth=None):
            if not Path(os.path.realpath(path / name)).is_relative_to(root):
                raise InputError(
                    f"'{name}' of {path} is a link that leads out of it, and only the named directory is read: "
                    "copy what it leads to"
                )
            unknown = sorted(_codecs(node.metadata.to_dict()) - ZARR_CODECS) if isinstance(node, zarr.Array) else []
            if unknown:
                raise InputError(
                    f"'{name}' of {path} is packed with the codec '{unknown[0]}', which is not among those that are "
                    "known to hold nothing but data: write the file again with anndata's own codecs"
                )
    except InputError:
        raise
    except Exception as error:  # zarr's errors have no common class
        raise InputError(f"{path} cannot be read as zarr ({brief(error)}): write the file again") from error
    return group


def _codecs(metadata: Any) -> set[str]:
    """Return the names of all codecs and filters of an array's metadata, those inside of shards included."""
    entries: list[Any] = [metadata.get("compressor")]
    for key in ("filters", "codecs", "index_codecs"):
        found = metadata.get(key)
        entries += found if isinstance(found, Iterable) else []
    names: set[str] = set()
    for entry in entries:
        if entry is None:
            continue
        if not isinstance(entry, str | dict):
            entry = entry.get_config() if hasattr(entry, "get_config") else entry.to_dict()
        entry = {"name": entry} if isinstance(entry, str) else entry
        names.add(str(entry.get("id", entry.get("name"))).removeprefix("numcodecs."))
        names |= _codecs(entry.get("configuration") or {})
    return names
