"""From a run directory and a file of control cells to a file of predicted cells."""

import shutil
from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
import torch
from megatron.core import dist_checkpointing

import bionemo.scale as scale
from bionemo.scale.inference import generate as generation
from bionemo.scale.inference.predict import predict
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
        **{"step": 1, "seed": 3, "training_seed": 0, "start": "control", "network_share": 1.0},
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
        ({"perturbations": ["MYC"], "missing_genes": "median"}, "--missing-genes 'median' is not one of zero, mean"),
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


def test_sets_without_an_observed_file_keep_batches_apart_and_carry_their_token(predicted, vocabulary, monkeypatch):
    seen = []

    def spy(self, batch):
        plates = self.cells.obs["plate"]
        seen.extend((p.population.context, p.population.batch, set(plates.iloc[p.rows])) for p in batch)
        return original(self, batch)

    original = generation._Generator.predict
    monkeypatch.setattr(generation._Generator, "predict", spy)
    predicted(perturbations=["MYC"])
    assert {(context, batch) for context, batch, _ in seen} == {
        ("A", "plate1"), ("A", "plate2"), ("B", "plate1"), ("C", "plate1"),
    }  # fmt: skip
    assert all(plates == {batch} for _, batch, plates in seen)


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
    absent = tmp_path / "absent"
    for out, message in ((tmp_path, "is a directory: name a file in it"), (tmp_path / "file" / "p", "is a file")):
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


def test_what_is_not_finite_is_refused_by_its_condition(run_path, screen):
    """A NaN used to be written as 0."""
    model = scale.load(run_path)
    table = model.network.condition_encoder.perturbation.learned.weight
    with torch.no_grad():
        table[model.network.vocabulary.tokens.index("TP53")] = torch.nan
    assert model.predict(screen, perturbations="MYC").n_obs
    with pytest.raises(InputError, match="of perturbation 'TP53' in context 'A' is not finite"):
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
    with pytest.raises(InputError, match=r"checkpoint .*step=1 is damaged, incomplete or of another model") as refused:
        predict(run, written(), tmp_path / "out.h5ad", perturbations=["MYC"], progress=False)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out.h5ad").exists()


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(predicted, tmp_path, monkeypatch):
    predicted(perturbations=["MYC"])
    before = (tmp_path / "out" / "predicted.h5ad").read_bytes()

    def write_half(_cells, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(ad.AnnData, "write_h5ad", write_half)
    with pytest.raises(InputError, match=r"could not be written \(No space left on device\)"):
        predicted(perturbations=["TP53"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predicted.h5ad"]
    assert (tmp_path / "out" / "predicted.h5ad").read_bytes() == before
