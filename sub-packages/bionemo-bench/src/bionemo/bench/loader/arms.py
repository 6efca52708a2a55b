"""Name the loops that the loader benchmark compares, where each runs, and which format of the screen it reads."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bionemo.bench.harness import formats
from bionemo.bench.harness.environments import Environment
from bionemo.bench.harness.formats import OWN, Format

SCDL = Environment(name="scdl", requirements=("torch==2.13.0", "bionemo-scdl==0.1.3"))
CELLSTREAM = Environment(name="cellstream", requirements=("cellstream==0.11.0",))
SCDATASET = Environment(name="scdataset", requirements=("torch==2.13.0", "scDataset==0.3.0", "anndata==0.12.19"))
CELL_LOAD = Environment(name="cell-load", requirements=("torch==2.13.0", "cell-load==0.10.4"))
ANNBATCH = Environment(name="annbatch", requirements=("annbatch[zarrs]==0.3.1",), least_python=(3, 12))
_DRIVERS = Path(__file__).parent / "drivers"
FORMATS = formats.FORMATS | {
    "scdl": Format(driver=str(_DRIVERS / "read_scdl"), environment=SCDL),
    "cellstream": Format(driver=str(_DRIVERS / "read_cellstream"), environment=CELLSTREAM),
    "annbatch": Format(driver=str(_DRIVERS / "read_annbatch"), environment=ANNBATCH),
}
SETS, PAIRS, CELLS = "sets", "sets and controls", "mixed cells"
"""What a loop reads: sets of one condition; those and as many control cells; batches that mix conditions."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An `Arm` is one loop that is timed."""

    name: str
    """Its name on the command line and in JSON."""
    label: str
    """Its name in the table."""
    reads: str
    """`SETS`, `PAIRS` or `CELLS`."""
    driver: str
    """The script that has the loop."""
    environment: Environment = OWN
    format: str = "store"
    """The name of the `Format` that it reads."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the driver is told."""
    ranks: int = 1
    """Processes that share an epoch."""
    tolerance: float = 1e-5
    """Greatest difference from the reference that is let pass, in log1p units."""
    exact_counts: bool = True
    """Whether the output tells integer counts apart."""

    @property
    def is_peer(self) -> bool:
        """Tell whether it is another project's loader."""
        return not self.environment.is_own


def own_arms() -> list[Arm]:
    """Return the arms of this project, and sorted h5py slices, which need nothing else either."""

    def own(name: str, label: str, reads: str = PAIRS, **more: Any) -> Arm:
        return Arm(name=name, label=f"cellsets, {label}", reads=reads, driver="read_store", **more)

    staged, alone = {"staged": True}, {"controls": False}
    bf16 = {"loader": {"dtype": "bfloat16"}}
    return [
        own("dense", "dense"),
        own("dense-sets", "dense, no controls", SETS, options={"loader": alone}),
        own("staged", "CSR staged", options={"loader": staged}),
        own("staged-sets", "CSR staged, no controls", SETS, options={"loader": staged | alone}),
        # Half a unit in the last of 8 bits, up to log1p(10,000).
        own("bf16", "dense bfloat16", options=bf16, tolerance=0.04, exact_counts=False),
        own("blocks", "dense, sets of 4 blocks", options={"sampler": {"blocks": 4}}),
        own("threads", "dense, 2 threads", options={"loader": {"threads": 2}}),
        own("ranks", "dense, 2 ranks", ranks=2),
        own("staged-ranks", "CSR staged, 2 ranks", options={"loader": staged}, ranks=2),
        Arm(name="h5py", label="sorted h5py slices", reads=SETS, driver="read_h5ad", format="sorted"),
    ]


def peer_arms(workers: int) -> list[Arm]:
    """Return the arms of other projects; one of them has so many worker processes."""

    def peer(name: str, label: str, reads: str, environment: Environment, layout: str, **options: Any) -> Arm:
        driver = str(_DRIVERS / f"read_{environment.name.replace('-', '_')}")
        return Arm(
            name=name, label=label, reads=reads, driver=driver, environment=environment, format=layout, options=options
        )

    def cell_load(name: str, label: str, *, consecutive: bool, workers: int = 0) -> Arm:
        label = f"cell-load, {label}"
        return peer(name, label, PAIRS, CELL_LOAD, "dense", consecutive=consecutive, workers=workers)

    def annbatch(name: str, label: str, reads: str, **options: Any) -> Arm:
        return peer(name, f"annbatch, {label}", reads, ANNBATCH, "annbatch", **options)

    return [
        peer("scdl", "bionemo-scdl rows", SETS, SCDL, "scdl"),
        peer("cellstream", "cellstream", SETS, CELLSTREAM, "cellstream"),
        peer("scdataset", "scDataset, blocks of a set", CELLS, SCDATASET, "sorted", fetch_factor=16),
        cell_load("cell-load", "default", consecutive=False),
        cell_load("cell-load-consecutive", "consecutive", consecutive=True),
        cell_load("cell-load-workers", f"consecutive, {workers} workers", consecutive=True, workers=workers),
        annbatch("annbatch-class", "class sampler", SETS, by_class=True),
        annbatch("annbatch-random", "random chunks of 512", CELLS, by_class=False, chunk_size=512, preload_nchunks=32),
    ]
