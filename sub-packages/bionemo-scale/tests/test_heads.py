"""The count head, and the other choices that change what is trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.flow.likelihood import negative_binomial_loss
from bionemo.scale.model.decoder import CountRates
from bionemo.screens.errors import InputError


def test_the_likelihood_is_the_negative_binomials():
    counts, mean, theta = torch.tensor([0.0, 3.0, 40.0]), torch.tensor([0.5, 2.0, 30.0]), torch.tensor([0.3, 2.0, 9.0])
    expected = -stats.nbinom.logpmf(counts.numpy(), theta.numpy(), (theta / (theta + mean)).numpy())
    torch.testing.assert_close(negative_binomial_loss(counts, mean, theta), torch.from_numpy(expected).float())


@pytest.fixture
def counting(build):
    return build(head="negative_binomial", set_loss="none")


@pytest.fixture
def counted(sets):
    """A batch of whole counts, and what they add up to over more genes than these."""
    batch = sets(6, 4)
    rng = torch.Generator().manual_seed(2)
    counts = torch.poisson(torch.full((2, *batch["control"].shape), 2.0), generator=rng) * batch["mask"][..., None]
    library = counts.sum(-1) + 5
    for name, of_set, size in zip(("control", "perturbed"), counts, library, strict=True):
        batch[name] = torch.log1p(of_set * 100 / size[..., None]) * batch["mask"][..., None]
    return batch | {"library": library}, counts


def test_counts_are_recovered_from_expression_and_library(counting, counted, monkeypatch):
    batch, counts = counted
    seen = []
    monkeypatch.setattr(
        "bionemo.scale.model.decoder.negative_binomial_loss",
        lambda found, mean, theta: seen.append(found) or negative_binomial_loss(found, mean, theta),
    )
    terms = counting(TrainingBatch(**batch))
    assert set(terms) == {"loss", "endpoint", "reconstruction", "likelihood", "filled"}
    for found in seen:
        assert torch.equal(found[batch["mask"]], counts[1][batch["mask"]])


def test_the_count_head_learns_what_it_is_trained_on(counting, counted):
    batch, _ = counted
    optimizer = torch.optim.Adam(counting.parameters(), lr=1e-2)
    first = counting(TrainingBatch(**batch))["likelihood"].item()
    for _ in range(60):
        optimizer.zero_grad()
        terms = counting(TrainingBatch(**batch))
        terms["loss"].backward()
        optimizer.step()
    assert terms["likelihood"].item() < first - 0.1
    silent = [name for name, p in counting.expression_decoder.rates.named_parameters() if not p.grad.any()]
    assert silent == []


def test_drawn_cells_have_their_rates_mean_and_variance(config, compute, vocabulary):
    rates = CountRates(config, compute, vocabulary, columns=64)
    with torch.no_grad():
        rates.log_inverse_dispersion.fill_(np.log(2.0))
    cells, library, rate = 20_000, 50.0, 8.0
    expression = torch.full((1, cells, 20), np.log1p(rate))
    drawn = rates.draw(expression, torch.full((1, cells), library), torch.Generator().manual_seed(0))
    counts = drawn.expm1() * library / 100
    torch.testing.assert_close(counts, counts.round(), atol=1e-3, rtol=0)
    mean = rate * library / 100
    assert counts.mean().item() == pytest.approx(mean, rel=0.01)
    assert counts.var().item() == pytest.approx(mean + mean**2 / 2, rel=0.02)


def test_the_count_head_needs_counts(build, vocabulary):
    with pytest.raises(InputError, match="head=negative_binomial needs counts"):
        build(head="negative_binomial", set_loss="none", names=replace(vocabulary, kind="log1p"))


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({"set_loss": "none"}, {"endpoint", "reconstruction"}),
        ({"set_loss": "mmd"}, {"endpoint", "reconstruction", "mmd"}),
        ({"prediction": "velocity"}, {"velocity", "reconstruction", "energy"}),
        ({"deep_sets": False}, {"endpoint", "reconstruction", "energy"}),
        ({"gene_dropout": 0.5}, {"endpoint", "reconstruction", "energy"}),
        ({"head": "regression"}, {"endpoint", "reconstruction", "energy"}),
    ],
)
def test_every_choice_trains_on_its_own_terms(build, sets, changes, terms):
    model, batch = build(**changes), sets(6, 4, 0)
    found = model(TrainingBatch(**batch))
    assert set(found) == terms | {"loss", "filled"}
    found["loss"].backward()
    assert all(value.isfinite() for value in found.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_without_deep_sets_a_cell_is_encoded_alone(build, sets):
    batch = sets(6)
    for deep_sets, alone in ((False, True), (True, False)):
        encoder = build(deep_sets=deep_sets).encoder
        first = encoder(batch["control"][:, :1], batch["mask"][:, :1])
        assert torch.allclose(encoder(batch["control"], batch["mask"])[:, :1], first, atol=1e-6) is alone


def test_a_velocity_of_zero_leaves_a_cell_where_it_is(build, sets):
    model, batch = build(awake=False, prediction="velocity", source="control"), sets(6)
    answer = model.predict(batch["control"], batch["mask"], batch["condition"], batch["key"])
    torch.testing.assert_close(answer, batch["control"], atol=1e-5, rtol=0)


def test_hidden_genes_are_those_of_training_only(build, sets):
    model, batch = build(gene_dropout=1.0), sets(6)
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(TrainingBatch(**batch))
    prediction = model.predict(batch["control"], batch["mask"], batch["condition"], batch["key"])
    shown_in_training, shown_in_prediction = seen
    assert not shown_in_training.any()
    assert torch.equal(shown_in_prediction, batch["control"] - model.gene_mean)
    same = build(gene_dropout=0.0)
    assert torch.equal(prediction, same.predict(batch["control"], batch["mask"], batch["condition"], batch["key"]))
