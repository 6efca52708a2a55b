"""The screens of the ablations; both mark validation conditions, which choose the checkpoint."""

from experiments.screens import HERE, SIMULATED, glioblastoma, papalexi

SCREENS = {
    "simulated": SIMULATED,
    "papalexi": papalexi("validated"),
    "gbm": glioblastoma(HERE / "glioblastoma_panobinostat" / "validated.toml"),
}
