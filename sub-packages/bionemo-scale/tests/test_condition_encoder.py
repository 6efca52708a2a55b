"""Conditions of several perturbations, with doses and supplied embeddings."""

from dataclasses import replace

import pytest
import torch

from bionemo.scale.config.model import PerturbationTokens

ABSENT = [-1, -1]


@pytest.fixture(scope="module")
def embedded(vocabulary):
    """A vocabulary with two more perturbations, known by their embeddings alone."""
    return replace(vocabulary, embedded=("E2F1", "SOX2"), embedding_size=3)


@pytest.fixture
def encoder_of(build, embedded):
    def make(tokens: PerturbationTokens):
        encoder = build(names=embedded, perturbation_tokens=tokens, hidden_size=16).condition_encoder
        if tokens is not PerturbationTokens.LEARNED:
            torch.manual_seed(5)
            encoder.perturbation.embedding.copy_(torch.randn(5, 3))
            encoder.perturbation.embedding[0] = 0
        return encoder

    return make


def test_a_combination_has_no_order_and_padding_means_nothing(build, condition_of):
    encoder = build().condition_encoder
    encoded, attention = encoder(condition_of([[1, 2, -1], [2, 1, -1], [1, -1, -1]], [0] * 3, [*ABSENT, -1]))
    torch.testing.assert_close(encoded[0], encoded[1])
    assert not torch.allclose(encoded[0], encoded[2])
    torch.testing.assert_close(encoded[2:], encoder(condition_of([1], [0], [-1]))[0])
    assert attention.shape == (3, 4, 5)
    assert attention[2, :, 1:3].abs().max() == 0


def test_mean_pooling_gives_every_token_the_same_weight(build, condition_of):
    encoder = build(condition_pooling="mean").condition_encoder
    _, attention = encoder(condition_of([[1, 2], [1, -1]], [0, 0], ABSENT))
    torch.testing.assert_close(attention[:, 0], torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0], [1 / 2, 0, 1 / 2, 0]]))


def test_the_dose_moves_the_token_and_none_leaves_it(build, vocabulary, condition_of):
    model = build(names=replace(vocabulary, dose_unit="uM", log_dose=(0.0, 1.0)))
    plain = condition_of([1, 1, 1], [0] * 3, [-1] * 3)
    dosed = replace(plain, dose=torch.tensor([[torch.nan], [0.5], [-1.0]]))
    without, given = (model.condition_encoder(condition)[0] for condition in (plain, dosed))
    assert torch.equal(given[0], without[0])
    assert not torch.allclose(given[1], without[1])
    assert not torch.allclose(given[1], given[2])


@pytest.mark.parametrize("kind", ["embedding", "both"])
def test_an_embedding_stands_for_a_perturbation_never_trained(encoder_of, condition_of, kind):
    encoder = encoder_of(PerturbationTokens(kind))
    unseen = condition_of([3, 4], ABSENT, ABSENT)
    first, second = encoder(unseen)[0]
    assert not torch.allclose(first, second)
    with torch.no_grad():
        encoder.perturbation.learned.weight[1:] += 1
    assert torch.equal(encoder(unseen)[0], torch.stack([first, second]))


def test_tokens_of_both_kinds_add_up_and_the_learned_part_can_be_hidden(encoder_of):
    tokens = encoder_of(PerturbationTokens.BOTH).perturbation
    rows, none = torch.tensor([[0], [1], [3]]), torch.full((3, 1), torch.nan)
    whole = tokens(rows, none)[:, 0]
    hidden = tokens(rows, none, torch.ones(3, dtype=torch.bool))[:, 0]
    torch.testing.assert_close(whole - hidden, torch.stack([whole[0] * 0, tokens.learned.weight[1], whole[2] * 0]))
    # The control label has no embedding: its learned token stays.
    torch.testing.assert_close(hidden[0], tokens.learned.weight[0])


def test_gradients_reach_both_parts_of_a_token(encoder_of, condition_of):
    encoder = encoder_of(PerturbationTokens.BOTH)
    encoder(condition_of([[1, 3]], [0], [0]))[0].sum().backward()
    assert encoder.perturbation.project.weight.grad.any()
    assert encoder.perturbation.learned.weight.grad[1].any()
