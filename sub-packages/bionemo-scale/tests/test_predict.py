"""From a run directory and a file of control cells to a file of predicted cells."""

import shutil
import threading
from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
import torch
from megatron.core import dist_checkpointing

import bionemo.scale as scale
from bionemo.scale.data.condition import Condition
from bionemo.scale.inference import generate as generation
from bionemo.scale.inference.predict import predict
from bionemo.scale.linear_start.apply import LinearStart, move_cells
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.scale.runs.directory import RunDirectory
from bionemo.screens import Split
from bionemo.screens.controls import ControlRole, ControlRoles, Controls
from bionemo.screens.errors import InputError


@pytest.fixture
def predicted(run_path, written, tmp_path, caplog):
    """Predict from the screen and read the answer back."""
    controls, out = written(), tmp_path / "out" / "predicted.h5ad"

    def run(*, overwrite: bool = True, **settings) -> ad.AnnData:
        caplog.clear()
        predict(run_path, controls, out, progress=False, overwrite=overwrite, **settings)
        run.notices = [line.getMessage() for line in caplog.records if line.name == "bionemo.scale"]
        return ad.read_h5ad(out)

    return run


def test_the_file_has_what_was_asked_for(predicted, written, vocabulary, screen):
    cells = predicted(like=written(), part="test")
    assert list(cells.var_names) == list(vocabulary.genes)
    assert list(cells.obs.columns) == [*screen.obs.columns, "control_cell"]
    assert cells.obs_names.is_unique
    conditions = cells.obs[["line", "target", "plate"]].astype(str).value_counts().to_dict()
    assert conditions == {("B", "MYC", "plate1"): 14, ("B", "MYC", "plate2"): 3}


def test_rows_carry_the_control_cell_they_started_from(predicted, written, screen):
    obs = predicted(like=written(), part="test").obs
    origin = screen.obs.loc[obs["control_cell"]]
    assert (origin["target"] == "ctrl").all()
    assert (origin["line"].astype(str).to_numpy() == "B").all()
    assert (origin["age"].to_numpy() == obs["age"].to_numpy()).all()
    # 14 cells from 3 controls of role input: every one four times before any is taken a fifth time.
    taken = obs.loc[obs["plate"] == "plate1", "control_cell"].value_counts()
    assert sorted(taken) == [4, 5, 5]
    assert ControlRoles().has(taken.index, ControlRole.INPUT).all()


def test_control_cells_are_shared_where_that_was_chosen_and_the_file_says_so(predicted, screen):
    controls = set(screen.obs_names[screen.obs["target"] == "ctrl"])
    cells = predicted(perturbations=["MYC"], control_roles="shared")
    assert set(cells.obs["control_cell"]) == controls
    assert cells.uns["prediction"]["controls"] == ControlRoles(controls=Controls.SHARED).to_dict()
    apart = predicted(perturbations=["MYC"])
    assert set(apart.obs["control_cell"]) < controls
    assert apart.uns["prediction"]["controls"] == ControlRoles().to_dict()


def test_values_are_log1p_of_whole_counts_of_the_cells_library(predicted, written, screen):
    cells = predicted(like=written(), part="all")
    library = np.asarray(screen[cells.obs["control_cell"].astype(str)].X.sum(1)).ravel()
    counts = np.expm1(cells.X.toarray().astype(np.float64)) * library[:, None] / 100
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-3)
    assert cells.X.format == "csr"
    assert cells.X.dtype == np.float32
    assert cells.X.min() >= 0


def test_the_count_head_predicts_whole_counts(build, record, save_weights, written, screen, tmp_path):
    choices = {"head": "negative_binomial", "set_loss": "none"}
    run = RunDirectory(tmp_path / "run")
    run.start(replace(record, model={**record.model, **choices}), write=True)
    save_weights(build(**choices), run.checkpoints / "step=1" / "weights")
    predict(run.path, written(), tmp_path / "predicted.h5ad", like=written(), progress=False)
    cells = ad.read_h5ad(tmp_path / "predicted.h5ad")
    library = np.asarray(screen[cells.obs["control_cell"].astype(str)].X.sum(1)).ravel()
    counts = np.expm1(cells.X.toarray().astype(np.float64)) * library[:, None] / 100
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-3)
    assert counts.any()


