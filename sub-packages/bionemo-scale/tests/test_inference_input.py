"""Control cells and conditions: what is taken from a file, and what is refused."""

import time
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from bionemo.cellsets import prepare
from bionemo.scale.inference.controls import ControlCells, read_controls
from bionemo.scale.inference.genes import MissingGenes
from bionemo.scale.inference.inputs import Columns
from bionemo.scale.inference.populations import (
    Population,
    check_known,
    doses_beyond,
    populations_like,
    populations_of,
    shards,
)
from bionemo.scale.inference.starts import Draw, Pools
from bionemo.screens import Split
from bionemo.screens.controls import ControlRole, ControlRoles, Controls
from bionemo.screens.errors import InputError

COLUMNS = Columns(perturbation="target", context="line", batch="plate", control="ctrl")
SHARED = ControlRoles(controls=Controls.SHARED)
SPLIT = Split.from_dict({"zeroshot": {}, "fewshot": {"B": {"val": ["TP53"], "test": ["MYC"]}}})


@pytest.fixture
def read(vocabulary):
    def read(path, vocabulary=vocabulary, layer=None, roles=SHARED, **changes) -> ControlCells:
        columns = replace(COLUMNS, **{"batch": None, **changes})
        cells = read_controls(path, columns, vocabulary, roles=roles, layer=layer)
        read.expression, read.library = cells.read(cells.rows)
        return cells

    return read


def drawn(pools, population) -> np.ndarray:
    """The control cells that a population may start from."""
    return pools.of_context(population.context).rows[pools.members(*population.place)]


def expected(screen, target_sum=100.0) -> np.ndarray:
    counts = screen[screen.obs["target"] == "ctrl"].X.toarray()
    return np.log1p(counts * target_sum / np.maximum(counts.sum(1, keepdims=True), 1))


def test_control_cells_are_normalised_and_the_others_left_out(read, written, screen):
    cells = read(written())
    np.testing.assert_allclose(read.expression.toarray(), expected(screen), rtol=1e-5)
    assert read.expression.dtype == np.float32
    assert list(cells.obs["target"].unique()) == ["ctrl"]
    assert list(cells.obs.columns) == ["line", "target", "plate", "age"]
    assert cells.notices == ()


def test_control_cells_of_a_store_are_those_of_its_file(read, written, screen, tmp_path, vocabulary):
    keys = {"perturbation_key": "target", "control": "ctrl", "context_key": "line", "batch_key": "plate"}
    names = list(screen.var_names[::-1][:18])
    store = prepare([written()], tmp_path / "store", gene_names=names, n_genes=None, progress=False, **keys).path
    fewer = replace(vocabulary, genes=tuple(names[:15]))
    cells = read(store, fewer, batch="plate", roles=ControlRoles())
    found = pd.DataFrame(read.expression.toarray(), index=cells.obs.index)
    library = pd.Series(read.library, index=cells.obs.index)
    of_file = read(written(), fewer, batch="plate", roles=ControlRoles())
    order = of_file.obs.index
    assert set(order) == set(cells.obs.index)
    np.testing.assert_allclose(found.loc[order], read.expression.toarray(), rtol=1e-6)
    np.testing.assert_array_equal(library.loc[order], read.library)  # of all genes, those that the store lacks too
    assert cells.sizes == of_file.sizes
    assert counted(populations_like(store, COLUMNS, SPLIT, "all")) == counted(
        populations_like(written(), COLUMNS, SPLIT, "all")
    )
    with pytest.raises(InputError, match="is a store, which has no layers: leave --layer out"):
        read(store, layer="counts")


@pytest.mark.parametrize("rotation", [0, 1, 2])
def test_predictions_start_from_the_control_cells_of_role_input(read, written, screen, rotation):
    """Their noise would stand on both sides of a score if the truth were measured against the same cells."""
    roles = ControlRoles(rotation=rotation)
    cells = read(written(lambda cells: cells[::-1]), roles=roles)
    controls = screen[screen.obs["target"] == "ctrl"]
    is_input = roles.has(controls.obs_names, ControlRole.INPUT)
    assert 0 < is_input.sum() < len(is_input)
    assert list(cells.obs.index) == list(controls.obs_names[is_input][::-1])
    np.testing.assert_allclose(read.expression.toarray(), expected(screen)[is_input][::-1], rtol=1e-5)
    np.testing.assert_array_equal(read.library, controls.X.toarray().sum(1)[is_input][::-1])


