"""Overrides on the command line, applied to a recipe without starting it."""

import pytest
import torch

from bionemo.scale.config.model import Source
from bionemo.scale.config.training import Precision, TrainingConfig
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.scale.nemo.finetune import FINETUNES
from bionemo.scale.nemo.overrides import configured
from bionemo.scale.nemo.pretrain import RECIPES
from bionemo.scale.training.pretrain import pretrain
from bionemo.screens.errors import InputError

WHERE = ["store=some/store", "split=split.toml", "out=runs/a run=1"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_built(recipe):
    task = configured(recipe, WHERE)
    assert task.func is pretrain
    assert task.keywords["store"] == "some/store"
    assert task.keywords["out"] == "runs/a run=1"


def test_overrides_change_what_they_name_and_nothing_else():
    plain = configured("scale_tiny", WHERE).keywords
    changed = configured(
        "scale_tiny",
        [
            *WHERE,
            *("model.hidden_size=128", "model.source=control", "model.start_fraction=1"),
            *("model.transfer=true", "model.gate=0.5", "training.separator=none", "embeddings=a/file.npz"),
            *("training.max_steps=50", "training.learning_rate=3e-4", "training.precision=bf16"),
        ],
    ).keywords
    assert changed["model"].hidden_size == 128
    assert changed["model"].source is Source.CONTROL
    assert changed["model"].start_fraction == 1
    assert (changed["model"].transfer, changed["model"].gate) == (True, 0.5)
    assert (changed["training"].separator, changed["embeddings"]) == ("none", "a/file.npz")
    assert changed["training"].max_steps == 50
    assert changed["training"].learning_rate == 3e-4
    assert changed["training"].precision is Precision.BF16
    assert changed["model"].num_layers == plain["model"].num_layers
    assert changed["training"].sets_per_batch == plain["training"].sets_per_batch
    assert configured("scale_tiny", WHERE).keywords == plain


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.max_stps=3", "no setting 'training.max_stps' .*did you mean 'training.max_steps'"),
        ("model.hiden_size=3", "no setting 'model.hiden_size' .*did you mean 'model.hidden_size'"),
        ("max_steps=3", "no setting 'max_steps' .*did you mean 'training.max_steps'"),
        ("model=3", "no setting 'model'"),
        ("xyz=3", "no setting 'xyz': there are store, split, out, model.*"),
        ("training.max_steps", "is not of the form key=value"),
        ("training.max_steps=many", "training.max_steps takes int, not 'many'"),
        ("training.max_steps=1.5", "training.max_steps takes int, not '1.5'"),
        ("training.learning_rate=fast", "training.learning_rate takes float, not 'fast'"),
        ("model.source=noise", "source='noise' is not one of control, gaussian, mixed"),
        ("model.gate=much", "model.gate takes .*float.*, not 'much'"),
        ("model.gate=1.5", "gate=1.5 is outside"),
        ("training.precision=fp8", "precision='fp8' is not one of fp32, bf16"),
        ("model.num_attention_heads=3", "num_query_groups=2 does not divide num_attention_heads=3"),
    ],
)
def test_a_wrong_override_is_one_sentence(override, message):
    with pytest.raises(InputError, match=message) as refused:
        configured("scale_tiny", [*WHERE, override])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("recipe", "millions"), [("scale_small", 2.7), ("scale_184m", 184), ("scale_280m", 280)])
def test_the_weights_of_a_size_are_near_its_name(groups, recipe, millions):
    genes = tuple(map(str, range(2000)))
    names = Vocabulary(
        genes=genes, contexts=("A",), perturbations=("ctrl", "X"), batches=(), control="ctrl", kind="counts",
        target_sum=1e4,
    )  # fmt: skip
    with torch.device("meta"):
        model = ScaleModel(configured(recipe, WHERE).keywords["model"], names)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.05)


def test_an_unknown_recipe_offers_the_nearest():
    with pytest.raises(InputError, match=r"no recipe 'scale_tny' .*did you mean 'scale_tiny'"):
        configured("scale_tny", WHERE)


def test_finetuning_takes_how_the_model_is_computed_and_the_gate():
    places = ("start=run", "store=store", "split=split.toml", "out=tuned")
    given = ("model.tensor_parallel=2", "model.sequence_parallel=true", "model.gate=0.5")
    placement = configured("full", [*places, *given], FINETUNES).keywords["model"]
    assert (placement.tensor_parallel, placement.sequence_parallel, placement.gate) == (2, True, 0.5)
    assert placement.settings()["gate"] == 0.5
    # Not given, the gate stays that of the run.
    assert "gate" not in configured("full", places, FINETUNES).keywords["model"].settings()
    with pytest.raises(InputError, match=r"no setting 'model\.hidden_size'"):
        configured("full", [*places, "model.hidden_size=32"], FINETUNES)


def test_when_checkpoints_are_written_beside_the_training():
    def beside(on_gpu: bool, **given) -> bool:
        return TrainingConfig(max_steps=100, sets_per_batch=1, cells_per_set=8, **given).saves_beside(on_gpu)

    assert (beside(True), beside(False)) == (True, False)
    assert (beside(True, async_save="off"), beside(False, async_save="on")) == (False, True)
    with pytest.raises(InputError, match="async_save='yes' is not one of auto, on, off"):
        beside(False, async_save="yes")
