"""What the model promises whatever its weights are, and that it learns."""

from dataclasses import replace

import pytest
import torch

from bionemo.scale.config.model import Head, Pairing, Source
from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.data.condition import Condition
from bionemo.scale.flow.noise import SetNoise, set_noise
from bionemo.scale.flow.reduce import over_cells
from bionemo.scale.layers.linear import product
from bionemo.scale.model import scale_model


def first(condition: Condition, keep) -> Condition:
    parts = {name: value[keep] for name, value in vars(condition).items() if value is not None}
    return Condition(**parts)


def predicted(model, batch: dict) -> torch.Tensor:
    return model.predict(batch["control"], batch["mask"], batch["condition"], batch["key"])


def train(model, batch: dict, steps: int, rate: float = 1e-2) -> list[dict]:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    history = []
    for _ in range(steps):
        terms = model(TrainingBatch(**batch))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        history.append({name: value.item() for name, value in terms.items()})
    return history


@pytest.mark.parametrize("steps", [1, 3])
def test_permuting_the_cells_of_a_set_permutes_its_predictions(build, sets, steps):
    model, batch = build(source="control", solver_steps=steps), sets(6, 6, 4)
    order = torch.tensor([2, 0, 3, 1, 5, 4])
    shuffled = dict(batch, control=batch["control"][:, order], mask=batch["mask"][:, order])
    torch.testing.assert_close(predicted(model, shuffled), predicted(model, batch)[:, order], atol=1e-5, rtol=0)


def test_transport_is_equivariant_from_any_source(build):
    model, order = build(), torch.randperm(7)
    z_t, z0, condition, t = torch.randn(2, 7, 16), torch.randn(2, 7, 16), torch.randn(2, 16), torch.tensor([0.0, 0.4])
    mask = torch.ones(2, 7, dtype=torch.bool)
    moved = model.transport(z_t[:, order], t, condition, z0[:, order], mask)
    torch.testing.assert_close(moved, model.transport(z_t, t, condition, z0, mask)[:, order], atol=1e-5, rtol=0)


def test_cells_of_a_set_see_each_other(build, sets):
    model, batch = build(source="control"), sets(6)
    other = batch["control"].clone()
    other[:, 5] += 1
    change = predicted(model, dict(batch, control=other)) - predicted(model, batch)
    assert change[:, :5].abs().max() > 1e-4


def test_the_summary_of_a_set_has_no_order_and_no_padding(build):
    across = build().encoder.across_cells
    h, order = torch.randn(2, 6, 16), torch.randperm(6)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    summary = across.summary(h, mask)
    torch.testing.assert_close(across.summary(h[:, order], mask[:, order]), summary)
    dirty = torch.where(mask[..., None], h, torch.full_like(h, 9.0))
    assert torch.equal(across.summary(dirty, mask), summary)
    assert across.summary(h, torch.zeros_like(mask)).abs().max() == 0


@pytest.mark.parametrize("pairing", Pairing)
def test_padding_changes_neither_predictions_nor_losses(build, sets, pairing):
    model = build(source="control", pairing=pairing)
    tight, loose = sets(6, 4), sets(6, 4, padded_to=11)
    for name in ("control", "perturbed"):
        loose[name][:, :6] = tight[name]
        loose[name][~loose["mask"]] = 5.0
    torch.testing.assert_close(
        predicted(model, loose)[loose["mask"]], predicted(model, tight)[tight["mask"]], atol=1e-5, rtol=0
    )
    for name, value in model(TrainingBatch(**tight)).items():
        torch.testing.assert_close(model(TrainingBatch(**loose))[name], value, atol=1e-5, rtol=1e-4)


