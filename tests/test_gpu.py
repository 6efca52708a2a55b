"""The precisions against float32, the layer specs against each other, recorded speed: what a GPU is needed to see.

What a CPU can show of it is tested there too. The tests marked ``gpu`` have not been run where they were written.
"""

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

ON_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
DEVICES = ("cpu", pytest.param("cuda", marks=ON_GPU))


def on_gpu(test):
    """Mark a test that needs a GPU."""
    for mark in ON_GPU:
        test = mark(test)
    return test


TF32_TOLERANCE, BF16_TOLERANCE, FP8_TOLERANCE = 5e-3, 0.05, 0.15
"""Relative error of the loss and of the whole gradient, as the norm of the difference over the norm."""


@pytest.fixture(scope="module")
def config():
    from bionemo.scale.config.model import ModelConfig, Pairing, Start

    return ModelConfig(
        hidden_size=256,
        num_layers=2,
        num_attention_heads=8,
        num_query_groups=4,
        ffn_hidden_size=512,
        gene_modules=8,
        gene_module_size=64,
        pairing=Pairing.NONE,
        start=Start.NONE,
    )


@pytest.fixture(scope="module")
def vocabulary():
    from bionemo.scale.data.vocabulary import Vocabulary

    return Vocabulary(
        genes=tuple(f"g{i}" for i in range(512)),
        contexts=("A",),
        perturbations=("ctrl", "p"),
        batches=(),
        control="ctrl",
        kind="counts",
        target_sum=1e4,
    )


