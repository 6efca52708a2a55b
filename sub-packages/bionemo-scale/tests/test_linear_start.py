"""Starting from control cells moved by what the perturbation did elsewhere."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bionemo.scale.linear_start.apply import LinearStart, interaction_rank, move_cells, rows_of
from bionemo.scale.linear_start.evidence import Shown
from bionemo.scale.linear_start.fit import Fit
from bionemo.scale.linear_start.fitted import FittedLinearStart
from bionemo.scale.linear_start.fold_change import to_fold
from bionemo.scale.linear_start.interaction import interactions, share_no_batch
from bionemo.scale.linear_start.new_rows import Observed, new_row
from bionemo.scale.linear_start.zero_shot import effects_from_embeddings
from bionemo.screens.controls import ControlRole

G, CONTEXTS = 20, ["A", "B", "C", "D"]
LABELS = ["ctrl", *(f"p{i}" for i in range(1, 9))]


def screen(noise: float = 0.0, held_out: tuple = ()) -> SimpleNamespace:
    """Condition means that are an effect and a context's common shift, with some noise.

    Genes are high, where a shift of log1p and one of the fold change are the same.
    """
    rng = np.random.default_rng(0)
    effect, common = rng.normal(size=(len(LABELS), G)), rng.normal(size=(len(CONTEXTS), G))
    control = {k: 14 + rng.normal(size=G) for k in range(len(CONTEXTS))}
    delta = {
        (k, p): effect[p] + common[k] + noise * rng.normal(size=G)
        for k in range(len(CONTEXTS))
        for p in range(1, len(LABELS))
        if (k, p) not in held_out
    }
    return SimpleNamespace(
        control={role: dict(control) for role in (ControlRole.INPUT, ControlRole.TARGET)},
        control_noise={ControlRole.TARGET: {k: np.zeros(G) for k in range(len(CONTEXTS))}},
        delta=delta,
        mean={(k, p): np.maximum(control[k] + shift, 0) for (k, p), shift in delta.items()},
        cells=dict.fromkeys(delta, 200),
        batches={p: {0} for p in range(1, len(LABELS))},
        noise=dict.fromkeys(delta, np.full(G, noise**2)),
        truth=lambda k, p: effect[p] + common[k],
    )


@pytest.fixture
def names(vocabulary):
    return replace(
        vocabulary, contexts=tuple(CONTEXTS), perturbations=tuple(LABELS), start_labels=tuple(LABELS[1:]), batches=()
    )


def fitted(means, names) -> FittedLinearStart:
    return FittedLinearStart(means, CONTEXTS, LABELS, names)


def shares(fit: FittedLinearStart) -> np.ndarray:
    return fit.buffers()["linear_start.shares"].double().numpy()


class Alone(Fit):
    """Without the interaction."""

    interacts = False


def shift(start: LinearStart, labels, contexts, mean, names) -> torch.Tensor:
    return start.shift(start.features(labels, torch.tensor(contexts), mean, names))[0]


def model_of(fit: FittedLinearStart, names) -> LinearStart:
    start = LinearStart(names)
    start.load_state_dict({name.removeprefix("linear_start."): value for name, value in fit.buffers().items()})
    return start


def test_additive_effects_are_recovered_in_a_context_that_did_not_show_them(names):
    held_out = ((0, 1), (0, 2))
    means = screen(held_out=held_out)
    fit = fitted(means, names)
    for condition in held_out:
        correlation = np.corrcoef(fit.delta(*condition).numpy(), means.truth(*condition))[0, 1]
        assert correlation > 0.95
    plain = np.mean([means.delta[k, 1] for k in (1, 2, 3)], axis=0)
    assert np.corrcoef(plain, means.truth(0, 1))[0, 1] < 0.8


def test_what_is_known_of_a_training_condition_is_of_others_only(names):
    means = screen()
    before = FittedLinearStart(means, CONTEXTS, LABELS, names, evidence=True)
    own, other = before.features(2, 3), before.features(1, 3)
    means.mean[2, 3] = means.mean[2, 3] + 100.0
    solved = shares(before), np.eye(1, G)
    kind = type("SharesOfBefore", (Fit,), {"_solve": lambda self: solved})
    after = FittedLinearStart(means, CONTEXTS, LABELS, names, evidence=True, fit=kind)
    torch.testing.assert_close(after.features(2, 3), own, atol=1e-3, rtol=1e-3)  # kept in half precision
    assert not torch.allclose(after.features(1, 3), other)


def test_a_perturbation_that_one_context_shows_is_told_as_other_contexts_will_be(names):
    """Else a network would learn the whole effect, and add it where the start has it already."""
    held_out = tuple((k, 3) for k in (0, 1, 3))
    fit = FittedLinearStart(screen(held_out=held_out), CONTEXTS, LABELS, names, evidence=True)
    here, elsewhere = (fit.features(k, 3)[:3].sum(0) for k in (2, 1))
    torch.testing.assert_close(here, elsewhere, atol=1e-2, rtol=1e-2)
    assert here.abs().mean() > 0.1


def test_the_model_says_of_a_held_out_condition_what_its_training_says_of_others(names):
    """A screen without noise: what is known without a condition is what is known where it is held out."""
    means, without = screen(), screen(held_out=((2, 3),))
    kept = FittedLinearStart(means, CONTEXTS, LABELS, names, evidence=True).features(2, 3)
    held_out = FittedLinearStart(without, CONTEXTS, LABELS, names, evidence=True).features(2, 3)
    same = [0, 1, 2, 3, 6, 7]  # the pull is of all contexts, and the basis of interactions of what was shown
    torch.testing.assert_close(kept[:3].sum(0), held_out[:3].sum(0), atol=0.05, rtol=0.01)
    torch.testing.assert_close(kept[same[3:]], held_out[same[3:]], atol=0.02, rtol=0.01)


def with_noisy_controls(noise: float, expected: float) -> tuple[SimpleNamespace, dict]:
    """A screen whose control means have noise of their own in each role, and that noise by role and context."""
    rng, means = np.random.default_rng(1), screen()
    wrong = {role: {k: noise * rng.normal(size=G) for k in range(len(CONTEXTS))} for role in means.control}
    for role, of_context in means.control.items():
        of_context.update({k: mean + wrong[role][k] for k, mean in of_context.items()})
    means.control_noise = {ControlRole.TARGET: {k: np.full(G, expected**2) for k in range(len(CONTEXTS))}}
    return means, wrong


def noise_asked_for(fit: FittedLinearStart, means: SimpleNamespace, wrong: dict) -> tuple[float, float]:
    """How much of the noise of control cells is in the shifts that training asks for, of the roles input and target."""
    errors = np.concatenate([fit.observed(k, p)[0].numpy() - means.truth(k, p) for k, p in means.mean])
    of_input, of_target = (
        -np.concatenate([wrong[role][k] for k, _ in means.mean]) for role in (ControlRole.INPUT, ControlRole.TARGET)
    )
    return float(errors @ of_input / (of_input @ of_input)), float(errors @ of_target / (of_target @ of_target))


def test_the_shift_that_training_asks_for_has_no_noise_of_the_cells_that_evidence_is_made_of(names):
    means, wrong = with_noisy_controls(noise=0.3, expected=0.0)
    of_input, of_target = noise_asked_for(fitted(means, names), means, wrong)
    assert abs(of_input) < 0.2
    assert of_target > 0.8


def test_noise_that_all_shifts_of_a_context_share_is_taken_from_what_training_asks_for(names):
    means, wrong = with_noisy_controls(noise=0.3, expected=0.3)
    fit = fitted(means, names)
    assert abs(noise_asked_for(fit, means, wrong)[1]) < 0.5
    from_input = means.mean[1, 2] - means.control[ControlRole.INPUT][1]
    np.testing.assert_allclose(fit.observed(1, 2)[0], from_input - fit.base_KG[1].numpy(), atol=1e-5)


def interacting(held_out: tuple) -> SimpleNamespace:
    """A screen of two families, each of which does something else in every context beside what it does everywhere."""
    means, rng = screen(held_out=held_out), np.random.default_rng(3)
    family, deviation = rng.normal(size=(2, G)), rng.normal(size=(len(CONTEXTS), 2, G))
    for k, p in means.mean:
        means.mean[k, p] = 14 + 3 * family[p % 2] + deviation[k, p % 2]
        means.mean[k, p] += 0.3 * np.random.default_rng(p).normal(size=G)
    for role in means.control:
        means.control[role] = {k: np.full(G, 14.0) for k in range(len(CONTEXTS))}
    means.deviation = lambda k, p: 3 * family[p % 2] + deviation[k, p % 2]
    return means


def test_what_similar_perturbations_do_here_and_not_elsewhere_is_predicted(names):
    held_out = ((0, 1), (2, 4), (3, 6))
    means = interacting(held_out)
    without = FittedLinearStart(means, CONTEXTS, LABELS, names, fit=Alone)
    fit = fitted(means, names)
    assert shares(fit)[5] > 0.5

    def error(start: FittedLinearStart) -> float:
        return float(np.mean([np.square(start.delta(*c).numpy() - means.deviation(*c)).mean() for c in held_out]))

    assert error(fit) < 0.5 * error(without)


def test_perturbations_of_the_same_batch_are_no_neighbours_where_there_are_others():
    apart = share_no_batch([{0}, {0, 1}, {1}, {2}])
    assert apart.tolist() == [
        [False, False, True, True],
        [False, False, False, True],
        [True, False, False, True],
        [True, True, True, False],
    ]
    rows, rng = np.arange(20), np.random.default_rng(0)
    effect = np.abs(rng.normal(size=(20, G)))
    shown = Shown(
        rows=rows,
        weight=np.ones(20),
        delta=effect + np.where(rows < 10, 5.0, 0.0)[:, None],
        observed=effect,
        noise=effect,
        common=np.zeros(G),
        common_of_others=np.zeros((20, G)),
    )
    batches = share_no_batch([{row // 10} for row in rows])
    found = interactions(shown, effect, np.ones(20, dtype=bool), batches)
    assert np.abs(found[:10]).max() < 1e-9  # the other batch does the same here as elsewhere
    assert found[10:].min() > 4
    one_batch = interactions(shown, effect, np.ones(20, dtype=bool), share_no_batch([{0}] * 20))
    assert one_batch.min() > 1


def test_the_model_keeps_more_interactions_than_it_has_directions_for(vocabulary):
    """The directions that interactions have most of are kept, where there are more pairs than directions."""
    rng, contexts, labels, genes = np.random.default_rng(0), 12, 40, 300
    names = replace(
        vocabulary,
        genes=tuple(f"g{i}" for i in range(genes)),
        contexts=tuple(f"c{i}" for i in range(contexts)),
        perturbations=("ctrl", *(f"p{i}" for i in range(labels))),
        start_labels=tuple(f"p{i}" for i in range(labels)),
        batches=(),
    )
    pathways, loads = rng.normal(size=(6, genes)), rng.normal(size=(labels, 6))
    states = rng.normal(size=(contexts, 6))
    held_out = [(k, k + 1) for k in range(contexts)]
    delta = {
        (k, p + 1): (loads[p] * (2 + states[k])) @ pathways * 0.2 + 0.1 * rng.normal(size=genes)
        for k in range(contexts)
        for p in range(labels)
        if (k, p + 1) not in held_out
    }
    control = {k: np.full(genes, 14.0) for k in range(contexts)}
    means = SimpleNamespace(
        control=dict.fromkeys((ControlRole.INPUT, ControlRole.TARGET), control),
        control_noise={ControlRole.TARGET: {k: np.zeros(genes) for k in range(contexts)}},
        mean={(k, p): control[k] + shift for (k, p), shift in delta.items()},
        cells=dict.fromkeys(delta, 200),
        noise=dict.fromkeys(delta, np.full(genes, 0.01)),
        batches={p: {0} for p in range(1, labels + 1)},
    )
    fitted_to = means, list(names.contexts), list(names.perturbations), names
    fit, without = FittedLinearStart(*fitted_to), FittedLinearStart(*fitted_to, fit=Alone)
    truth = [(loads[p - 1] * (2 + states[k])) @ pathways * 0.2 for k, p in held_out]
    found = [np.corrcoef(fit.delta(*c).numpy(), t)[0, 1] for c, t in zip(held_out, truth, strict=True)]
    plain = [np.corrcoef(without.delta(*c).numpy(), t)[0, 1] for c, t in zip(held_out, truth, strict=True)]
    assert interaction_rank(names) == 256 < contexts * labels
    assert np.mean(found) > np.mean(plain)


def effects(fit: FittedLinearStart) -> torch.Tensor:
    parts, shares = (fit.buffers()[f"linear_start.{name}"] for name in ("parts", "shares"))
    return torch.tensordot(parts[:-1], shares[:3], dims=([1], [0]))


def test_noisy_effects_shrink(names):
    def kept(noise: float) -> float:
        means = screen(noise)
        plain = np.array([np.mean([means.delta[k, p] for k in range(4)], axis=0) for p in range(1, 9)])
        effect = effects(fitted(means, names))
        return float(effect.norm()) / np.linalg.norm(plain - plain.mean(axis=0))

    assert kept(0.01) > 0.9
    assert kept(3.0) < 0.6


def test_an_own_effect_no_larger_than_its_noise_is_dropped(names):
    means = screen()
    for label in range(1, 9):
        means.noise.update({(k, label): np.full(G, 1e6) for k in range(4)})
    fit = fitted(means, names)
    rows = effects(fit)
    # What is left lies in the directions that other perturbations share, three of them for eight labels.
    others = np.stack([np.mean([means.delta[k, p] for k in range(4)], axis=0) for p in range(2, 9)])
    directions = np.linalg.svd(others - others.mean(axis=0), full_matrices=False)[2][:3]
    row = rows[0].double().numpy()
    np.testing.assert_allclose(row, row @ directions.T @ directions, atol=1e-4)


def test_the_model_and_its_training_sets_start_held_out_conditions_alike(names):
    means = screen(noise=0.5, held_out=((0, 1), (3, 8)))
    fit = fitted(means, names)
    middle = torch.stack([fit.control_mean(0), fit.control_mean(3), fit.control_mean(0)])
    delta = shift(model_of(fit, names), ["p1", "p8", "ctrl"], [0, 3, 0], middle, names)
    torch.testing.assert_close(delta, torch.stack([fit.delta(0, 1), fit.delta(3, 8), torch.zeros(G)]))


def test_a_context_and_a_perturbation_never_shown_get_what_all_have_in_common(names):
    means = screen()
    with_new = replace(names, embedded=("new",))
    fit = fitted(means, with_new)
    start = model_of(fit, with_new)
    middle = torch.from_numpy(np.mean([means.control[ControlRole.INPUT][k] for k in range(4)], axis=0)).float()[None]
    new = shift(start, ["new"], [-1], middle, with_new)
    everything = np.mean([means.delta[k, p] for k in range(4) for p in range(1, 9)], axis=0)
    torch.testing.assert_close(new[0].double(), torch.from_numpy(shares(fit)[3] * everything), atol=1e-4, rtol=1e-4)


def test_one_perturbation_in_every_context_is_the_plain_transfer_shrunk(vocabulary):
    names = replace(vocabulary, contexts=("A", "B", "C"), perturbations=("ctrl", "p1"), start_labels=("p1",))
    means = screen(held_out=tuple((k, p) for k in range(4) for p in range(1, 9) if p > 1 or k == 3))
    fit = FittedLinearStart(means, CONTEXTS, LABELS[:2], names)
    delta = shift(model_of(fit, names), ["p1"], [-1], fit.control_mean(3)[None], names)
    torch.testing.assert_close(delta[0], fit.delta(3, 1))
    plain = np.mean([means.delta[k, 1] for k in range(3)], axis=0)
    control = means.control[ControlRole.INPUT]
    pull = np.mean([control[k] for k in range(3)], axis=0) - control[3]
    expected = shares(fit)[0] * plain + shares(fit)[4] * pull
    torch.testing.assert_close(delta[0].double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


def test_combinations_and_doses_are_made_of_what_was_shown_alone(vocabulary):
    names = replace(
        vocabulary,
        perturbations=("ctrl", "A", "B", "C"),
        start_labels=("A", "B+1uM", "B+10uM", "A+C"),
    )
    assert rows_of("A", names) == [[(0, 1.0)]]
    assert rows_of("A+C", names) == [[(3, 1.0)]]
    assert rows_of("A+C", names, without=("A+C",)) == [[(0, 1.0)], [(4, 1.0)]]
    assert rows_of("A+B", names) == [[(0, 1.0)], [(1, 0.5), (2, 0.5)]]
    assert rows_of("B+100nM", names) == [[(1, 1.0)]]
    assert rows_of("B+30uM", names) == [[(2, 1.0)]]
    assert rows_of("A+B+10uM", names) == [[(0, 1.0)], [(2, 1.0)]]


def test_a_series_of_doses_follows_a_curve_through_the_trained_ones(names):
    """Between two doses of training nothing jumps, also at the labels that were trained."""
    labels = ["ctrl", *(f"p{i}+{dose}uM" for i in range(1, 5) for dose in (1, 10))]
    means = screen()
    dosed = replace(names, perturbations=("ctrl", "p1", "p2", "p3", "p4"), start_labels=tuple(labels[1:]))
    start = model_of(FittedLinearStart(means, CONTEXTS, labels, dosed), dosed)
    middle = torch.from_numpy(means.control[ControlRole.INPUT][0]).float()[None]

    def at(dose: float) -> torch.Tensor:
        return shift(start, [f"p2+{dose:.6g}uM"], [0], middle, dosed)[0]

    series = torch.stack([at(dose) for dose in np.geomspace(1, 10, 41)])
    whole = (series[-1] - series[0]).abs().max()
    assert whole > 0.5
    assert (series[1:] - series[:-1]).abs().max() < 1.5 * whole / 40
    assert torch.equal(series[0], shift(start, ["p2+1uM"], [0], middle, dosed)[0])
    torch.testing.assert_close(at(20), series[-1])
    torch.testing.assert_close(at(0.1), series[0])


def test_moved_cells_have_the_mean_that_was_asked_for_and_keep_their_zeros():
    torch.manual_seed(0)
    cells = torch.randn(1, 500, 6).relu()
    mean = cells.mean(1)
    delta = torch.tensor([[-0.3, -0.1, 0.0, 0.2, 1.0, -9.0]])
    moved = move_cells(cells, delta, mean)
    torch.testing.assert_close(moved.mean(1), (mean + delta).clamp(min=0), atol=1e-5, rtol=0)
    down = delta[0] <= 0
    assert (moved[..., down][cells[..., down] == 0] == 0).all()
    torch.testing.assert_close(move_cells(cells, delta, mean, 0.25), 0.75 * cells + 0.25 * moved)


def test_start_and_network_are_mixed_by_the_share(build, sets, vocabulary):
    model = build(start="linear", names=replace(vocabulary, start_labels=("MYC", "TP53")))
    batch = sets(6, 4)
    model.linear_start.shares.copy_(torch.rand(6))
    features = torch.cat([torch.randn(2, 7, 20), to_fold(batch["control"].mean(1))[:, None]], dim=1)
    condition = replace(batch["condition"], evidence=features)
    answer = model.predict(batch["control"], batch["mask"], condition, batch["key"])
    expected = move_cells(batch["control"], *model.linear_start.shift(features))
    torch.testing.assert_close(answer, expected.clamp(0, model.expression_decoder.ceiling))
    model.network_share.fill_(0.25)
    mixed = model.predict(batch["control"], batch["mask"], condition, batch["key"])
    alone = build(names=model.vocabulary)
    alone.load_state_dict(model.state_dict(), strict=False)
    network = alone.predict(batch["control"], batch["mask"], batch["condition"], batch["key"], network_share=1.0)
    torch.testing.assert_close(
        model.predict(batch["control"], batch["mask"], condition, batch["key"], network_share=1.0), network
    )
    inside = (network > 0) & (answer > 0) & (mixed > 0)
    torch.testing.assert_close(mixed[inside], (0.75 * answer + 0.25 * network)[inside], atol=1e-5, rtol=1e-4)
    assert (network - answer).abs().max() > 1e-3


def test_a_model_in_bf16_predicts_what_it_predicts_in_float32(build, sets, vocabulary):
    model = build(start="linear", names=replace(vocabulary, start_labels=("MYC", "TP53")))
    batch = sets(6, 4)
    features = torch.cat([torch.randn(2, 7, 20), to_fold(batch["control"].mean(1))[:, None]], dim=1)
    given = batch["control"], batch["mask"], replace(batch["condition"], evidence=features), batch["key"], 0.5
    expected = model.predict(*given)
    torch.testing.assert_close(model.bfloat16().predict(*given), expected, atol=0.05, rtol=0.05)


def test_a_perturbation_that_has_only_an_embedding_gets_the_effect_it_says(names):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(len(LABELS) + 1, 3))
    map_to_genes = rng.normal(size=(3, G))
    means = screen()
    for (context, label), delta in list(means.delta.items()):
        means.delta[context, label] = 0.1 * delta + vectors[label] @ map_to_genes
        means.mean[context, label] = means.control[ControlRole.INPUT][context] + means.delta[context, label]
    means.noise = dict.fromkeys(means.noise, np.zeros(G))
    with_new = replace(names, embedded=("new",), embedding_size=3)
    fit = FittedLinearStart(means, CONTEXTS, LABELS, with_new, vectors)
    delta = shift(model_of(fit, with_new), ["new"], [0], fit.control_mean(0)[None], with_new)[0].numpy()
    average = np.mean([means.delta[0, label] for label in range(1, 9)], axis=0)
    truth = average + (vectors[-1] - vectors[1:-1].mean(axis=0)) @ map_to_genes
    assert np.corrcoef(delta, truth)[0, 1] > 0.8
    assert np.corrcoef(delta, truth)[0, 1] > np.corrcoef(average, truth)[0, 1] + 0.05


def test_embeddings_that_say_nothing_give_no_effect():
    rng = np.random.default_rng(2)
    predicted = effects_from_embeddings(rng.normal(size=(40, 5)), rng.normal(size=(40, G)), rng.normal(size=(6, 5)))
    assert np.abs(predicted).max() < 0.2


def test_the_shift_of_a_scarce_gene_is_a_fold_change(vocabulary):
    """Half of the counts in two contexts is half of them in a third, where the gene is three times as frequent."""
    genes = vocabulary.genes[:2]
    names = replace(
        vocabulary, genes=genes, contexts=("A", "B"), perturbations=("ctrl", "p1"), start_labels=("p1",), batches=()
    )
    control = {0: np.log1p([2.0, 8.0]), 1: np.log1p([2.2, 8.0]), 2: np.log1p([6.0, 8.0])}
    delta = {(k, 1): np.log1p(np.expm1(control[k]) / 2) - control[k] for k in (0, 1)}
    means = SimpleNamespace(
        control={role: control for role in (ControlRole.INPUT, ControlRole.TARGET)},
        control_noise={ControlRole.TARGET: dict.fromkeys(control, np.full(2, 1e-6))},
        mean={(k, p): control[k] + shift for (k, p), shift in delta.items()},
        cells=dict.fromkeys(delta, 1000),
        batches={1: {0}},
        noise=dict.fromkeys(delta, np.full(2, 1e-6)),
    )
    fit = FittedLinearStart(means, ["A", "B", "C"], ["ctrl", "p1"], names)
    moved = shift(model_of(fit, names), ["p1"], [-1], fit.control_mean(2)[None], names)[0]
    torch.testing.assert_close(moved, fit.delta(2, 1))
    predicted = np.expm1(control[2] + moved.double().numpy())
    added = np.expm1(control[2] + np.mean([delta[k, 1] for k in (0, 1)], axis=0))
    truth = np.array([3.0, 4.0])
    assert np.abs(predicted - truth).max() < 0.35
    assert abs(added[0] - truth[0]) > 2 * abs(predicted[0] - truth[0])


def test_a_shift_below_nothing_ends_at_nothing(names):
    means = screen()
    model = model_of(fitted(means, names), names)
    model.parts -= 50.0
    middle = torch.full((1, G), 0.5)
    delta = shift(model, ["p1"], [0], middle, names)
    torch.testing.assert_close(delta, -middle)


def test_thousands_of_combinations_are_found_among_thousands_of_labels(vocabulary):
    """The labels of training are taken apart once: once a combination would take a minute here."""
    labels = tuple(f"p{i}" for i in range(4_000))
    names = replace(vocabulary, perturbations=("ctrl", *labels), start_labels=labels)
    started = time.perf_counter()
    found = [rows_of(f"p{i}+p{i + 1}", names) for i in range(3_999)]
    assert found[7] == [[(7, 1.0)], [(8, 1.0)]]
    assert time.perf_counter() - started < 5


def test_a_new_perturbation_shown_in_one_context_is_as_well_known_as_one_that_was_trained_on(names):
    """Left out of the fit altogether, and shown in context 1: its shifts elsewhere are those of a fit that had them."""
    unseen = tuple((k, 8) for k in range(4))
    trained_on = screen(noise=0.1, held_out=((0, 8), (2, 8), (3, 8)))
    without = screen(noise=0.1, held_out=unseen)
    known = replace(names, start_labels=names.start_labels[:-1])
    with_p8, start = model_of(fitted(trained_on, names), names), model_of(fitted(without, known), known)
    control = trained_on.control[ControlRole.INPUT][1]
    shown = Observed(mean=trained_on.mean[1, 8], noise=trained_on.noise[1, 8], control=control, cells=200)
    row = new_row(start, {"B": shown}, known)
    told = model_of(fitted(without, known), known)
    for table, values in row.items():
        place = (slice(None), -1) if table == "interaction" else (-1,)  # in the row of what nothing is known of
        told.get_buffer(table)[place] = values
    correlations = []
    for context in (0, 2, 3):
        mean = torch.from_numpy(without.control[ControlRole.INPUT][context]).float()[None]
        truth = trained_on.truth(context, 8)
        correlations.append(
            [
                np.corrcoef(shift(model, ["p8"], [context], mean, vocabulary)[0].numpy(), truth)[0, 1]
                for model, vocabulary in ((with_p8, names), (told, known), (start, known))
            ]
        )
    as_trained, as_told, as_unseen = np.mean(correlations, axis=0)
    assert as_told > as_trained - 0.02
    assert as_told > as_unseen + 0.2
