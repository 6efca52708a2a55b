"""What a challenge gives of the line to predict: ``parts.py screen.h5ad LINE FOLDER``.

Writes its control cells, the list of all genes in their order, and how many cells of each target are asked for; and
apart from these what a challenge keeps to itself, the measured cells of the line.
"""

import sys
from pathlib import Path

import anndata as ad
import pandas as pd


def main() -> None:
    """Write controls.h5ad, genes.txt and targets.csv, and truth.h5ad."""
    screen, line, folder = ad.read_h5ad(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    cells = screen[screen.obs["context"] == line]
    is_control = (cells.obs["perturbation"] == "control").to_numpy()
    cells.copy().write_h5ad(folder / "truth.h5ad")
    cells[is_control].copy().write_h5ad(folder / "controls.h5ad")
    (folder / "genes.txt").write_text("\n".join(screen.var_names) + "\n")
    asked = pd.Series(cells.obs["perturbation"].astype(str)[~is_control]).value_counts().sort_index()
    asked.rename_axis("target").rename("cells").to_csv(folder / "targets.csv")


if __name__ == "__main__":
    main()