@pytest.fixture(scope="module", params=DEVICES)
def device(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def loss_and_gradient(device, config, vocabulary):
    """One forward and backward pass of the same weights under other settings."""
    from bionemo.scale.config.compute import ComputeConfig
    from bionemo.scale.data.batches import TrainingBatch
    from bionemo.scale.data.condition import Condition
    from bionemo.scale.model.scale_model import ScaleModel
    from bionemo.scale.runs.load import one_process_groups

    one_process_groups(torch.device(device))
    torch.manual_seed(0)
    weights = ScaleModel(config, ComputeConfig(**{"device": device, "layer_spec": "local"}), vocabulary).state_dict()
    control, perturbed = torch.rand(2, 4, 64, 512, device=device, generator=torch.Generator(device).manual_seed(1))
    rows = torch.tensor([0, 1, 1, 0], device=device)
    batch = TrainingBatch(
        control=control,
        perturbed=perturbed,
        mask=torch.ones(4, 64, dtype=torch.bool, device=device),
        condition=Condition(
            perturbation=rows[:, None],
            dose=torch.full((4, 1), torch.nan, device=device),
            context=torch.zeros_like(rows),
            batch=torch.full_like(rows, -1),
        ),
        key=torch.arange(4),
    )

    def run(dtype: torch.dtype, full: bool = False, **changes) -> tuple[float, torch.Tensor]:
        compute = ComputeConfig(**{"device": device, "layer_spec": "local", **changes})
        model = ScaleModel(config, compute, vocabulary).to(device)
        model.load_state_dict({name: value for name, value in weights.items() if value is not None}, strict=False)
        model = model.to(dtype)
        given = replace(batch, control=batch.control.to(dtype), perturbed=batch.perturbed.to(dtype), full=full)
        # Delayed scaling takes the maxima of passes before; without any it scales by 1, and small gradients vanish.
        for _ in range(3 if changes.get("fp8") == "delayed" else 1):
            model.zero_grad()
            loss = model(given)["loss"]
            loss.backward()
        gradients = {n: p.grad.float().flatten() for n, p in sorted(model.named_parameters()) if p.grad is not None}
        return float(loss), torch.cat(list(gradients.values()))

    return run


@pytest.mark.parametrize(
    ("dtype", "changes", "tolerance"),
    [
        (torch.bfloat16, {}, BF16_TOLERANCE),
        (torch.float32, {"layer_spec": "transformer_engine"}, TF32_TOLERANCE),
        (torch.bfloat16, {"layer_spec": "transformer_engine"}, BF16_TOLERANCE),
        (torch.bfloat16, {"layer_spec": "transformer_engine", "fp8": "delayed"}, FP8_TOLERANCE),
        (torch.bfloat16, {"layer_spec": "transformer_engine", "fp8": "current"}, FP8_TOLERANCE),
        (torch.bfloat16, {"layer_spec": "transformer_engine", "fp8": "mxfp8"}, FP8_TOLERANCE),
        (torch.float32, {"recompute": True}, 1e-5),
    ],
    ids=str,
)
def test_a_pass_agrees_with_float32(loss_and_gradient, device, dtype, changes, tolerance):
    from bionemo.scale.layers.specs import transformer_engine_works

    if "layer_spec" in changes and (device == "cpu" or not transformer_engine_works()):
        pytest.skip("needs Transformer Engine")
    if changes.get("fp8") == "mxfp8" and torch.cuda.get_device_capability() < (10, 0):
        pytest.skip("needs a chip with MXFP8")
    expected, expected_gradient = loss_and_gradient(torch.float32)
    loss, gradient = loss_and_gradient(dtype, **changes)
    assert loss == pytest.approx(expected, rel=tolerance)
    assert (gradient - expected_gradient).norm() < tolerance * expected_gradient.norm()


@on_gpu
def test_sets_that_are_known_to_be_full_are_left_to_a_flash_kernel(loss_and_gradient):
    expected, _ = loss_and_gradient(torch.bfloat16)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        loss, _ = loss_and_gradient(torch.bfloat16, full=True)
        with pytest.raises(RuntimeError, match="kernel"):
            loss_and_gradient(torch.bfloat16)
    assert loss == pytest.approx(expected, rel=BF16_TOLERANCE)


@on_gpu
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("compute.precision=bf16",),
        ("compute.precision=bf16", "compute.layer_spec=transformer_engine", "compute.fp8=current"),
    ],
    ids=["fp32", "bf16", "fp8"],
)
def test_a_run_trains_saves_and_goes_on(tmp_path, pretrain, overrides):
    from jobs import logged

    run = tmp_path / "run"
    pretrain(run, "training.max_steps=4", "training.checkpoint_every=2", *overrides)
    pretrain(run, "training.max_steps=6", "training.checkpoint_every=2", *overrides)
    assert sorted(logged(run)) == list(range(1, 7))
    assert logged(run, "throughput/flops_per_second")[6][-1] > 0


@on_gpu
@pytest.mark.parametrize("fp8", ["none", "current"])
def test_weights_of_another_precision_predict_and_are_exported(tmp_path, pretrain, command, workshop, fp8):
    run, screen = tmp_path / "run", workshop / "screen.h5ad"
    layers = () if fp8 == "none" else ("compute.layer_spec=transformer_engine", f"compute.fp8={fp8}")
    pretrain(run, "training.max_steps=4", "compute.precision=bf16", *layers)
    command(
        "predict", "--checkpoint", run, "--controls", screen, "--like", screen, "--out", tmp_path / "predicted.h5ad"
    )
    command("export", run, "--out", tmp_path / "exported")


@on_gpu
def test_cells_that_are_made_dense_on_the_gpu_are_the_same_cells(tmp_path, pretrain):
    from jobs import logged

    for name, uploaded in (("dense", "false"), ("counts", "true")):
        pretrain(tmp_path / name, "training.max_steps=4", f"compute.upload_counts={uploaded}")
    dense, counts = (logged(tmp_path / name) for name in ("dense", "counts"))
    for step, (loss,) in dense.items():
        assert counts[step] == pytest.approx([loss], rel=1e-4)


