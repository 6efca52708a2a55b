"""An exported model predicts as the trained one, with torch and safetensors alone, and comes back as it was."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bionemo.scale.inference.controls import read_controls
from bionemo.scale.inference.inputs import Columns
from bionemo.scale.runs import scale_portable
from bionemo.scale.runs.checksums import seal
from bionemo.scale.runs.directory import RunDirectory
from bionemo.scale.runs.export import _check_portable, _labels, export
from bionemo.scale.runs.import_export import import_export
from bionemo.scale.runs.load import load_model
from bionemo.screens.controls import ControlRole, ControlRoles, Controls
from bionemo.screens.errors import InputError

CPU = torch.device("cpu")
ALONE = """
import sys

class Closed:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"megatron", "nemo", "nemo_run", "lightning", "bionemo", "transformer_engine"}:
            raise ImportError(name)

sys.meta_path.insert(0, Closed())
sys.path.insert(0, sys.argv[1])
import scale_portable, torch
from safetensors.torch import load_file, save_file

given = load_file(sys.argv[2])
model = scale_portable.load(sys.argv[1])
answer = model.predict(
    given["control"], perturbation=["MYC", "TP53"], context=["A", "elsewhere"], mask=given["mask"], key=[11, 12]
)
save_file({"answer": answer}, sys.argv[3])
"""


@pytest.fixture(scope="module")
def exported(run_path, tmp_path_factory, groups):
    out = tmp_path_factory.mktemp("export") / "exported"
    export(run_path, out)
    return out


@pytest.fixture
def spoiled(exported, tmp_path):
    """A copy of the export to spoil."""
    return shutil.copytree(exported, tmp_path / "spoiled")


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    seal(folder)


def test_one_file_of_plain_torch_predicts_the_same(exported, build, sets, tmp_path):
    batch = sets(6, 4)
    condition = replace(
        batch["condition"],
        perturbation=torch.tensor([[1], [2]]),
        dose=torch.full((2, 1), torch.nan),
        context=torch.tensor([0, -1]),
        batch=torch.tensor([-1, -1]),
    )
    expected = build().predict(batch["control"], batch["mask"], condition, torch.tensor([11, 12]))
    save_file({name: batch[name] for name in ("control", "mask")}, tmp_path / "given")
    subprocess.run(
        [sys.executable, "-c", ALONE, exported, tmp_path / "given", tmp_path / "answer"],
        check=True,
        env={"OMP_NUM_THREADS": "1"},
    )
    found = load_file(tmp_path / "answer")["answer"]
    assert (expected - batch["control"])[batch["mask"]].abs().max() > 0.01
    torch.testing.assert_close(found[batch["mask"]], expected[batch["mask"]], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "regression", "solver_steps": 3},
        {"source": "gaussian", "num_query_groups": 4},
        {"source": "control", "num_query_groups": 1, "encoder_layers": 2, "condition_seeds": 2},
    ],
)
def test_every_kind_of_model_predicts_the_same(build, changes):
    model = build(**changes)
    _check_portable(model, *exported_parts(model))


def exported_parts(model) -> tuple[dict, dict]:
    weights = {name: tensor for name, tensor in model.state_dict().items() if tensor is not None}
    names = model.vocabulary
    return {"model": asdict(model.scale), "vocabulary": names.to_dict(), "labels": _labels(names)}, weights


@pytest.mark.parametrize("evidence", ["off", "on"])
def test_a_model_with_a_linear_start_predicts_the_same(build, sets, vocabulary, evidence):
    trained = ("MYC+1uM", "MYC+10uM", "MYC+TP53")
    names = replace(vocabulary, start_labels=trained, dose_unit="uM", log_dose=(0.5, 0.5))
    model = build(start="linear", evidence=evidence, names=names)
    for name, buffer in model.linear_start.named_buffers():
        positive = torch.rand(buffer.shape) + 0.5
        buffer.copy_(positive if name in ("known", "variance", "unit", "size") else torch.randn(buffer.shape))
    model.linear_start.known[0] = 0
    model.network_share.fill_(0.5)
    config, weights = exported_parts(model)
    _check_portable(model, config, weights)
    portable = scale_portable.ScaleModel(config["model"], config["vocabulary"], config["labels"])
    portable.load_state_dict(weights)
    assert portable.start_rows("MYC+TP53") == [[(2, 1.0)]]
    assert portable.start_rows("MYC") == [[(0, 0.5), (1, 0.5)]]
    assert portable.start_rows("TP53+MYC") == [[(3, 1.0)], [(0, 0.5), (1, 0.5)]]
    assert portable.start_rows("ctrl") == []
    low, high = ((np.log10(dose) - 0.5) / 0.5 for dose in (1, 10))
    (between,) = portable.start_rows("MYC", [0.75 * low + 0.25 * high])
    assert between == [(0, pytest.approx(0.75)), (1, pytest.approx(0.25))]
    assert portable.start_rows("MYC", [high + 1]) == [[(1, 1.0)]]
    control = sets(6, 6)["control"]
    answer = portable.eval().predict(control, perturbation=["MYC+10uM", "ctrl"], context=["A", "B"])
    mean = control.mean(1)
    features = model.linear_start.features(["MYC+10uM", "ctrl"], torch.tensor([0, 1]), mean, names)
    condition = replace(
        sets(6, 6)["condition"],
        perturbation=torch.tensor([[1], [0]]),
        dose=torch.tensor([[1.0], [torch.nan]]),
        context=torch.tensor([0, 1]),
        batch=torch.tensor([-1, -1]),
        evidence=features,
    )
    expected = model.predict(control, torch.ones(2, 6, dtype=torch.bool), condition, torch.tensor([0, 1]))
    torch.testing.assert_close(answer, expected, atol=1e-4, rtol=0)


def test_a_model_that_would_predict_otherwise_is_not_exported(build):
    model = build()
    config, weights = exported_parts(model)
    with pytest.raises(InputError, match="predicts otherwise"):
        _check_portable(model, {**config, "model": {**config["model"], "solver_steps": 2}}, weights)
    with pytest.raises(InputError, match=r"lacks a part of it \(.*model\.crossing='on'"):
        _check_portable(model, {**config, "model": {**config["model"], "crossing": "on"}}, weights)
    with pytest.raises(InputError, match="lacks a part of it"):
        _check_portable(model, config, {**weights, "another.weight": torch.zeros(1)})


def test_an_export_says_what_its_numbers_mean(exported, vocabulary, config):
    stated = json.loads((exported / "config.json").read_text())
    assert stated["vocabulary"]["genes"] == list(vocabulary.genes)
    assert stated["vocabulary"]["target_sum"] == vocabulary.target_sum
    assert stated["model"]["hidden_size"] == config.hidden_size
    assert stated["store"]["fingerprint"] == "f" * 64
    assert stated["step"] == 1
    assert {"bionemo-scale", "torch", "megatron-core"} <= set(stated["versions"])
    assert sorted(path.name for path in exported.iterdir() if path.is_file()) == [
        "checksums.json",
        "config.json",
        "model.safetensors",
        "scale_portable.py",
    ]


def test_an_import_is_the_model_that_was_exported(exported, build, sets, tmp_path, record):
    import_export(exported, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    assert vars(run.read()) == json.loads(json.dumps(vars(record)))
    model, _ = load_model(run, CPU)
    expected = build().state_dict()
    for name, value in model.state_dict().items():
        assert value is None or torch.equal(value, expected[name]), name


def test_a_name_that_was_never_seen_is_refused(exported):
    model = scale_portable.load(exported)
    x0 = torch.zeros(1, 2, len(model.genes))
    with pytest.raises(ValueError, match="'TP35' was never seen in training: did you mean 'TP53'"):
        model.predict(x0, perturbation=["TP35"])
    with pytest.warns(UserWarning, match="context 'elsewhere' was not seen"):
        model.predict(x0, perturbation=["TP53"], context=["elsewhere"])
    with warnings.catch_warnings(action="error"):
        model.predict(x0, perturbation=["TP53"], context=["A"])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_an_exported_model_cannot_say_is_refused(exported, value):
    """The clamp to the range of expression used to hide what is infinite."""
    model = scale_portable.load(exported)
    with torch.no_grad():
        model.expression_decoder.to_genes.weight[0] = 0
        model.expression_decoder.to_genes.weight[0, 0] = value
    with pytest.raises(ValueError, match="'TP53' is not finite"):
        model.predict(torch.rand(1, 4, len(model.genes)), perturbation=["TP53"])


def test_an_exported_model_rounds_to_whole_counts_and_keeps_the_mean(exported):
    model, rng = scale_portable.load(exported), torch.Generator().manual_seed(0)
    x1 = torch.rand(2, 400, len(model.genes), generator=rng)
    library = torch.randint(50, 200, (2, 400), generator=rng)
    rounded = model.round(x1, library)
    counts = torch.expm1(rounded.double()) * library[..., None] / model.target_sum
    torch.testing.assert_close(counts, counts.round(), atol=1e-4, rtol=0)
    assert (rounded == 0).float().mean() > 0.2
    torch.testing.assert_close(rounded.mean(1), x1.mean(1), atol=0.01, rtol=0)
    torch.testing.assert_close(model.round(rounded, library), rounded)


def test_counts_are_normalised_as_in_training(exported, screen, written, vocabulary):
    model = scale_portable.load(exported)
    columns = Columns(perturbation="target", context="line", batch=None, control="ctrl")
    cells = read_controls(written(), columns, vocabulary, roles=ControlRoles(controls=Controls.SHARED))
    counts = screen[screen.obs["target"] == "ctrl"].X.toarray()
    torch.testing.assert_close(model.normalise(torch.tensor(counts)), torch.tensor(cells.read(cells.rows)[0].toarray()))


@pytest.mark.parametrize("roles", [ControlRoles(), ControlRoles(rotation=2), ControlRoles(controls=Controls.SHARED)])
def test_an_exported_model_knows_which_control_cells_to_start_from(spoiled, screen, roles):
    edit(spoiled, control_roles=roles.to_dict())
    chosen = scale_portable.load(spoiled).is_input(list(screen.obs_names))
    assert chosen.tolist() == roles.has(screen.obs_names, ControlRole.INPUT).tolist()


def test_an_export_that_does_not_fit_is_refused(spoiled, groups, tmp_path):
    edit(spoiled, format=99)
    with pytest.raises(InputError, match="is of format 99, not 5"):
        import_export(spoiled, tmp_path / "run")
    edit(spoiled, format=5, model={})
    with pytest.raises(InputError, match="is damaged or of another model"):
        import_export(spoiled, tmp_path / "run")
    (spoiled / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"spoiled lacks model\.safetensors"):
        import_export(spoiled, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "checksums.json"])
def test_a_flipped_bit_of_an_export_is_refused(spoiled, groups, tmp_path, name):
    flip(spoiled / name, -40)
    with pytest.raises(InputError, match=r"is damaged|missing or damaged"):
        import_export(spoiled, tmp_path / "run")
    if name != "checksums.json":
        with pytest.raises(ValueError, match="is damaged"):
            scale_portable.load(spoiled)
    assert not (tmp_path / "run").exists()


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("what", ["export", "import"])
def test_a_full_disk_leaves_nothing_and_the_next_try_works(what, run_path, exported, tmp_path):
    """As a full disk does: the system refuses to make a file longer than so many bytes."""
    run = (lambda: export(run_path, tmp_path / "made")) if what == "export" else (
        lambda: import_export(exported, tmp_path / "made")
    )  # fmt: skip
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, before[1]))
        with pytest.raises(InputError, match=r"--out .*made cannot be written \(.*\): name another place") as told:
            run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())
    run()
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_places_that_are_taken_and_checkpoints_that_are_not_there_are_refused(exported, run_path, tmp_path):
    with pytest.raises(InputError, match="exists"):
        export(run_path, tmp_path)
    with pytest.raises(InputError, match="exists"):
        import_export(exported, tmp_path)
    with pytest.raises(InputError, match="has no whole checkpoint step=7"):
        export(run_path / "checkpoints" / "step=7", tmp_path / "exported")
