"""The face in Python: light to import, with plain settings, beside other processes of a group."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch.multiprocessing as mp

from bionemo.scale.config.overrides import with_settings
from bionemo.scale.config.presets import FINETUNING, MODELS, PRETRAINING
from bionemo.screens.errors import InputError


def test_importing_it_imports_nothing_heavy():
    heavy = "{'torch', 'nemo', 'nemo_run', 'megatron', 'lightning', 'anndata', 'scanpy', 'pandas', 'numba'}"
    code = f"import sys, bionemo.scale; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_settings_are_named_by_their_fields():
    tiny = PRETRAINING["scale_tiny"]
    made = with_settings(
        tiny, {"hidden_size": 128, "max_steps": 30, "devices": 2, "learning_rate": 1, "pairing": "none"}
    )
    assert (made["model"].hidden_size, made["training"].max_steps, made["compute"].devices) == (128, 30, 2)
    assert made["training"].learning_rate == 1
    assert with_settings(tiny, {"model": "scale_small"})["model"] == MODELS["scale_small"]
    assert with_settings(FINETUNING["low_rank"], {"rank": 4})["tuning"].rank == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_step": 3}, "no setting 'max_step': did you mean 'max_steps'"),
        ({"max_steps": "many"}, "max_steps takes a whole number, not 'many'"),
        ({"max_steps": 2.5}, "max_steps takes a whole number, not '2.5'"),
        ({"deep_sets": "perhaps"}, "deep_sets takes true or false"),
        ({"pairing": "pears"}, "pairing"),
        ({"model": "scale_tin"}, "did you mean 'scale_tiny'"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings, message):
    with pytest.raises(InputError, match=message):
        with_settings(PRETRAINING["scale_tiny"], settings)


def test_no_field_of_two_sections_has_one_name():
    for recipe in (*PRETRAINING.values(), *FINETUNING.values()):
        names = [name for config in recipe.values() for name in vars(config)]
        assert len(set(names)) == len(names)


def load_and_predict(rank: int, meeting: str, run: Path, screen: Path, out: Path) -> None:
    import torch
    import torch.distributed as dist

    import bionemo.scale as scale

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    model = scale.load(run, device="cpu")
    if rank == 0:  # predicting is for each process alone
        model.predict(screen, perturbations="MYC").write_h5ad(out)
    dist.destroy_process_group()


def test_a_model_is_loaded_beside_processes_that_a_program_has_started_already(run_path, written, tmp_path):
    import anndata as ad

    import bionemo.scale as scale

    out = tmp_path / "predicted.h5ad"
    mp.spawn(load_and_predict, (str(tmp_path / "meeting"), run_path, written(), out), nprocs=2)
    alone = scale.load(run_path, device="cpu").predict(written(), perturbations="MYC")
    assert (ad.read_h5ad(out).X != alone.X).nnz == 0