def test_sets_that_are_known_to_be_full_attend_without_a_mask_and_have_the_same_losses(build, sets):
    model, batch, masks = build(), TrainingBatch(**sets(6, 6)), []
    for block in (model.transport.blocks.block_1, model.transport.blocks.block_2):
        block.attention.core_attention.register_forward_pre_hook(lambda _, given: masks.append(given[3]))
    masked, full = (model(replace(batch, full=full)) for full in (False, True))
    assert [mask is None for mask in masks] == [False, False, True, True]
    for name, value in masked.items():
        torch.testing.assert_close(full[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "full"),
    [({}, False), ({}, True), ({"set_loss": "mmd"}, False), ({"head": "negative_binomial", "set_loss": "none"}, False)],
    ids=str,
)
def test_a_training_step_reads_nothing_back_from_its_device(build, sets, monkeypatch, changes, full):
    """The device `meta` has no values that could be read."""
    monkeypatch.setattr(scale_model, "set_noise", noise_for_meta)
    batch = TrainingBatch(**sets(6, 6), full=full, library=torch.ones(2, 2, 6)).to(torch.device("meta"))
    model = build(gene_dropout=0.1, **changes).to("meta")
    model(batch)["loss"].backward()
    model = build(pairing=Pairing.OPTIMAL_TRANSPORT, **changes).to("meta")
    with pytest.raises(NotImplementedError, match="no data"):
        model(batch)


def noise_for_meta(*args, device: torch.device, **settings) -> SetNoise:
    noise = vars(set_noise(*args, device=torch.device("cpu"), **settings))
    return SetNoise(**{name: None if drawn is None else drawn.to(device) for name, drawn in noise.items()})


@pytest.mark.parametrize("keys", [4, 2], ids=["a key a query", "grouped queries"])
@pytest.mark.parametrize("padded", [0, 2])
def test_attention_in_bf16_is_that_in_float32(build, keys, padded):
    attend = build().transport.blocks.block_1.attention.core_attention
    query, key, value = (torch.randn(6, 2, heads, 8) for heads in (4, keys, keys))
    padding = torch.zeros(2, 1, 1, 6, dtype=torch.bool)
    padding[1, ..., 6 - padded :] = True
    exact = attend(query, key, value, padding)
    rounded = attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), padding)
    torch.testing.assert_close(rounded.float(), exact, atol=0.03, rtol=0)


@pytest.mark.parametrize("source", Source)
def test_an_untrained_model_predicts_the_control_cells(build, sets, source):
    model, batch = build(awake=False, source=source), sets(6, 4)
    valid = batch["mask"]
    torch.testing.assert_close(predicted(model, batch)[valid], batch["control"][valid], atol=1e-5, rtol=0)


def test_prediction_depends_on_the_noise_key_only_where_the_source_has_noise(build, sets):
    batch = sets(6, 4)
    other = dict(batch, key=batch["key"] + 1)
    for source, same in ((Source.CONTROL, True), (Source.MIXED, False), (Source.GAUSSIAN, False)):
        model = build(source=source)
        assert torch.equal(predicted(model, batch), predicted(model, other)) is same
        assert torch.equal(predicted(model, batch), predicted(model, batch))


def test_a_set_is_predicted_alike_alone_and_in_a_batch(build, sets):
    model, batch = build(), sets(6, 6)
    alone = {name: batch[name][1:] for name in ("control", "mask", "key")}
    alone["condition"] = first(batch["condition"], slice(1, None))
    torch.testing.assert_close(predicted(model, alone), predicted(model, batch)[1:], atol=1e-5, rtol=0)


def test_predictions_stay_within_what_counts_can_show(build, sets):
    model, batch = build(head=Head.REGRESSION), sets(6)
    with torch.no_grad():
        model.expression_decoder.gene_bias += torch.linspace(-20, 20, 20)
    answer = predicted(model, batch)
    assert answer.min() == 0
    assert answer.max().item() == pytest.approx(4.61512, abs=1e-4)  # log1p(100)


