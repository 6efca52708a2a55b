"""Read and check what a store says about itself: which files it has, what is in them, whether they are the same."""

import json
import math
from pathlib import Path
from typing import Any

from bionemo.screens.digests import digest, file_digest
from bionemo.screens.errors import InputError, brief, name_list

FORMAT = "bionemo-cellsets"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
DATA, COLUMNS, ROW_POINTERS = "data.npy", "col_ptr.npy", "row_ptr.npy"
RUNS, TABLES, LIBRARY_SIZE = "cellsets/runs.npy", "cellsets/tables.json", "cellsets/library_size.npy"
OBS = "obs_features/dataframe_0.parquet"
VALUE_TYPES = {
    DATA: {"counts": ("uint8", "uint16", "uint32"), "log1p": ("float32",)},
    COLUMNS: {kind: ("uint16", "uint32") for kind in ("counts", "log1p")},
    ROW_POINTERS: {kind: ("uint64",) for kind in ("counts", "log1p")},
}
"""Types that the raw arrays may have, by the kind of store."""


def fingerprint_of(manifest: dict[str, Any]) -> str:
    """Hash what decides the numbers a store yields: its arrays, its tables and its normalisation."""
    files = {
        name: manifest["files"][name]["sha256"] for name in (DATA, COLUMNS, ROW_POINTERS, RUNS, TABLES, LIBRARY_SIZE)
    }
    decisive = {"files": files} | {name: manifest[name] for name in ("format_version", "kind", "control", "target_sum")}
    return digest(decisive)


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest with its fingerprint, and with a checksum of all that it says."""
    complete = manifest | {"fingerprint": fingerprint_of(manifest)}
    return complete | {"checksum": digest({name: said for name, said in complete.items() if name != "checksum"})}


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a store; an InputError where there is none, or it was altered or is of another version."""
    file = path / MANIFEST
    if not path.is_dir():
        raise InputError(f"There is no store at {path}: make one with prepare, or name its directory")
    if not file.is_file():
        raise InputError(f"{path} is not a cell store, it has no {MANIFEST}: make a store with prepare")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = (manifest["format"], manifest["format_version"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{file} is not a cell store's manifest ({brief(error)}): prepare the store again") from error
    if version != (FORMAT, FORMAT_VERSION):
        raise InputError(
            f"{path} has the format {version[0]} {version[1]} where {FORMAT} {FORMAT_VERSION} is read: "
            "prepare the store again"
        )
    try:
        intact = manifest == sealed(manifest) and _is_sound(manifest)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        intact = False
    if not intact:
        raise InputError(f"{file} was altered after it was written: copy or prepare the store again")
    return manifest


def foreign_files(path: Path) -> list[str] | None:
    """Return what a directory holds beside the files of a store, or None where it is no store, of any version."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        own = {MANIFEST, *manifest["files"]} if manifest["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        own = None
    if own is None:
        return None
    files = (file for file in path.rglob("*") if file.is_symlink() or not file.is_dir())
    return sorted(name for file in files if (name := file.relative_to(path).as_posix()) not in own)


def check_sizes(path: Path, manifest: dict[str, Any]) -> None:
    """Refuse, naming the file, a store that lacks one, or has one of another size than was written or elsewhere."""
    for name in (MANIFEST, *manifest["files"]):
        if _leads_elsewhere(path, name):
            raise InputError(
                f"{name!r} of the store {path} is a link or a name that leads elsewhere, and only the store's own "
                "files are read: copy the store with the files that its links lead to"
            )
    for name, entry in manifest["files"].items():
        try:
            size = (path / name).stat().st_size if (path / name).is_file() else None
        except (OSError, ValueError):  # a name that none can have
            size = None
        if size is None:
            raise InputError(f"The store {path} lacks its file {name!r}: copy or prepare the store again")
        if size != entry["bytes"]:
            raise InputError(
                f"{name!r} of the store {path} has {size} bytes where {entry['bytes']} were written: "
                "copy or prepare the store again"
            )


def _leads_elsewhere(path: Path, name: str) -> bool:
    root = path.resolve()
    try:
        found = (path / name).resolve()
    except (OSError, ValueError, RuntimeError):  # a name that no file can have is said to be missing
        return False
    return found != root / name or not found.is_relative_to(root)


def check_checksums(path: Path, manifest: dict[str, Any]) -> None:
    """Recompute the checksum of every file; an InputError names those that differ from what was written."""
    try:
        altered = [name for name, entry in manifest["files"].items() if file_digest(path / name) != entry["sha256"]]
    except OSError as error:
        raise InputError(
            f"The store {path} cannot be read ({brief(error)}): copy or prepare the store again"
        ) from error
    if altered:
        raise InputError(
            f"{name_list(altered)} of the store {path} differs from its checksum: copy or prepare the store again"
        )


def _is_sound(manifest: dict[str, Any]) -> bool:
    files, keys, selection = (manifest[name] for name in ("files", "keys", "gene_selection"))
    return (
        manifest["kind"] in ("counts", "log1p")
        and all(type(manifest[name]) is int and manifest[name] > 0 for name in ("n_cells", "n_genes", "n_values"))
        and all(type(entry["bytes"]) is int and isinstance(entry["sha256"], str) for entry in files.values())
        and all(type(files[name]["dtype"]) is str for name in VALUE_TYPES)
        and set(keys) == {"perturbation", "context", "batch"}
        and all(key is None or isinstance(key, str) for key in keys.values())
        and isinstance(manifest["control"], str)
        and type(selection["of"]) is int
        and isinstance(selection["source"], str)
        and math.isfinite(manifest["target_sum"])
        and manifest["target_sum"] > 0
    )
