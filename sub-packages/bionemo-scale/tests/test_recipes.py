"""Overrides on the command line, applied to a recipe without starting it."""

import pytest
import torch

from bionemo.scale.config.agreement import check_agreement
from bionemo.scale.config.compute import Precision
from bionemo.scale.config.model import Source
from bionemo.scale.config.overrides import chosen, overridden
from bionemo.scale.config.presets import FINETUNING, PRETRAINING
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.screens.errors import InputError

TINY = PRETRAINING["scale_tiny"]


@pytest.mark.parametrize("recipe", PRETRAINING)
def test_the_sections_of_every_recipe_agree(recipe):
    check_agreement(**overridden(PRETRAINING[recipe], []))


def test_overrides_change_what_they_name_and_nothing_else():
    changed = overridden(
        TINY,
        [
            *("model.hidden_size=128", "model.source=control", "model.start_fraction=1"),
            *("model.start=linear", "model.network_share=0.5", "training.separator=none"),
            *("training.max_steps=50", "training.learning_rate=3e-4", "compute.precision=bf16"),
        ],
    )
    assert changed["model"].hidden_size == 128
    assert changed["model"].source is Source.CONTROL
    assert changed["model"].start_fraction == 1
    assert (changed["model"].start, changed["model"].network_share) == ("linear", 0.5)
    assert changed["training"].separator == "none"
    assert changed["training"].max_steps == 50
    assert changed["training"].learning_rate == 3e-4
    assert changed["compute"].precision is Precision.BF16
    assert changed["model"].num_layers == TINY["model"].num_layers
    assert changed["training"].sets_per_batch == TINY["training"].sets_per_batch
    assert overridden(TINY, []) == TINY
    assert overridden(TINY, ["model.network_share=0.5", "model.network_share=none"]) == TINY


def test_a_size_is_chosen_by_name_and_changed():
    model = overridden(TINY, ["model.num_layers=3", "model=scale_small"])["model"]
    assert (model.hidden_size, model.num_layers) == (128, 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.max_stps=3", "no setting 'training.max_stps': did you mean 'training.max_steps'"),
        ("model.hiden_size=3", "no setting 'model.hiden_size': did you mean 'model.hidden_size'"),
        ("max_steps=3", "no setting 'max_steps': did you mean 'training.max_steps'"),
        ("model=3", "no setting 'model'"),
        ("xyz=3", "no setting 'xyz': use one of 'model.hidden_size'"),
        ("training.max_steps", "is not of the form key=value"),
        ("training.max_steps=many", "training.max_steps takes a whole number, not 'many'"),
        ("training.max_steps=1.5", "training.max_steps takes a whole number, not '1.5'"),
        ("training.learning_rate=fast", "training.learning_rate takes a number, not 'fast'"),
        ("model.source=noise", "model.source takes one of control, gaussian, mixed, not 'noise'"),
        ("model.deep_sets=maybe", "model.deep_sets takes true or false, not 'maybe'"),
        ("model.network_share=much", "model.network_share takes a number, not 'much'"),
        ("model.network_share=1.5", "model.network_share=1.5 is outside"),
        ("training.precision=bf16", "no setting 'training.precision': did you mean 'compute.precision'"),
        ("compute.precision=fp8", "compute.precision takes one of fp32, bf16, not 'fp8'"),
        ("model.num_attention_heads=3", "model.num_query_groups=2 does not divide num_attention_heads=3"),
    ],
)
def test_a_wrong_override_is_one_sentence(override, message):
    with pytest.raises(InputError, match=message) as refused:
        overridden(TINY, [override])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("recipe", "millions"), [("scale_small", 2.7), ("scale_184m", 184), ("scale_280m", 280)])
def test_the_weights_of_a_size_are_near_its_name(groups, recipe, millions):
    genes = tuple(map(str, range(2000)))
    names = Vocabulary(
        genes=genes, contexts=("A",), perturbations=("ctrl", "X"), batches=(), control="ctrl", kind="counts",
        target_sum=1e4,
    )  # fmt: skip
    with torch.device("meta"):
        model = ScaleModel(PRETRAINING[recipe]["model"], PRETRAINING[recipe]["compute"], names)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.05)


def test_an_unknown_recipe_offers_the_nearest():
    with pytest.raises(InputError, match=r"no recipe 'scale_tny': did you mean 'scale_tiny'"):
        chosen("scale_tny", PRETRAINING)


def test_finetuning_takes_how_the_model_is_computed_and_the_network_share_but_not_what_it_is():
    computed = ("compute.tensor_parallel=2", "compute.sequence_parallel=true", "compute.compile=true")
    changed = overridden(FINETUNING["full"], [*computed, "tuning.network_share=0.5"])
    assert (changed["compute"].tensor_parallel, changed["compute"].compile) == (2, True)
    assert changed["tuning"].network_share == 0.5
    # Not given, the network share stays that of the run.
    assert overridden(FINETUNING["full"], [])["tuning"].network_share is None
    with pytest.raises(InputError, match=r"no setting 'model\.hidden_size'"):
        overridden(FINETUNING["full"], ["model.hidden_size=32"])


def test_when_checkpoints_are_written_beside_the_training():
    def beside(on_gpu: bool, **given) -> bool:
        return TrainingConfig(max_steps=100, sets_per_batch=1, cells_per_set=8, **given).saves_beside(on_gpu)

    assert (beside(True), beside(False)) == (True, False)
    assert (beside(True, async_save="off"), beside(False, async_save="on")) == (False, True)
    with pytest.raises(InputError, match="async_save='yes' is not one of auto, on, off"):
        beside(False, async_save="yes")
