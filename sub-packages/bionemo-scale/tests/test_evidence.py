"""What the network is told, gene by gene, of a condition from elsewhere."""

from dataclasses import replace

import pytest
import torch

from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.linear_start.apply import FEATURES


@pytest.fixture
def told(build, sets, vocabulary):
    """Make a model that is given evidence, and a batch with some."""

    def make(**choices):
        names = replace(vocabulary, start_labels=("MYC", "TP53"))
        model, batch = build(start="linear", evidence="on", names=names, **choices), sets(6, 4)
        rng = torch.Generator().manual_seed(5)
        evidence = torch.randn(2, FEATURES, len(names.genes), generator=rng)
        return model, batch | {"condition": replace(batch["condition"], evidence=evidence)}

    return make


def network(model, batch, **changes):
    condition = replace(batch["condition"], **changes)
    return model.predict(batch["control"], batch["mask"], condition, batch["key"], network_share=1.0)


def test_training_starts_without_evidence_and_learns_to_use_it(told):
    model, batch = told(awake=False)
    assert torch.equal(network(model, batch), network(model, batch, evidence=-batch["condition"].evidence))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(TrainingBatch(**batch))["loss"].backward()
    optimizer.step()
    assert not torch.equal(network(model, batch), network(model, batch, evidence=-batch["condition"].evidence))


def test_evidence_of_a_gene_changes_this_gene_and_every_cell_in_its_own_way(told):
    model, batch = told()
    with torch.no_grad():
        model.evidence.summary.weight.zero_()
    other = batch["condition"].evidence.clone()
    other[:, :, 3] += 1
    change = (network(model, batch, evidence=other) - network(model, batch))[0]
    assert (change[:, [gene for gene in range(20) if gene != 3]] == 0).all()
    assert change[:, 3].std() > 1e-4


def test_a_summary_of_all_genes_reaches_the_transport(told):
    model, batch = told()
    with torch.no_grad():
        model.evidence.leave.weight.zero_()
    other = batch["condition"].evidence.clone()
    other[:, :, 3] += 1
    change = network(model, batch, evidence=other) - network(model, batch)
    assert change[0, :, 5].abs().max() > 1e-6


def test_perturbations_are_known_by_their_evidence_alone(told):
    model, batch = told()
    condition = replace(batch["condition"], perturbation=torch.tensor([[1], [2]]))
    first, _ = model.told(condition)
    other, _ = model.told(replace(condition, perturbation=condition.perturbation.flip(0)))
    assert torch.equal(first, other)
    otherwise, _ = model.told(replace(condition, evidence=2 * condition.evidence))
    assert not torch.allclose(first, otherwise)
    control, _ = model.told(replace(condition, perturbation=torch.zeros(2, 1, dtype=torch.int64)))
    assert not torch.allclose(first, control)


@pytest.mark.parametrize("set_loss", ["energy", "none"])
def test_the_mean_of_a_set_is_drawn_to_the_shift_of_its_condition(told, set_loss):
    model, batch = told(set_loss=set_loss)
    shift = network(model, batch).mean(1) - batch["control"].mean(1)
    error = model(TrainingBatch(**batch, shift=shift + 0.5, trust=torch.tensor([1.0, 0.0])))["shift"]
    assert 0 < error < 1
    without = model(TrainingBatch(**batch, shift=shift + 0.5, trust=torch.zeros(2)))["shift"]
    assert without == 0


def test_the_network_corrects_the_linear_start_and_its_share_is_that_of_the_corrections(told):
    model, batch = told()
    start, half, whole = (
        model.predict(batch["control"], batch["mask"], batch["condition"], batch["key"], network_share=share)
        for share in (0.0, 0.5, 1.0)
    )
    moved = model.started(batch["control"], batch["condition"], 1.0)
    torch.testing.assert_close(start, moved.clamp(0, model.expression_decoder.ceiling))
    inside = (whole > 0) & (half > 0) & (start > 0) & (whole < model.expression_decoder.ceiling)
    torch.testing.assert_close(half[inside], ((start + whole) / 2)[inside], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(whole[inside], start[inside])


def test_training_starts_at_the_linear_start(told):
    model, batch = told(awake=False)
    with torch.no_grad():
        model.expression_decoder.to_genes.weight.zero_()
    moved = model.started(batch["control"], batch["condition"], 1.0).clamp(0, model.expression_decoder.ceiling)
    torch.testing.assert_close(network(model, batch), moved, atol=1e-5, rtol=1e-5)


def test_what_training_asks_for_is_as_far_from_the_cells_it_shows_as_perturbed_cells_are_from_others(told):
    model, batch = told()
    base = torch.randn(2, 20, generator=torch.Generator().manual_seed(3))
    moved = batch | {"perturbed": batch["perturbed"] - base[:, None]}
    asked = model(TrainingBatch(**batch, base=base))
    torch.testing.assert_close(asked["loss"], model(TrainingBatch(**moved))["loss"])
    assert not torch.allclose(asked["loss"], model(TrainingBatch(**batch))["loss"])