@on_gpu
def test_a_checkpoint_that_is_written_beside_the_training_holds_the_step_it_names(tmp_path, pretrain):
    """Its bytes leave the machine while later steps change the weights."""
    import shutil

    from jobs import logged

    run = tmp_path / "run"
    settings = ("training.max_steps=6", "training.checkpoint_every=2", "training.keep_checkpoints=9")
    settings = (*settings, "training.validate_every=100")
    pretrain(run, *settings)
    for step in (4, 6):
        shutil.rmtree(run / "checkpoints" / f"step={step}")
    pretrain(run, *settings)
    for step in range(3, 7):
        first, again = logged(run)[step]
        assert again == pytest.approx(first, rel=1e-4)


@on_gpu
def test_the_fused_optimizer_is_used_where_it_is_installed():
    from megatron.core import optimizer

    from bionemo.scale.layers.specs import transformer_engine_works

    if not transformer_engine_works():
        pytest.skip("needs Transformer Engine")
    assert optimizer.Adam.__module__.startswith("transformer_engine.")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_gpu_writes_and_reduces_beside_the_computation_and_a_cpu_does_not(device, fused, monkeypatch, tmp_path):
    from megatron.core import optimizer

    from bionemo.scale.config.compute import ComputeConfig
    from bionemo.scale.config.training import TrainingConfig
    from bionemo.scale.runs.directory import RunDirectory
    from bionemo.scale.training.strategy import strategy

    kind = type("FusedAdam", (), {"__module__": "transformer_engine.pytorch.optimizers" if fused else "torch.optim"})
    monkeypatch.setattr(optimizer, "Adam", kind)
    training = TrainingConfig(max_steps=100, sets_per_batch=4, cells_per_set=8)
    beside, divided = device == "cuda", device == "cuda" and fused
    for ranks in (1, 2):
        made: Any = strategy(ComputeConfig(device=device, devices=ranks), training, RunDirectory(tmp_path))
        assert made.async_save is beside
        assert made.ddp_config.overlap_grad_reduce is (beside and ranks > 1)
        assert made.ddp_config.overlap_param_gather is (divided and ranks > 1)
        assert made.ddp_config.use_distributed_optimizer is divided
    averaged, compute = replace(training, average_decay=0.9), ComputeConfig(device=device, devices=2)
    made = strategy(compute, averaged, RunDirectory(tmp_path))
    assert not made.ddp_config.overlap_param_gather
    made = strategy(replace(compute, compile=True), training, RunDirectory(tmp_path))
    assert not made.ddp_config.overlap_param_gather


def test_weights_are_complete_before_they_are_copied_and_copied_before_they_are_used(monkeypatch, tmp_path):
    from bionemo.scale.config.compute import ComputeConfig
    from bionemo.scale.config.training import TrainingConfig
    from bionemo.scale.runs.directory import RunDirectory
    from bionemo.scale.training.strategy import strategy

    happened: list[str] = []

    class Wrapped:
        def init_ddp(self):
            happened.append("copy")

        def init_model_parallel(self):
            happened.append("make")
            self.init_ddp()

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: happened.append("wait"))
    training = TrainingConfig(max_steps=100, sets_per_batch=4, cells_per_set=8)
    made: Any = strategy(ComputeConfig(device="cpu"), training, RunDirectory(tmp_path))
    made.megatron_parallel = Wrapped()
    made.init_model_parallel()
    assert happened == ["make", "wait", "copy", "wait"]


def test_tests_without_the_mark_see_no_gpu():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@on_gpu
def test_compiled_blocks_agree(loss_and_gradient):
    expected, expected_gradient = loss_and_gradient(torch.float32)
    loss, gradient = loss_and_gradient(torch.float32, compile=True)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert (gradient - expected_gradient).norm() < 1e-3 * expected_gradient.norm()


@on_gpu
def test_a_checkpoint_of_one_spec_is_read_by_the_other(tmp_path, pretrain):
    run = tmp_path / "run"
    for steps, layers in ((3, "local"), (4, "transformer_engine"), (6, "local")):
        pretrain(run, f"training.max_steps={steps}", f"compute.layer_spec={layers}")