def test_a_context_without_control_cells_to_start_from_is_refused_and_a_batch_starts_from_others(read, written):
    def without_input(*which):
        def change(cells):
            is_input = ControlRoles().has(cells.obs_names, ControlRole.INPUT)
            there = (cells.obs[["line", "plate"]] == which).all(axis=1) & (cells.obs["target"] == "ctrl")
            return cells[~(there & is_input)]

        return change

    cells = read(written(without_input("C", "plate1")), batch="plate", roles=ControlRoles())
    populations = populations_of(["MYC"], cells)
    assert populations[-1].context == "C"
    message = r"The 3 control cells of context 'C' in .*screen.h5ad are too few to divide: none has the role 'input'"
    with pytest.raises(InputError, match=message + ".*choose --control-roles shared"):
        Pools(cells).check(populations)
    cells = read(written(without_input("A", "plate2")), batch="plate", roles=ControlRoles())
    populations, pools = populations_of(["MYC"], cells), Pools(cells)
    assert counted(populations)["A", "MYC", "plate2"] == 4
    assert set(cells.obs.iloc[drawn(pools, populations[1])]["plate"]) == {"plate1"}
    assert ["batch 'plate2 of A' to start from" in notice for notice in pools.notices(populations)] == [True]


def test_genes_in_another_order_are_put_in_the_models(read, written, screen):
    cells = read(written(lambda cells: cells[:, ::-1]))
    np.testing.assert_allclose(read.expression.toarray(), expected(screen), rtol=1e-5)
    assert "put in the model's order" in cells.notices[0]


def test_genes_the_model_lacks_are_left_out_but_count_for_the_library(read, written, screen):
    def with_more(cells):
        more = ad.AnnData(
            np.full((cells.n_obs, 3), 2.0, np.float32), obs=cells.obs, var=pd.DataFrame(index=list("xyz"))
        )
        return ad.concat([more, cells], axis="var", merge="first")

    cells = read(written(with_more))
    assert "3 genes" in cells.notices[0]
    assert read.expression.shape[1] == 20
    counts = screen[screen.obs["target"] == "ctrl"].X.toarray()
    np.testing.assert_allclose(read.library, counts.sum(1) + 6)
    np.testing.assert_allclose(
        np.expm1(read.expression.toarray()), counts * (100 / (counts.sum(1, keepdims=True) + 6)), rtol=1e-4
    )


def test_counts_are_found_in_a_layer(read, written, screen):
    def in_layer(cells):
        cells = cells.copy()
        cells.layers["counts"] = cells.X
        cells.X = None
        return cells

    path = written(in_layer)
    read(path, layer="counts")
    np.testing.assert_allclose(read.expression.toarray(), expected(screen), rtol=1e-5)
    with pytest.raises(InputError, match="has no layer 'raw'; it has counts"):
        read(path, layer="raw")
    with pytest.raises(InputError, match="has no X; name one of its layers with --layer: counts"):
        read(path)


def dirtied(value):
    def change(cells):
        cells = cells.copy()
        cells.X[int((cells.obs["target"] == "ctrl").argmax()), 4] = value
        return cells

    return change


def without_control(cells):
    return cells[cells.obs["target"] != "ctrl"]


def unlabelled(cells):
    cells = cells.copy()
    cells.obs.loc[cells.obs_names[:3], "line"] = np.nan
    return cells


def shouted(cells):
    cells = cells.copy()
    cells.obs["target"] = cells.obs["target"].astype(object)
    cells.obs.loc[cells.obs_names[cells.obs["target"] == "ctrl"][:3], "target"] = "CTRL"
    return cells


def test_a_label_that_is_the_control_label_but_for_capitals_is_refused(read, written, vocabulary):
    path = written(shouted)
    with pytest.raises(InputError, match=r"'CTRL' in obs column 'target' .* the control label 'ctrl' but for capitals"):
        read(path)
    with pytest.raises(InputError, match=r"'CTRL' in obs column 'target' .* the control label 'ctrl' but for capitals"):
        populations_like(path, COLUMNS, SPLIT, "all")


