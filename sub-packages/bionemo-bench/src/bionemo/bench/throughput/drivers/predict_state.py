"""Time the parts of STATE's own `tx predict` and `tx infer`, in its own environment."""

# pyright: reportMissingImports=false
# The packages lie in this driver's own environment.
import argparse
import shutil
from pathlib import Path
from typing import Any

import anndata
import torch
from driver_protocol import serve
from phases import Phases, timed_command
from torch.utils.data.dataloader import _BaseDataLoaderIter


def run(command: str, run: str, checkpoint: str, adata: str, out: str, threads: int) -> dict[str, Any]:
    """Predict the test conditions, and say what it took.

    The command "predict" takes the conditions from the training's data and writes beside the run; "infer" takes them
    from `adata`, expression in obsm and a label for each cell to simulate, and writes `out`.
    """
    from state._cli import run_tx_infer, run_tx_predict
    from state._cli._tx._infer import add_arguments_infer
    from state._cli._tx._predict import add_arguments_predict
    from state.tx.models.state_transition import StateTransitionPerturbationModel

    torch.set_num_threads(threads)
    parser = argparse.ArgumentParser()
    if command == "predict":
        function, result = run_tx_predict, Path(run) / f"eval_{checkpoint}"
        shutil.rmtree(result, ignore_errors=True)
        add_arguments_predict(parser)
        given = ["--output-dir", run, "--checkpoint", checkpoint, "--predict-only", "--profile", "anndata"]
        result = result / "adata_pred.h5ad"
    else:
        function, result = run_tx_infer, Path(out)
        add_arguments_infer(parser)
        given = ["--model-dir", run, "--checkpoint", str(Path(run) / "checkpoints" / checkpoint), "--adata", adata]
        given += ["--output", out, "--embed-key", "X_hvg", "--pert-col", "perturbation", "--celltype-col", "context"]
    arguments = parser.parse_args(given)
    with Phases() as phases:
        phases.forward(StateTransitionPerturbationModel, "predict_step")
        phases.part(_BaseDataLoaderIter, "__next__", "waiting")
        phases.part(anndata.AnnData, "write_h5ad", "writing")
        if command == "infer":
            import scanpy

            phases.part(scanpy, "read_h5ad", "reading")
        return timed_command(lambda: function(arguments), phases, str(result))


if __name__ == "__main__":
    serve(predict=run)
