"""The screens of the ablations; all mark validation conditions, which choose the checkpoint."""

from experiments.screens import REAL_SCREENS, ROOT, SIMULATED, blood, glioblastoma, papalexi

SCREENS = {
    "simulated": SIMULATED,
    "papalexi": papalexi("validated"),
    "pbmc": blood(ROOT / "experiments" / "ablations" / "pbmc.toml"),
    "gbm": glioblastoma(REAL_SCREENS / "glioblastoma_panobinostat" / "validated.toml"),
}
