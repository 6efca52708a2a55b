"""The screens of the ablations; both mark validation conditions, which choose the checkpoint."""

from experiments.screens import REAL_SCREENS, SIMULATED, glioblastoma, papalexi

SCREENS = {
    "simulated": SIMULATED,
    "papalexi": papalexi("validated"),
    "gbm": glioblastoma(REAL_SCREENS / "glioblastoma_panobinostat" / "validated.toml"),
}
