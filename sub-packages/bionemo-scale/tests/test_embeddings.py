"""Files of perturbation embeddings, and the names a store and its split teach a model."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bionemo.cellsets import CellStore, prepare
from bionemo.scale.config.presets import MODELS
from bionemo.scale.data.embeddings import Embeddings
from bionemo.scale.data.training_vocabulary import training_vocabulary
from bionemo.screens import Split
from bionemo.screens.errors import InputError

NAMES = ["MYC", "TP53", "SOX2"]
VECTORS = np.array([[1.0, 2.0, 5.0], [3.0, 0.0, 5.0], [5.0, 1.0, 5.0]])


@pytest.mark.parametrize("kind", ["npz", "index", "column"])
def test_both_kinds_of_file_give_standardised_vectors(tmp_path, kind):
    path = tmp_path / ("vectors.npz" if kind == "npz" else "vectors.parquet")
    if kind == "npz":
        np.savez(path, **dict(zip(NAMES, VECTORS, strict=True)))
    else:
        frame = pd.DataFrame(VECTORS, index=NAMES, columns=list("abc"))
        (frame if kind == "index" else frame.reset_index(names="gene")).to_parquet(path)
    read = Embeddings.read(path)
    assert read.names == tuple(NAMES)
    np.testing.assert_allclose(read.vectors[:, :2].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(read.vectors[:, :2].std(0), 1, rtol=1e-6)
    assert not read.vectors[:, 2].any()


def save(path, **vectors):
    np.savez(path, **vectors)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("absent.npz", lambda path: None, "cannot be read"),
        ("vectors.csv", lambda path: path.touch(), r"neither \.parquet nor \.npz"),
        ("cut.npz", lambda path: path.write_bytes(b"PK"), "is damaged"),
        ("nan.npz", lambda path: save(path, A=[1.0], B=[np.nan]), "no finite vector for 'B'"),
        ("long.npz", lambda path: save(path, A=[1.0], B=[1.0, 2.0]), "vectors of several lengths"),
        (
            "together.npz",
            lambda path: save(path, names=np.array(["A", "B"]), vectors=np.ones((2, 3))),
            r"holds str32 \[2\] under 'names', not a vector .* one array \[E\] for each perturbation under its name",
        ),
        ("table.npz", lambda path: save(path, vectors=np.ones((2, 3))), r"holds float64 \[2, 3\] under 'vectors'"),
        ("pickle.npz", lambda path: save(path, A=np.array([{}], dtype=object)), "is damaged"),
        ("twice.parquet", lambda path: pd.DataFrame({"a": [1, 2]}, index=["A", "A"]).to_parquet(path), "'A' more than"),
    ],
)
def test_a_file_that_cannot_serve_is_refused(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(InputError, match=message) as refused:
        Embeddings.read(tmp_path / name)
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Combinations and singles; SOX2 is held out."""
    import anndata as ad

    folder = tmp_path_factory.mktemp("combinations")
    labels = ["ctrl", "MYC", "TP53", "MYC+TP53", "SOX2", "P+Q"] * 4
    obs = pd.DataFrame({"target": labels, "line": ["A"] * 24}, index=[f"cell{i}" for i in range(24)])
    counts = np.random.default_rng(0).poisson(2.0, (24, 8)).astype(np.float32) + 1
    ad.AnnData(counts, obs=obs).write_h5ad(folder / "screen.h5ad")
    return CellStore.open(
        prepare(
            [folder / "screen.h5ad"], folder / "store", perturbation_key="target", control="ctrl", context_key="line",
            n_genes=None, progress=False,
        ).path
    )  # fmt: skip


def model(**changes):
    return replace(MODELS["scale_tiny"], **changes)


SPLIT = Split.from_dict({"zeroshot": {}, "fewshot": {"A": {"test": ["SOX2", "MYC+TP53"]}}})


def test_names_are_those_of_the_training_labels_taken_apart(store):
    names = training_vocabulary(store, SPLIT, model())
    assert names.perturbations == ("ctrl", "MYC", "P+Q", "TP53")
    assert names.unknown("MYC+TP53") == []
    assert names.unknown("SOX2") == ["SOX2"]
    assert training_vocabulary(store, SPLIT, model(), separator="").unknown("MYC+TP53") == ["MYC+TP53"]


def test_embeddings_add_names_and_must_cover_the_training_perturbations(store):
    table = dict.fromkeys(["MYC", "TP53", "SOX2", "NEW"], np.ones(3))
    some = Embeddings(tuple(table), np.stack(list(table.values())), "hash")
    with pytest.raises(InputError, match=r"no vector for 1 of the 3 perturbations .*\('P\+Q'\)"):
        training_vocabulary(store, SPLIT, model(perturbation_tokens="both"), "+", some)
    all_of_them = Embeddings((*table, "P+Q"), np.eye(5), "hash")
    names = training_vocabulary(store, SPLIT, model(perturbation_tokens="both"), "+", all_of_them)
    assert names.embedded == ("NEW", "SOX2")
    assert names.unknown("SOX2+NEW") == []
    assert all_of_them.table(names)[0].abs().max() == 0
    assert all_of_them.table(names)[-1].tolist() == [0, 0, 1, 0, 0]


def test_embeddings_and_the_model_must_agree(store):
    some = Embeddings(("MYC",), np.ones((1, 2)), "hash")
    with pytest.raises(InputError, match="perturbation_tokens=learned does not use them"):
        training_vocabulary(store, SPLIT, model(), "+", some)
    with pytest.raises(InputError, match="name their file with --embeddings"):
        training_vocabulary(store, SPLIT, model(perturbation_tokens="embedding"))