@pytest.mark.parametrize("sizes", [(6, 0), (0, 0)], ids=["one empty set", "all empty"])
@pytest.mark.parametrize("pairing", Pairing)
def test_empty_sets_leave_losses_and_gradients_finite(build, sets, sizes, pairing):
    model, batch = build(pairing=pairing), sets(*sizes, padded_to=6)
    terms = model(TrainingBatch(**batch))
    assert all(value.isfinite() for value in terms.values())
    terms["loss"].backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients)
    if not any(sizes):
        assert terms["loss"].item() == 0
        assert all(not g.any() for g in gradients)


def test_an_empty_set_adds_nothing_to_the_sum_over_sets(build, sets):
    model, batch = build(), sets(6, 4, 0)
    whole = model(TrainingBatch(**batch))
    part = {name: batch[name][:2] for name in ("control", "perturbed", "mask", "key")}
    part["condition"] = first(batch["condition"], slice(2))
    for name, value in model(TrainingBatch(**part)).items():
        torch.testing.assert_close(whole[name] * 3, value * 2)


def test_cells_without_a_single_count_are_finite(build, sets):
    model, batch = build(), sets(6, 4)
    batch["control"].zero_()
    batch["perturbed"].zero_()
    terms = model(TrainingBatch(**batch))
    terms["loss"].backward()
    assert all(value.isfinite() for value in terms.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert predicted(model, batch).isfinite().all()


def test_pooling_weights_sum_to_one_over_the_tokens_that_are_there(build, condition_of):
    encoder = build().condition_encoder
    asked = condition_of([0, 1, 2], [0, -1, -1], [1, 1, -1])
    condition, attention = encoder(asked)
    assert attention.shape == (3, 4, 3)
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 4))
    assert (attention > 0)[:, 0].tolist() == [[True, True, True], [True, False, True], [True, False, False]]
    with torch.no_grad():
        encoder.context.weight[0] += 3
        encoder.batch.weight[0] += 3
    moved, _ = encoder(asked)
    assert torch.equal(moved[1:], condition[1:])
    assert not torch.allclose(moved[0], condition[0])


def test_hidden_contexts_do_not_reach_the_losses(build, sets, condition_of):
    model, batch = build(context_dropout=1.0), sets(6, 4)
    told = model(TrainingBatch(**batch))["endpoint"]
    batch["condition"] = condition_of([0, 1], [-1, -1], [-1, -1])
    assert torch.equal(model(TrainingBatch(**batch))["endpoint"], told)


@pytest.fixture(scope="module")
def trained(build, condition_of):
    """A tiny model trained on two perturbations that raise one gene each, and a control set that maps to itself."""
    rng = torch.Generator().manual_seed(4)
    # The same control cells everywhere: nothing but the perturbation says which answer is right.
    control = torch.randn(1, 8, 20, generator=rng).relu().repeat(3, 1, 1)
    perturbed = control.flip(1).clone()
    perturbed[1, :, 0] += 2
    perturbed[2, :, 1] += 2
    batch = dict(
        control=control,
        perturbed=perturbed,
        mask=torch.ones(3, 8, dtype=torch.bool),
        condition=condition_of([0, 1, 2], [0, 0, 0], [0, 0, 0]),
        key=torch.arange(3),
    )
    model = build(awake=False, start_fraction=1.0)
    return model, batch, train(model, batch, 200, rate=5e-3)


def test_one_batch_can_be_learnt_by_heart(trained):
    _, _, history = trained
    for name in ("loss", "endpoint", "energy", "reconstruction"):
        assert history[-1][name] < 0.5 * history[0][name], (name, history[0][name], history[-1][name])


def test_a_perturbation_learns_its_own_effect(trained):
    model, batch, _ = trained
    effect = (predicted(model, batch) - batch["control"]).mean(1)
    assert effect[1, 0] > effect[[0, 2], 0].max() + 0.5
    assert effect[2, 1] > effect[:2, 1].max() + 0.5