def blank(cells):
    obs = cells.obs.astype({"line": str})
    obs.loc[cells.obs_names[(cells.obs["target"] == "ctrl").to_numpy()][:2], "line"] = " "
    return ad.AnnData(cells.X, obs=obs, var=cells.var)


def capitals(cells):
    obs = cells.obs.astype({"target": str})
    obs.loc[cells.obs_names[:1], "target"] = "CTRL"
    return ad.AnnData(cells.X, obs=obs, var=cells.var)


def renamed(cells):
    cells = cells.copy()
    cells.var_names = [*cells.var_names[:-1], cells.var_names[0]]
    return cells


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda cells: cells[:, 2:], {}, r"lacks 2 of the model's 20 genes \('gene0', 'gene1'\): .* --missing-genes"),
        (renamed, {}, "lists gene 'gene0' more than once"),
        (
            without_control,
            {},
            r"has no control cells: none is labelled 'ctrl' in obs\['target'\], which holds MYC, TP53",
        ),
        (None, {"perturbation": "targt"}, "has no obs column 'targt': did you mean 'target'"),
        (None, {"context": "tissue"}, "has no obs column 'tissue': use one of 'line', 'target', 'plate', 'age'"),
        (unlabelled, {}, r"obs column 'line' of .* is empty for \d cells"),
        (blank, {}, "obs column 'line' of .* is empty for 2 cells"),
        (capitals, {}, "'CTRL' in obs column 'target' of .* is the control label 'ctrl' but for capitals"),
        (dirtied(0.5), {}, "holds 0.5, which is no count"),
        (dirtied(-3), {}, "holds the negative value -3"),
        (dirtied(np.nan), {}, "holds NaN or infinite"),
        (dirtied(np.inf), {}, "holds NaN or infinite"),
    ],
    ids=[
        "genes",
        "twice",
        "controls",
        "column",
        "context",
        "label",
        "blank",
        "capitals",
        "fraction",
        "negative",
        "nan",
        "infinite",
    ],
)
def test_controls_that_cannot_be_used_are_refused_by_name(read, written, change, settings, message):
    path = written(change) if change else written()
    with pytest.raises(InputError, match=message) as refused:
        read(path, **settings)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_counts_are_refused_where_the_model_wants_log1p(read, written, vocabulary):
    with pytest.raises(InputError, match="looks like raw counts"):
        read(written(), replace(vocabulary, kind="log1p"))


def test_log1p_is_taken_as_it_is(read, written, screen, vocabulary):
    def logged(cells):
        cells = cells.copy()
        cells.X = cells.X.log1p()
        return cells

    read(written(logged), replace(vocabulary, kind="log1p"))
    counts = screen[screen.obs["target"] == "ctrl"].X.toarray()
    np.testing.assert_allclose(read.expression.toarray(), np.log1p(counts), rtol=1e-5)


def test_files_that_are_no_h5ad_are_refused(read, written, tmp_path):
    path = written()
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cannot be read as|is neither an"):
        read(path)
    with pytest.raises(InputError, match=r"There is no file .*absent.h5ad"):
        read(tmp_path / "absent.h5ad")
    text = tmp_path / "text.h5ad"
    text.write_text("gene,count\n")
    with pytest.raises(InputError, match=r"cannot be read as|is neither an"):
        read(text)


def counted(populations) -> dict:
    return {(p.context, p.perturbation, p.batch): p.cells for p in populations}


def test_as_many_cells_as_observed_of_each_part(written, vocabulary):
    path = written()
    parts = {part: counted(populations_like(path, COLUMNS, SPLIT, part)) for part in ("test", "val", "train")}
    assert parts == {
        "test": {("B", "MYC", "plate1"): 14, ("B", "MYC", "plate2"): 3},
        "val": {("B", "TP53", "plate1"): 4},
        "train": {("A", "TP53", "plate1"): 7, ("A", "MYC", "plate2"): 9},
    }
    everything = counted(populations_like(path, COLUMNS, SPLIT, "all"))
    assert everything == parts["test"] | parts["val"] | parts["train"]
    without_batch = counted(populations_like(path, replace(COLUMNS, batch=None), SPLIT, "test"))
    assert without_batch == {("B", "MYC", None): 17}


