"""Environments of other projects, and the formats that the loader benchmark reads, are named here."""

from pathlib import Path

from bionemo.bench.harness.environments import Environment
from bionemo.bench.harness.formats import OWN_FORMATS, Format

SCDL = Environment(name="scdl", requirements=("torch==2.13.0", "bionemo-scdl==0.1.3"))
CELLSTREAM = Environment(name="cellstream", requirements=("cellstream==0.11.0",))
SCDATASET = Environment(name="scdataset", requirements=("torch==2.13.0", "scDataset==0.3.0", "anndata==0.12.19"))
CELL_LOAD = Environment(name="cell-load", requirements=("torch==2.13.0", "cell-load==0.10.4"))
ANNBATCH = Environment(name="annbatch", requirements=("annbatch[zarrs]==0.3.1",), least_python=(3, 12))
DRIVERS = Path(__file__).parent / "drivers"


def _of_sorted(name: str, environment: Environment) -> Format:
    return Format(name=name, driver=str(DRIVERS / f"read_{name.replace('-', '_')}"), environment=environment)


FORMATS = OWN_FORMATS | {
    made.name: made
    for made in (
        _of_sorted("scdl", SCDL),
        _of_sorted("cellstream", CELLSTREAM),
        _of_sorted("cell-load", CELL_LOAD),
        _of_sorted("annbatch", ANNBATCH),
    )
}