def test_latents_are_shaped_by_reconstruction_alone(build, sets):
    # Endpoint gradients that reach the encoder pull all latents together.
    model, batch = build(reconstruction_weight=0.0), sets(6, 4)
    model(TrainingBatch(**batch))["loss"].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.encoder.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.transport.parameters())


def test_gradients_reach_every_parameter(build, sets, condition_of):
    model, batch = build(awake=False, context_dropout=0.0, solver_steps=2), sets(6, 4, 5)
    batch["condition"] = condition_of([0, 1, 2], [0, 1, 0], [0, 1, 1])
    # What starts at zero hides what lies behind it for a step, the gates of a block what lies behind them.
    train(model, batch, 3)
    model.zero_grad()
    model(TrainingBatch(**batch))["loss"].backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("genes", [16, 20])
def test_a_change_is_the_difference_of_two_decoded_latents(genes, build, vocabulary):
    decoder = build(names=replace(vocabulary, genes=vocabulary.genes[:genes])).expression_decoder
    z1, z0 = torch.randn(2, 2, 3, decoder.config.hidden_size)
    torch.testing.assert_close(decoder.change(z1, z0), decoder(z1) - decoder(z0), rtol=1e-4, atol=1e-5)
    assert decoder(z1).shape == (2, 3, genes)


def test_a_share_of_the_cells_is_reconstructed_and_all_are_encoded_alike(build, sets):
    batch = sets(20, 12, 5)
    whole, part = build(reconstruction_share=1.0), build(reconstruction_share=0.3)
    assert part.scale.reconstructed_cells(20) == 8
    terms, fewer = whole(TrainingBatch(**batch)), part(TrainingBatch(**batch))
    for name in ("endpoint", "energy"):
        torch.testing.assert_close(fewer[name], terms[name])
    first = {name: batch[name][:, :8] for name in ("control", "perturbed", "mask")}
    z0, z1 = (part.encoder(batch[name] - part.gene_mean, batch["mask"])[:, :8] for name in ("control", "perturbed"))
    expected = sum(
        over_cells((part.expression_decoder(z) + part.gene_mean - x).square(), first["mask"]).mean() / 2
        for z, x in ((z0, first["control"]), (z1, first["perturbed"]))
    )
    torch.testing.assert_close(fewer["reconstruction"], expected)


def test_gradients_of_a_share_are_those_of_the_cells_in_it(build, sets):
    """Without DeepSets, whose mean joins the cells of a set, the others could as well not be there."""
    batch = sets(16, 16)
    alone = {**batch, **{name: batch[name][:, :8] for name in ("control", "perturbed", "mask")}}
    changes = dict(deep_sets=False, set_loss="none", endpoint_weight=0.0)
    models = build(reconstruction_share=0.5, **changes), build(reconstruction_share=1.0, **changes)
    for model, given in zip(models, (batch, alone), strict=True):
        model(TrainingBatch(**given))["loss"].backward()
    for (name, ours), theirs in zip(models[0].encoder.named_parameters(), models[1].encoder.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 24)])
def test_products_without_a_gradient_are_those_with_one(bias):
    x, weight = torch.randn(2, 5, 40), torch.randn(24, 40)
    with torch.no_grad():
        found = product(x, weight, bias)
    torch.testing.assert_close(found, torch.nn.functional.linear(x, weight, bias), rtol=1e-5, atol=1e-5)
    weight.requires_grad_()
    product(x, weight, bias).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum((0, 1)).expand(24, 40), rtol=1e-4, atol=1e-4)


def test_where_the_network_share_is_0_the_network_is_not_asked(build, sets, monkeypatch):
    model, batch = build(), sets(6, 4)
    given = batch["control"], batch["mask"], batch["condition"], batch["key"]
    barely = model.predict(*given, network_share=1e-9)
    monkeypatch.delattr(model.encoder.within_cell, "project")
    torch.testing.assert_close(model.predict(*given, network_share=0.0), barely, atol=1e-6, rtol=0)
    with pytest.raises(AttributeError):
        model.predict(*given, network_share=0.5)
