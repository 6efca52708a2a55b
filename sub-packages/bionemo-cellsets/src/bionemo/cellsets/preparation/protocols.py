"""Where the public benchmarks keep what `prepare` asks for."""

from dataclasses import dataclass

from bionemo.screens.errors import InputError, choices


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The obs columns and the control label of a published screen.

    Attributes
    ----------
    perturbation_key, context_key : str
        obs columns; names joined by ``+`` mean the combination of several.
    batch_key : str, optional
        obs column.
    control : str
        Label of control cells in `perturbation_key`.
    """

    perturbation_key: str
    control: str
    context_key: str
    batch_key: str | None


PROTOCOLS = {
    # One file per plate. A label is the printed list of (drug, dose, unit), also for the vehicle.
    "tahoe100m": Protocol(
        perturbation_key="drugname_drugconc",
        control="[('DMSO_TF', 0.0, 'uM')]",
        context_key="cell_line",
        batch_key="plate",
    ),
    # A context is one donor's cells of one type: donors are what is held out.
    "parse10m-pbmc": Protocol(
        perturbation_key="cytokine", control="PBS", context_key="donor+cell_type", batch_key=None
    ),
    "replogle-nadig": Protocol(
        perturbation_key="gene", control="non-targeting", context_key="cell_line", batch_key="gem_group"
    ),
}


def find_protocol(name: str) -> Protocol:
    """Return a protocol by its name.

    Raises
    ------
    InputError
        If there is none, naming those there are.
    """
    if name not in PROTOCOLS:
        raise InputError(f"There is no protocol '{name}': {choices(name, PROTOCOLS)}")
    return PROTOCOLS[name]