def test_the_file_says_what_produced_it(predicted, run_path, written):
    stated = predicted(like=written(), part="val", seed=3).uns["prediction"]
    assert stated["checkpoint"] == str(run_path)
    assert stated["controls_file"] == str(written())
    expected = {
        **{"step": 1, "seed": 3, "training_seed": 0, "start": "none", "network_share": 1.0},
        **{"evidence": "none", "controls": {"controls": "independent", "rotation": 0}},
        **{"part": "val", "control": "ctrl", "input_kind": "counts", "layer": ""},
    }
    assert {name: stated[name] for name in expected} == expected
    assert (stated["perturbation_key"], stated["context_key"], stated["batch_key"]) == ("target", "line", "plate")
    assert stated["target_sum"] == 100


def test_the_file_says_what_the_model_was_trained_on(predicted, written, record):
    uns = predicted(like=written(), part="test").uns
    pairs = set(uns["training_conditions"].astype(str).itertuples(index=False, name=None))
    assert pairs == {("A", "TP53"), ("A", "ctrl"), ("B", "ctrl")}
    stated = uns["prediction"]
    assert (stated["hvg_from"], stated["hvg_split"]) == ("train", "5" * 64)
    assert stated["split_hash"] == Split.from_dict(record.split).hash


def test_the_seed_decides(predicted, written):
    one, again, other = (predicted(like=written(), part="all", seed=seed) for seed in (5, 5, 6))
    assert (one.X != again.X).nnz == 0
    assert (one.obs["control_cell"] == again.obs["control_cell"]).all()
    assert (one.X != other.X).nnz > 0


def test_perturbations_without_an_observed_file_go_to_every_context(predicted, screen):
    cells = predicted(perturbations=["TP53", "MYC"])
    counts = cells.obs[["line", "target"]].astype(str).value_counts().to_dict()
    assert counts == {(c, p): n for p in ("TP53", "MYC") for c, n in (("A", 4), ("B", 3), ("C", 3))}
    origin = screen.obs.loc[cells.obs["control_cell"]]
    assert (origin["plate"].astype(str).to_numpy() == cells.obs["plate"].astype(str).to_numpy()).all()
    assert ["no perturbed cell of 'C'" in notice for notice in predicted.notices] == [True]