def test_a_part_without_conditions_is_refused(written, vocabulary):
    with pytest.raises(InputError, match="no condition of the split's 'test' part"):
        populations_like(written(), COLUMNS, Split.from_dict({}), "test")
    path = written(lambda cells: ad.AnnData(cells.X, obs=cells.obs.drop(columns="plate"), var=cells.var))
    with pytest.raises(InputError, match="no obs column 'plate'"):
        populations_like(path, COLUMNS, SPLIT, "test")


def test_named_perturbations_are_selected_and_a_wrong_name_refused(written, vocabulary):
    path = written()
    assert counted(populations_like(path, COLUMNS, SPLIT, "train", ["MYC"])) == {("A", "MYC", "plate2"): 9}
    with pytest.raises(InputError, match=r"no cell of perturbation 'TP35' .* did you mean 'TP53'"):
        populations_like(path, COLUMNS, SPLIT, "train", ["MYC", "TP35"])


def test_without_an_observed_file_every_batch_of_a_context_gets_as_many_cells_as_it_has_controls(read, written):
    populations = populations_of(["TP53", "MYC"], read(written(), batch="plate"))
    controls = {("A", "plate1"): 12, ("A", "plate2"): 5, ("B", "plate1"): 10, ("C", "plate1"): 6}
    assert counted(populations) == {
        (context, perturbation, batch): cells
        for perturbation in ("TP53", "MYC")
        for (context, batch), cells in controls.items()
    }
    together = populations_of(["MYC"], read(written()))
    assert counted(together) == {("A", "MYC", None): 17, ("B", "MYC", None): 10, ("C", "MYC", None): 6}


def test_controls_may_lack_the_batch_column_and_it_is_said(read, written, vocabulary):
    path = written(lambda cells: ad.AnnData(cells.X, obs=cells.obs.drop(columns="plate"), var=cells.var))
    cells = read(path, batch="plate")
    assert ["has no obs column 'plate'" in notice for notice in cells.notices] == [True]
    populations = populations_of(["MYC"], cells)
    assert {population.batch for population in populations} == {None}
    assert Pools(cells).notices(populations) == []
    assert "'line'" not in read(path, batch="line+plate").notices[0]


def test_a_joined_batch_key_is_found_and_a_batch_without_controls_is_said(read, written):
    path, key = written(), "line+plate"
    cells = read(path, batch=key)
    pools, populations = Pools(cells), populations_like(path, replace(COLUMNS, batch=key), SPLIT, "test")
    assert set(cells.obs.iloc[drawn(pools, populations[0])][key]) == {"B+plate1"}
    (notice,) = pools.notices(populations)
    assert "no control cell of batch 'B+plate2 of B' to start from:" in notice
    assert pools.notices(populations[:1]) == []


def test_an_embedding_makes_a_perturbation_known_also_in_a_combination(read, written, vocabulary):
    cells, names = read(written()), replace(vocabulary, embedded=("SOX2",), embedding_size=2)
    check_known(populations_of(["SOX2", "TP53+SOX2"], cells), names)
    with pytest.raises(InputError, match="'E2F1' was never seen in training and has no embedding"):
        check_known(populations_of(["TP53+E2F1"], cells), names)


def test_a_perturbation_never_seen_is_refused_with_the_nearest(read, written, vocabulary):
    cells = read(written())
    check_known(populations_of(["TP53"], cells), vocabulary)
    with pytest.raises(InputError, match="perturbation 'TP35' was never seen in training: did you mean 'TP53'"):
        check_known(populations_of(["TP35"], cells), vocabulary)
    with pytest.raises(InputError, match="'TP35', 'aspirin' was never seen in training: did you mean 'TP53'"):
        check_known(populations_of(["TP35", "aspirin"], cells), vocabulary)
    with pytest.raises(InputError, match="use one of 'MYC', 'TP53'"):
        check_known(populations_of(["aspirin"], cells), vocabulary)


