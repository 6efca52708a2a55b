"""The loops that the loader benchmark compares."""

from dataclasses import dataclass, field
from typing import Any

from bionemo.bench.harness.environments import Environment
from bionemo.bench.harness.formats import OWN
from bionemo.bench.loader.formats import ANNBATCH, CELL_LOAD, CELLSTREAM, DRIVERS, SCDATASET, SCDL

SETS, PAIRS, CELLS = "sets", "sets and controls", "mixed cells"
"""What a loop reads: sets of one condition; those and as many control cells; batches that mix conditions."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One loop that is timed.

    Attributes
    ----------
    name, label : str
        For the command line and JSON; for the table.
    reads : str
        `SETS`, `PAIRS` or `CELLS`.
    driver, environment, format
        The script, where it runs, and the name of the `Format` it reads.
    options : dict
        For the driver.
    ranks : int
        Processes that share an epoch.
    tolerance : float
        Greatest difference from the reference that is let pass, in log1p units.
    exact_counts : bool
        Whether the output tells integer counts apart.
    is_peer : bool
        Whether it is another project's loader.
    """

    name: str
    label: str
    reads: str
    driver: str
    environment: Environment
    format: str
    options: dict[str, Any] = field(default_factory=dict)
    ranks: int = 1
    tolerance: float = 1e-5
    exact_counts: bool = True
    is_peer: bool = True


def _own(name: str, label: str, reads: str = PAIRS, **more: Any) -> Arm:
    options = {kind: more.pop(kind) for kind in ("loader", "sampler") if kind in more}
    return Arm(
        name=name,
        label=f"cellsets, {label}",
        reads=reads,
        driver="read_store",
        environment=OWN,
        format="store",
        options=options,
        is_peer=False,
        **more,
    )


def own_arms() -> list[Arm]:
    """Return the arms of this package, and sorted h5py slices, which need nothing else either."""
    return [
        _own("dense", "dense"),
        _own("dense-sets", "dense, no controls", SETS, loader={"controls": False}),
        _own("staged", "CSR staged", loader={"staged": True}),
        _own("staged-sets", "CSR staged, no controls", SETS, loader={"staged": True, "controls": False}),
        _own(
            "bf16", "dense bfloat16", loader={"dtype": "bfloat16"}, tolerance=0.04, exact_counts=False
        ),  # half a unit in the last of 8 bits, up to log1p(10,000)
        _own("blocks", "dense, sets of 4 blocks", sampler={"blocks": 4}),
        _own("threads", "dense, 2 threads", loader={"threads": 2}),
        _own("ranks", "dense, 2 ranks", ranks=2),
        _own("staged-ranks", "CSR staged, 2 ranks", loader={"staged": True}, ranks=2),
        Arm(
            name="h5py",
            label="sorted h5py slices",
            reads=SETS,
            driver="read_h5ad",
            environment=OWN,
            format="sorted",
            is_peer=False,
        ),
    ]


def peer_arms(workers: int) -> list[Arm]:
    """Return the arms of other projects.

    Parameters
    ----------
    workers : int
        Worker processes of the arm that uses some.
    """

    def cell_load(name: str, label: str, *, consecutive: bool, workers: int = 0) -> Arm:
        return Arm(
            name=name,
            label=f"cell-load, {label}",
            reads=PAIRS,
            driver=str(DRIVERS / "read_cell_load"),
            environment=CELL_LOAD,
            format="cell-load",
            options={"consecutive": consecutive, "workers": workers},
        )

    def annbatch(name: str, label: str, reads: str, **options: Any) -> Arm:
        return Arm(
            name=name,
            label=f"annbatch, {label}",
            reads=reads,
            driver=str(DRIVERS / "read_annbatch"),
            environment=ANNBATCH,
            format="annbatch",
            options=options,
        )

    return [
        Arm(
            name="scdl",
            label="bionemo-scdl rows",
            reads=SETS,
            driver=str(DRIVERS / "read_scdl"),
            environment=SCDL,
            format="scdl",
        ),
        Arm(
            name="cellstream",
            label="cellstream",
            reads=SETS,
            driver=str(DRIVERS / "read_cellstream"),
            environment=CELLSTREAM,
            format="cellstream",
        ),
        Arm(
            name="scdataset",
            label="scDataset, blocks of a set",
            reads=CELLS,
            driver=str(DRIVERS / "read_scdataset"),
            environment=SCDATASET,
            format="sorted",
            options={"fetch_factor": 16},
        ),
        cell_load("cell-load", "default", consecutive=False),
        cell_load("cell-load-consecutive", "consecutive", consecutive=True),
        cell_load("cell-load-workers", f"consecutive, {workers} workers", consecutive=True, workers=workers),
        annbatch("annbatch-class", "class sampler", SETS, by_class=True),
        annbatch("annbatch-random", "random chunks of 512", CELLS, by_class=False, chunk_size=512, preload_nchunks=32),
    ]