def test_named_perturbations_select_among_the_observed(predicted, written):
    cells = predicted(like=written(), part="all", perturbations=["TP53"])
    assert set(cells.obs["target"]) == {"TP53"}
    assert len(cells) == 11


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing to predict"),
        ({"perturbations": ["TP35"]}, "'TP35' was never seen in training: did you mean 'TP53'"),
        (
            {"perturbations": ["MYC"], "missing_genes": "median"},
            "--missing-genes 'median' is not known: did you mean 'mean'",
        ),
        ({"perturbations": ["MYC"], "control_roles": "share"}, "--control-roles 'share' is not known: did you mean"),
        ({"perturbations": ["MYC"], "layer": "counts"}, "has no layer 'counts'"),
        ({"perturbations": ["MYC"], "seed": -1}, "--seed -1 is negative"),
        ({"perturbations": ["MYC"], "part": "val"}, "--part val .* --like, which was not given"),
    ],
)
def test_what_cannot_be_predicted_is_refused(predicted, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        predicted(**settings)
    assert not (tmp_path / "out").exists()


def test_a_misspelt_selection_is_refused_rather_than_left_out(predicted, written):
    with pytest.raises(InputError, match=r"'MYCC' .* did you mean 'MYC'"):
        predicted(like=written(), part="all", perturbations=["TP53", "MYCC"])


def test_sets_without_an_observed_file_keep_batches_apart_and_carry_their_token(
    predicted, vocabulary, screen, monkeypatch
):
    seen = []

    def spy(populations, *others):
        conditions = original(populations, *others)
        batches = [None if row < 0 else vocabulary.batches[row] for row in conditions.batch.tolist()]
        seen.extend((p.context, p.batch, token) for p, token in zip(populations, batches, strict=True))
        return conditions

    original = generation._conditions
    monkeypatch.setattr(generation, "_conditions", spy)
    cells = predicted(perturbations=["MYC"])
    assert set(seen) == {
        ("A", "plate1", "plate1"), ("A", "plate2", "plate2"), ("B", "plate1", "plate1"), ("C", "plate1", "plate1"),
    }  # fmt: skip
    assert (cells.obs["plate"].to_numpy() == screen.obs.loc[cells.obs["control_cell"], "plate"].to_numpy()).all()


def test_a_batch_without_control_cells_is_said(predicted, written):
    predicted(like=written(), part="test")
    assert ["batch 'plate2 of B'" in notice for notice in predicted.notices] == [True]


def test_an_input_is_never_written_over(run_path, written, screen, tmp_path):
    controls, observed = written(), written(name="observed.h5ad")
    (tmp_path / "link.h5ad").symlink_to(controls)
    before = controls.read_bytes(), observed.read_bytes()
    for out in (controls, observed, tmp_path / "link.h5ad", tmp_path / "x" / ".." / controls.name):
        with pytest.raises(InputError, match="which it would replace"):
            predict(run_path, controls, out, like=observed, progress=False)
    assert (controls.read_bytes(), observed.read_bytes()) == before


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.h5ad").mkdir()
    absent = tmp_path / "absent"
    for out, message in (
        (tmp_path / "folder.h5ad", "is a directory: name a file in it"),
        (tmp_path / "file" / "p", "is a file"),
        (tmp_path / "file", "must be an .h5ad file, or a folder of such files"),
        (tmp_path / "predicted.zarr", "must be an .h5ad file, or a folder of such files"),
    ):
        with pytest.raises(InputError, match=message):
            predict(absent, absent, out, perturbations=["MYC"])


def test_a_file_that_is_there_is_replaced_only_where_that_was_asked_for(predicted, tmp_path):
    predicted(perturbations=["MYC"])
    with pytest.raises(InputError, match=r"predicted\.h5ad exists: name another file, or replace it with --overwrite"):
        predicted(perturbations=["TP53"], overwrite=False)
    assert set(ad.read_h5ad(tmp_path / "out" / "predicted.h5ad").obs["target"]) == {"MYC"}
    assert set(predicted(perturbations=["TP53"]).obs["target"]) == {"TP53"}


def test_columns_and_control_label_may_have_other_names_than_in_training(run_path, screen, predicted):
    other = screen.copy()
    other.obs = other.obs.rename(columns={"line": "cell_line", "target": "gene", "plate": "lane"})
    other.obs["gene"] = other.obs["gene"].cat.rename_categories({"ctrl": "non-targeting"})
    names = {"context_key": "cell_line", "perturbation_key": "gene", "batch_key": "lane", "control": "non-targeting"}
    made = scale.load(run_path).predict(other, like=other, part="all", **names)
    expected = predicted(like=screen, part="all")
    assert (made.X != expected.X).nnz == 0
    assert list(made.obs["gene"]) == list(expected.obs["target"])
    stated = made.uns["prediction"]
    assert {name: stated[name] for name in names} == names


def test_a_loaded_model_answers_in_memory_as_often_as_it_is_asked(run_path, screen, predicted, monkeypatch):
    model = scale.load(str(run_path))
    monkeypatch.setattr(dist_checkpointing, "load", None)  # nothing is opened again
    one, again = (model.predict(screen, perturbations="MYC", seed=4) for _ in range(2))
    monkeypatch.undo()
    from_files = predicted(perturbations=["MYC"], seed=4)
    assert (one.X != again.X).nnz == (one.X != from_files.X).nnz == 0
    assert model.genes == tuple(one.var_names)
    assert (model.contexts, model.perturbations) == (("A", "B"), ("MYC", "TP53"))


@pytest.mark.parametrize("linear", [False, True])
def test_control_cells_are_read_and_encoded_once_for_many_calls(
    linear, with_start, run_path, written, screen, monkeypatch
):
    model = with_start("counts") if linear else scale.load(run_path)
    start = model.start_from(written(), seed=4)
    start.predict(perturbations="TP53")
    monkeypatch.setattr(start.pools.cells.cells, "read", None)
    monkeypatch.setattr(model.network.encoder.within_cell, "forward", None)
    once = start.predict(perturbations="MYC")
    monkeypatch.undo()
    expected = model.predict(screen, perturbations="MYC", seed=4)
    assert (once.X != expected.X).nnz == 0
    assert (once.obs["control_cell"] == expected.obs["control_cell"]).all()


def test_start_and_network_are_mixed_as_it_is_asked_for(with_start, run_path, screen):
    cells = ad.AnnData(screen.X.log1p(), obs=screen.obs, var=screen.var)
    model = with_start("log1p")
    chosen, start, network, half = (
        model.predict(cells, perturbations="MYC", network_share=share) for share in (None, 0.0, 1.0, 0.5)
    )
    assert [made.uns["prediction"]["network_share"] for made in (chosen, start, network, half)] == [0.25, 0.0, 1.0, 0.5]
    start, network, half = (made.X.toarray() for made in (start, network, half))
    inside = (start > 0) & (network > 0)
    assert np.abs(start - network)[inside].max() > 0.05
    np.testing.assert_allclose(half[inside], (start + network)[inside] / 2, atol=1e-5)
    with pytest.raises(InputError, match=r"--network-share 1\.5 is outside \[0, 1\]"):
        model.predict(cells, perturbations="MYC", network_share=1.5)
    with pytest.raises(InputError, match="--network-share 0: the model has no linear start"):
        scale.load(run_path).predict(screen, perturbations="MYC", network_share=0)


@pytest.fixture
def with_start(build, vocabulary, run_path):
    """Make a model that has some linear start, whose validation chose a share of a quarter."""

    def make(kind: str):
        network = build(start="linear", names=replace(vocabulary, kind=kind, start_labels=("MYC", "TP53"))).eval()
        fill(network.linear_start)
        network.network_share.fill_(0.25)
        return replace(scale.load(run_path), network=network)

    return make


def test_cells_that_stay_on_disk_are_read(run_path, written, screen):
    model = scale.load(run_path)
    on_disk = ad.read_h5ad(written(), backed="r")
    assert (model.predict(on_disk, perturbations="MYC").X != model.predict(screen, perturbations="MYC").X).nnz == 0


def test_filled_genes_are_said_and_recorded(run_path, screen, caplog):
    model, without = scale.load(run_path), screen[:, 1:]
    with pytest.raises(InputError, match=r"lacks 1 of the model's 20 genes \('gene0'\): .*--missing-genes"):
        model.predict(without, perturbations="MYC")
    made = model.predict(without, perturbations="MYC", missing_genes="mean")
    assert "the mean of the training cells stands in for them" in caplog.text
    assert made.uns["prediction"]["missing_genes"] == "mean"
    assert made.uns["prediction"]["filled_genes"] == "gene0"
    assert made.n_vars == 20


@pytest.mark.parametrize(
    ("start", "head", "evidence"),
    [
        ("none", "residual", "off"),
        ("none", "regression", "off"),
        ("linear", "residual", "off"),
        ("linear", "residual", "on"),
    ],
)
def test_cells_are_what_the_model_predicts_of_the_same_control_cells(
    build, vocabulary, run_path, screen, start, head, evidence
):
    """What conditions share is worked out once; the answer is that of the model called with each set by itself."""
    names = replace(vocabulary, kind="log1p", start_labels=("MYC", "TP53"))
    choices = dict(start=start, head=head, evidence=evidence)
    network = build(**choices, set_loss="none", names=names, source="control").eval()
    if start == "linear":
        fill(network.linear_start)
        network.network_share.fill_(0.5)
    model = replace(scale.load(run_path), network=network)
    cells = ad.AnnData(screen.X.log1p(), obs=screen.obs, var=screen.var)
    observed = cells[cells.obs["line"] != "C"]
    made = model.predict(cells, like=observed, part="all", control_roles="shared")
    for (line, target), rows in made.obs.groupby(["line", "target"], observed=True).indices.items():  # pyright: ignore
        controls = (cells.obs["line"] == line) & (cells.obs["target"] == "ctrl")
        mean = torch.tensor(cells.X[controls.to_numpy()].mean(0)).float()
        for plate in made.obs["plate"].iloc[rows].unique():
            of_plate = rows[(made.obs["plate"].iloc[rows] == plate).to_numpy()]
            origin = cells.obs_names.get_indexer(made.obs["control_cell"].iloc[of_plate])
            own = controls & (cells.obs["plate"] == plate)
            pool = cells.X[(own if own.any() else controls).to_numpy()].toarray()
            x0 = cells.X[origin].toarray()
            drawn = x0.mean(0)
            scale_G = np.divide(pool.mean(0), drawn, out=np.ones_like(drawn), where=drawn > 0).clip(0.5, 2)
            for first in range(0, len(origin), 8):
                part = slice(first, first + 8)
                expected = expected_cells(network, torch.tensor(x0[part]), scale_G, (target, line, plate), mean)
                np.testing.assert_allclose(made.X[of_plate[part]].toarray(), expected, atol=1e-5)


def fill(start: LinearStart) -> None:
    """Give a linear start some numbers."""
    for name, buffer in start.named_buffers():
        positive = name in ("variance", "unit", "size")
        buffer.copy_(torch.rand(buffer.shape) + 0.1 if positive else torch.randn(buffer.shape) / 4)


def expected_cells(network, x0_SG, scale_G, names, mean_1G) -> np.ndarray:
    """What the model changes in control cells as they are, added to those that are scaled to the mean of all."""
    vocabulary, (target, line, plate) = network.vocabulary, names
    tables = ((vocabulary.tokens, target), (vocabulary.contexts, line), (vocabulary.batches, plate))
    token, context, batch = (torch.tensor([table.index(name)]) for table, name in tables)
    condition = Condition(perturbation=token[None], dose=torch.full((1, 1), torch.nan), context=context, batch=batch)
    if network.linear_start is not None:
        features = network.linear_start.features([target], context, mean_1G, vocabulary)
        condition = replace(condition, evidence=features)
    mask, key = torch.ones(1, len(x0_SG), dtype=torch.bool), torch.tensor([0])
    answer = network.predict(x0_SG[None], mask, condition, key)
    if network.scale.head == "residual":
        start, share = (x0_SG * torch.tensor(scale_G))[None], float(network.network_share)
        if network.linear_start is not None:
            whole = network.evidence is not None  # whose network corrects the start
            start = move_cells(start, *network.linear_start.shift(condition.evidence), 1.0 if whole else 1 - share)
        z0 = network.encoder(x0_SG[None] - network.gene_mean, mask)
        told, known = network.told(condition)
        z1 = network.transported(z0, mask, told, torch.zeros_like(z0))
        if known is not None:
            start = start + share * network.evidence.weights(z0) @ known
        answer = (start + share * network.expression_decoder.change(z1, z0)).clamp(min=0)
    return answer[0].detach().numpy()


@pytest.fixture
def threads():
    """Set torch's threads, and put them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_threads_that_make_cells_beside_the_network_change_none(run_path, screen, threads, monkeypatch):
    model, made, makers = scale.load(run_path), [], set()
    monkeypatch.setattr(generation, "SETS_AT_ONCE", 2)  # fewer than there are populations that have begun
    observed = ad.concat([screen] * 3)  # of several sets each
    make = generation.Generator._make

    def watched(generator, tasks):
        makers.add(threading.current_thread().name)
        return make(generator, tasks)

    monkeypatch.setattr(generation.Generator, "_make", watched)
    for number in (1, 3):
        threads(number)
        makers.clear()
        made.append(model.predict(screen, like=observed, part="all", seed=2))
        assert (threading.current_thread().name in makers) == (number == 1)
    assert (made[0].X != made[1].X).nnz == 0


def test_sets_of_one_size_attend_without_a_mask(run_path, screen, monkeypatch):
    transported, asked = ScaleModel.transported, set()

    def watched(model, z0, mask, *others, full):
        asked.add((full, bool(mask.all())))
        return transported(model, z0, mask, *others, full=full)

    monkeypatch.setattr(ScaleModel, "transported", watched)
    model, one = scale.load(run_path), (screen.obs["target"] == "TP53") & (screen.obs["line"] == "B")
    for observed, full in ((screen, False), (screen[one], True)):
        asked.clear()
        model.predict(screen, like=observed, part="all")
        assert asked == {(full, full)}


def test_what_is_not_finite_is_refused_by_its_condition(run_path, screen):
    """A NaN used to be written as 0."""
    model = scale.load(run_path)
    table = model.network.condition_encoder.perturbation.learned.weight
    with torch.no_grad():
        table[model.network.vocabulary.tokens.index("TP53")] = torch.nan
    assert model.predict(screen, perturbations="MYC").n_obs
    message = "of perturbation 'TP53' in context 'A' is not finite, from its condition encoder on"
    with pytest.raises(InputError, match=message):
        model.predict(screen, perturbations=["MYC", "TP53"])


@pytest.mark.parametrize("head", ["residual", "regression", "negative_binomial"])
@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_what_is_infinite_is_refused_though_the_range_of_expression_would_hide_it(
    build, record, run_path, screen, head, value
):
    network = build(head=head, set_loss="none")
    decoder = network.expression_decoder
    weight = (decoder.to_genes if decoder.rates is None else decoder.rates.to_rates).weight
    with torch.no_grad():
        weight[0] = 0
        weight[0, 0] = value
    model = replace(scale.load(run_path), network=network.eval())
    with pytest.raises(InputError, match=r"'MYC' in context 'A' is not finite, from its decoder on"):
        model.predict(screen, perturbations="MYC")


def test_a_linear_start_that_is_not_finite_is_named(build, vocabulary, run_path, screen):
    network = build(start="linear", names=replace(vocabulary, start_labels=("MYC", "TP53")))
    network.linear_start.parts[1] = torch.inf
    network.linear_start.shares.fill_(1)
    model = replace(scale.load(run_path), network=network.eval())
    with pytest.raises(InputError, match=r"'TP53' in context 'A' is not finite, from its linear start on"):
        model.predict(screen, perturbations=["MYC", "TP53"])


def test_controls_with_a_column_that_predictions_write_are_refused(run_path, written, tmp_path):
    def with_origin(cells):
        return ad.AnnData(cells.X, obs=cells.obs.assign(control_cell="x"), var=cells.var)

    with pytest.raises(InputError, match=r"obs column 'control_cell'.* rename it"):
        predict(run_path, written(with_origin), tmp_path / "out", perturbations=["MYC"])


def without_a_shard(weights):
    next(weights.glob("*.distcp")).unlink()


def cut(weights):
    for shard in weights.glob("*.distcp"):
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


def without_metadata(weights):
    (weights / ".metadata").unlink()


def of_another_model(weights):
    record = weights.parents[2] / "run.json"
    record.write_text(record.read_text().replace('"gene_module_size": 8', '"gene_module_size": 16'))


@pytest.mark.parametrize("damage", [without_a_shard, cut, without_metadata, of_another_model, shutil.rmtree])
def test_a_damaged_checkpoint_is_refused_by_name(run_path, written, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(run_path, run)
    damage(run / "checkpoints" / "step=1" / "weights")
    with pytest.raises(InputError, match=r"(step=1|run\.json) is damaged") as refused:
        predict(run, written(), tmp_path / "out.h5ad", perturbations=["MYC"], progress=False)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out.h5ad").exists()
