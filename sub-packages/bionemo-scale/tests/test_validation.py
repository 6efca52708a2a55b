"""The score that checkpoints are chosen by, the average of weights, and which checkpoint predicts."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.data.condition import Condition
from bionemo.scale.model.weight_average import WeightAverage
from bionemo.scale.runs.directory import Best, RunDirectory
from bionemo.scale.runs.load import find_checkpoint, load_model
from bionemo.scale.training.callbacks.selection import Selection
from bionemo.scale.training.validation import NETWORK_SHARES, ConditionScores, Score
from bionemo.screens.errors import InputError

CPU = torch.device("cpu")


class Shift:
    """Stands in for a model: moves cells by a start and by a change of its own."""

    expression_decoder = SimpleNamespace(rates=None)

    def __init__(self, start, change):
        self.start, self.change = start, change

    def parameters(self):
        return iter([torch.zeros(1)])

    def predict(self, control, mask, condition, key, network_share):
        return control + (1 - network_share) * self.start + network_share * self.change


def scored(model, observed, shares=(1.0,), sizes=((3, 4), (3, 2), (5, 4)), moved=None):
    """The score of a model; the observed cells are moved as the first condition is if nothing else is said."""
    moved = moved or (lambda x: x + next(iter(observed.values())))
    scores = ConditionScores(observed, shares)
    for condition, cells in sizes:
        mask = torch.arange(4)[None] < cells
        control = torch.rand(1, 4, 10)
        row = torch.zeros(1, dtype=torch.int64)
        told = Condition(perturbation=row[:, None], dose=torch.zeros(1, 1), context=row, batch=row)
        cells = dict(control=control, perturbed=moved(control), mask=mask, key=torch.tensor([1]))
        scores.add(model, TrainingBatch(**cells, condition=told, place=torch.tensor([condition])))
    return scores.best(CPU)


def test_the_score_is_the_mean_correlation_of_deltas(groups):
    torch.manual_seed(0)
    observed, change = {3: torch.randn(10), 5: torch.randn(10)}, torch.randn(10)
    expected = sum(torch.corrcoef(torch.stack([change, delta]))[0, 1].item() for delta in observed.values()) / 2
    score = scored(Shift(torch.zeros(10), change), observed)
    assert score.pdcorr == pytest.approx(expected, abs=1e-5)
    assert score.network_share == 1.0


def test_a_condition_that_no_set_showed_and_one_that_is_not_asked_for_count_for_nothing(groups):
    torch.manual_seed(0)
    change = torch.randn(10)
    score = scored(Shift(torch.zeros(10), change), {3: change, 9: torch.randn(10)})
    assert score.pdcorr == pytest.approx(1.0, abs=1e-5)


def test_the_network_share_is_what_predicts_best(groups):
    torch.manual_seed(0)
    start, change = torch.randn(10), torch.randn(10)
    for share in NETWORK_SHARES:
        observed = dict.fromkeys((3, 5), (1 - share) * start + share * change)
        score = scored(Shift(start, change), observed, NETWORK_SHARES)
        # Two conditions chose it.
        assert (score.pdcorr, score.network_share) == (pytest.approx(1.0, abs=1e-3), pytest.approx(share * 2 / 3))


def test_a_share_is_drawn_to_0_the_more_the_fewer_conditions_chose_it(groups):
    torch.manual_seed(0)
    start, change = torch.zeros(10), torch.randn(10)
    for conditions, share in ((1, 1 / 2), (2, 2 / 3), (8, 8 / 9)):
        observed, sizes = dict.fromkeys(range(conditions), change), [(place, 4) for place in range(conditions)]
        score = scored(Shift(start, change), observed, NETWORK_SHARES, sizes)
        assert score.network_share == pytest.approx(share)


class OwnWay(Shift):
    """Moves each cell its own way, and on the mean as the start does."""

    def predict(self, control, mask, condition, key, network_share):
        own = self.start + self.change * torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
        return control + (1 - network_share) * self.start + network_share * own


def test_a_network_that_moves_each_kind_of_cell_its_own_way_is_seen(groups):
    torch.manual_seed(0)
    start, change = torch.randn(10), 5 * torch.randn(10)
    model, even = OwnWay(start, change), ((3, 4), (5, 4))
    score = scored(
        model, dict.fromkeys((3, 5), start), NETWORK_SHARES, even, moved=lambda x: model.predict(x, *4 * (1,))
    )
    assert (score.network_share, score.pdcorr) == (pytest.approx(2 / 3), pytest.approx(1.0, abs=1e-4))
    assert score.explained > 0.9
    # Those that were moved alike are told from them by their populations alone.
    score = scored(model, dict.fromkeys((3, 5), start), NETWORK_SHARES, even, moved=lambda x: x + start)
    assert (score.network_share, score.pdcorr) == (0.0, pytest.approx(1.0, abs=1e-4))


@pytest.fixture
def selection(tmp_path, groups):
    """A run that is told its scores, one each ten steps."""
    run = RunDirectory(tmp_path)
    training = TrainingConfig(max_steps=100, sets_per_batch=1, cells_per_set=1, validate_every=10, patience=3)
    callback, shares = Selection(run, training), []
    trainer = SimpleNamespace(callback_metrics={}, loggers=[], global_step=0, should_stop=False)

    def validate(score):
        trainer.global_step += 10
        scores = SimpleNamespace(best=lambda device: Score(pdcorr=score, explained=score, network_share=0.5))
        module = SimpleNamespace(
            scores=scores,
            model=SimpleNamespace(network_share=torch.zeros(1)),
            scale=SimpleNamespace(start="linear"),
            set_network_share=shares.append,
        )
        callback.on_validation_end(trainer, module)
        return run.best().step, trainer.should_stop

    return validate


def test_the_best_step_is_remembered_and_a_run_that_does_not_improve_ends(selection):
    told = [selection(score) for score in (0.2, 0.4, 0.3, 0.4, 0.1, 0.2, 0.3)]
    assert told == [(10, False), (20, False), (20, False), (40, False), (40, False), (40, False), (40, True)]


def test_the_average_of_weights_follows_them(build):
    live, average = build(), WeightAverage(build())
    start = live.gene_mean.clone()
    before = {name: p.clone() for name, p in average.model.named_parameters()}
    with torch.no_grad():
        for parameter in live.parameters():
            parameter += 1
        live.gene_mean += 1
    average.update(live, decay=0.9)
    kept = 2 / 11
    for name, parameter in average.model.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 1 - kept)
    assert torch.equal(average.model.gene_mean, start + 1)
    for _ in range(200):
        average.update(live, decay=0.9)
    torch.testing.assert_close(dict(average.model.named_parameters()), dict(live.named_parameters()), atol=1e-5, rtol=0)
    assert not any(p.requires_grad for p in average.parameters())
    average.bfloat16()
    assert {p.dtype for p in average.parameters()} == {torch.float32}


def test_the_best_checkpoint_predicts_and_another_can_be_named(build, record, save_weights, tmp_path):
    averaging = replace(record, training={**record.training, "average_decay": 0.9})
    run = RunDirectory(tmp_path / "run")
    run.start(averaging, write=True)
    models = {}
    for step in (10, 20):
        models[step] = build(seed=step)
        models[step].add_module("average", WeightAverage(build(seed=step + 1)))
        save_weights(models[step], run.checkpoints / f"step={step}" / "weights")
    assert load_model(run, CPU)[1] == 20
    run.mark_best(Best(step=10, metric="val_score", value=0.5, network_share=1.0))
    loaded, step = load_model(run, CPU)
    assert step == 10
    for name, value in models[10].average.model.state_dict().items():
        if value is not None:
            assert torch.equal(loaded.state_dict()[name], value), name
    named = find_checkpoint(run.checkpoints / "step=20")
    assert load_model(named[0], CPU, named[1])[1] == 20
    with pytest.raises(InputError, match="no whole checkpoint step=30; it has step=10, step=20"):
        load_model(run, CPU, run.checkpoints / "step=30")
    run.best_file.write_text("{")
    with pytest.raises(InputError, match=r"best\.json is damaged"):
        load_model(run, CPU)


def test_a_checkpoint_is_found_by_its_name_from_inside_checkpoints(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")
    (run.checkpoints / "step=2").mkdir(parents=True)
    for place, name in (
        (run.checkpoints, "step=2"),
        (run.checkpoints / "step=2", "."),
        (run.path, "checkpoints/step=2"),
    ):
        monkeypatch.chdir(place)
        for path in (name, Path(name)):
            found, checkpoint = find_checkpoint(path)
            assert found.path == run.path
            assert checkpoint in run.whole_checkpoints().values()
