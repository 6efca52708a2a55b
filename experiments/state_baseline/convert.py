"""Between our files and STATE's: the same cells in the form its loader is fastest with, and its predictions back.

Runs in STATE's environment, which run.sh makes, with `bionemo.screens` on the path.
"""

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from bionemo.screens.controls import PARTS, ControlRole, ControlRoles


def training_files(arguments: argparse.Namespace) -> None:
    """Write DIR/NAME.h5ad (log1p, dense, sorted by condition) and DIR/data.toml from counts and a split.

    Of the contexts that are tested it has only the control cells of the role input, so that STATE predicts from these
    alone. It has no cell of a validation condition: the last checkpoint predicts, and none is chosen.
    """
    split = tomllib.loads(arguments.split.read_text())
    (name,) = split["training"]
    held_out: dict[str, dict[str, Any]] = {
        context.removeprefix(f"{name}."): parts if part == "fewshot" else {parts: None}
        for part in ("fewshot", "zeroshot")
        for context, parts in split.get(part, {}).items()
    }
    cells = ad.read_h5ad(arguments.screen)
    contexts, labels = (cells.obs[key].astype(str) for key in (arguments.context_key, arguments.perturbation_key))
    scored = contexts.isin([context for context, parts in held_out.items() if "test" in parts]).to_numpy()
    perturbed = (labels != arguments.control).to_numpy()
    validation = np.array([_validates(held_out.get(c, {}), p) for c, p in zip(contexts, labels, strict=True)])
    is_input = ControlRoles(rotation=arguments.rotation).has(cells.obs_names, ControlRole.INPUT)
    cells = cells[np.where(perturbed, ~validation, ~scored | is_input)].copy()
    counts = sp.csr_matrix(cells.X, dtype=np.float64)
    if counts.data.size and not np.array_equal(counts.data, np.round(counts.data)):
        raise SystemExit(f"error: X of {arguments.screen} does not hold counts")
    scale = arguments.target_sum / np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0)
    genes = _genes(arguments, cells.var_names)
    counts = counts[:, cells.var_names.get_indexer(genes)]
    expression = np.log1p(sp.csr_matrix(sp.diags(scale) @ counts).toarray()).astype(np.float32)
    obs = pd.DataFrame(
        {
            "cell_type": cells.obs[arguments.context_key].astype(str),
            "gene": cells.obs[arguments.perturbation_key].astype(str),
        }
    )
    obs["gem_group"] = cells.obs[arguments.batch_key].astype(str) if arguments.batch_key else obs["cell_type"]
    order = np.lexsort((obs["gem_group"], obs["gene"], obs["cell_type"]))
    rows = pd.DataFrame(obs.iloc[order].astype("category"))
    table = ad.AnnData(expression[order], obs=rows, var=pd.DataFrame(index=genes))
    table.obsm["X_hvg"] = expression[order]
    folder = arguments.out / name
    folder.mkdir(parents=True, exist_ok=True)
    table.write_h5ad(folder / f"{name}.h5ad")
    tested = [
        f'[zeroshot]\n"{name}.{context}" = "test"\n'
        if parts["test"] is None
        else f'[fewshot."{name}.{context}"]\ntest = {json.dumps(list(parts["test"]))}\n'
        for context, parts in held_out.items()
        if "test" in parts
    ]
    (arguments.out / "data.toml").write_text(
        "\n".join([f'[datasets]\n{name} = "{folder.resolve()}"\n', f'[training]\n{name} = "train"\n', *tested])
    )


def _validates(parts: dict[str, Any], perturbation: str) -> bool:
    """Return whether a perturbation is a validation condition of a context with these parts, None meaning all of it."""
    return "val" in parts and (parts["val"] is None or perturbation in parts["val"])


def predicted_cells(arguments: argparse.Namespace) -> None:
    """Write STATE's predicted cells under the screen's own column names and gene order."""
    cells, screen = ad.read_h5ad(arguments.predicted), ad.read_h5ad(arguments.screen, backed="r")
    predicted: Any = cells.obs
    perturbed = predicted["gene"].astype(str) != arguments.control
    values = np.asarray(cells[perturbed.to_numpy()].X)
    obs = predicted.loc[perturbed, ["gene", "cell_type"]].astype(str)
    obs.columns = [arguments.perturbation_key, arguments.context_key]
    obs.index = [f"predicted_{i}" for i in range(len(obs))]
    out = ad.AnnData(
        sp.csr_matrix(np.maximum(values, 0), dtype=np.float32),
        obs=obs,
        var=pd.DataFrame(index=_genes(arguments, screen.var_names)),
    )
    out.uns["prediction"] = {"controls": ControlRoles(rotation=arguments.rotation).to_dict()}
    out.write_h5ad(arguments.out)


def _genes(arguments: argparse.Namespace, of_screen: pd.Index) -> pd.Index:
    """Return the genes that STATE gets: those of a file of names, or all of the screen's."""
    return of_screen if arguments.genes is None else pd.Index(arguments.genes.read_text().split())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, function in (("training", training_files), ("prediction", predicted_cells)):
        command = commands.add_parser(name, help=function.__doc__)
        command.set_defaults(run=function)
        command.add_argument("--screen", type=Path, required=True)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--perturbation-key", required=True)
        command.add_argument("--context-key", required=True)
        command.add_argument("--control", required=True)
        command.add_argument("--rotation", type=int, choices=range(PARTS), default=0)
        command.add_argument("--genes", type=Path, help="file of gene names; cells are normalised over all genes")
        if name == "training":
            command.add_argument("--batch-key")
            command.add_argument("--split", type=Path, required=True)
            command.add_argument("--target-sum", type=float, default=1e4)
        else:
            command.add_argument("--predicted", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