def test_a_population_starts_from_its_batch_or_else_its_context(read, written):
    path = written()
    cells = read(path, batch="plate")
    of_batch, of_context = (
        cells.obs.iloc[drawn(Pools(cells), population)] for population in populations_like(path, COLUMNS, SPLIT, "test")
    )
    assert set(of_batch["line"]) == set(of_context["line"]) == {"B"}
    assert set(of_batch["plate"]) == {"plate1"}
    assert len(of_context) == 10  # B has controls on plate1 alone

    def only_a(cells):
        return cells[(cells.obs["line"] == "A") | (cells.obs["target"] != "ctrl")]

    population = populations_like(path, COLUMNS, SPLIT, "test")[0]
    with pytest.raises(InputError, match="has no control cell of context 'B'"):
        Pools(read(written(only_a, "only_a.h5ad"))).check([population])


def test_a_key_may_join_two_columns(read, written):
    controls = read(written(), context="line+plate")
    assert {"A+plate1", "A+plate2", "B+plate1", "C+plate1"} == set(controls.obs["line+plate"])
    columns = replace(COLUMNS, context="line+plate", batch=None)
    found = populations_like(written(), columns, SPLIT, "all")
    assert ("B+plate2", "MYC", 3) in {(p.context, p.perturbation, p.cells) for p in found}


def test_genes_that_the_cells_lack_are_filled_where_it_was_asked_for(written, screen, vocabulary):
    path, mean = written(lambda cells: cells[:, [0, *range(2, 20)]]), np.linspace(1, 2, 20)

    def filled(missing: MissingGenes) -> ControlCells:
        return read_controls(path, COLUMNS, vocabulary, roles=SHARED, missing_genes=missing, gene_mean_G=mean)

    counts = screen[screen.obs["target"] == "ctrl"].X.toarray()
    counts[:, 1] = 0
    known = np.log1p(counts * 100 / np.maximum(counts.sum(1, keepdims=True), 1))
    for missing, value in ((MissingGenes.ZERO, 0.0), (MissingGenes.MEAN, mean[1])):
        cells = filled(missing)
        expression, _ = cells.read(cells.rows)
        assert cells.filled_genes == ("gene1",)
        assert "lacks 1 of the model's 20 genes ('gene1')" in cells.notices[0]
        known[:, 1] = value
        np.testing.assert_allclose(expression.toarray(), known, rtol=1e-5)
    path = written(lambda cells: cells[:, 3:])
    with pytest.raises(InputError, match=r"lacks 3 of .* no more than 10% may be filled"):
        filled(MissingGenes.MEAN)


def test_thousands_of_populations_take_no_longer_each_than_hundreds(vocabulary):
    """Labels are read once a file, not once a population: 4,000 x 40,000 comparisons of text would take minutes."""
    contexts = np.arange(40_000) % 400
    obs = pd.DataFrame({"line": contexts.astype(str), "target": "ctrl"}, index=np.arange(40_000).astype(str))
    x = sparse.random(40_000, 20, 0.1, "csr", np.float32, np.random.default_rng(0))
    x.data[:] = 1
    cells = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=list(vocabulary.genes)))
    controls = read_controls(cells, replace(COLUMNS, batch=None), vocabulary, roles=SHARED)
    started = time.perf_counter()
    pools, rng = Pools(controls), np.random.default_rng(0)
    populations = populations_of([f"p{i}" for i in range(10)], controls)
    populations = [population for shard in shards(populations) for population in shard]
    starts = [Draw(pools.members(*p.place), rng).first(p.cells) for p in populations]
    assert len(starts) == 4_000
    assert len(starts[-1]) == 100
    assert time.perf_counter() - started < 5


def test_a_dose_beyond_those_of_training_is_named(vocabulary):
    names = replace(vocabulary, start_labels=("MYC+1uM", "MYC+10uM", "TP53"), dose_unit="uM", log_dose=(0.5, 0.5))

    def notices(*labels: str) -> list[str]:
        return doses_beyond([Population("A", label, None, 1) for label in labels], names)

    assert notices("MYC+1uM", "MYC+3uM", "MYC+10uM", "MYC", "TP53", "TP53+MYC+2uM") == []
    above, below = notices("MYC+100nM", "TP53+MYC+20uM")
    assert "'MYC+100nM' has a dose beyond those of training, 1 to 10uM of MYC: the linear start is that of 1uM" in above
    assert "'TP53+MYC+20uM'" in below
    assert "that of 10uM" in below
