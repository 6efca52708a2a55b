"""What a model keeps and what it gains when it is made ready for new names, and what adapters of low rank change."""

from dataclasses import asdict, replace

import pytest
import torch

from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.config.tuning import TuningConfig
from bionemo.scale.data.batches import TrainingBatch
from bionemo.scale.finetuning.finetune import _with_roles
from bionemo.scale.finetuning.names import extended_vocabulary
from bionemo.scale.finetuning.weights import joined_embeddings, known_rows, take_over
from bionemo.scale.model.low_rank import LowRank
from bionemo.scale.model.tuning import tune
from bionemo.scale.runs import starting_point
from bionemo.scale.runs.directory import RunDirectory
from bionemo.scale.runs.load import load_model
from bionemo.screens.controls import ControlRoles
from bionemo.screens.errors import InputError

ORDER = torch.randperm(20, generator=torch.Generator().manual_seed(4)).tolist()


@pytest.fixture(scope="session")
def shown(vocabulary):
    """Names of new data: the genes in another order, one context known and one not, as are perturbations."""
    return replace(
        vocabulary,
        genes=tuple(vocabulary.genes[i] for i in ORDER),
        contexts=("B", "D"),
        perturbations=("DMSO", "KRAS", "TP53"),
        batches=("plate9",),
        control="DMSO",
        start_labels=("KRAS", "TP53"),
    )


@pytest.fixture(scope="session")
def extended(vocabulary, shown):
    return extended_vocabulary(vocabulary, shown, TuningConfig())


@pytest.fixture
def trained(build):
    return build(seed=1)


@pytest.fixture
def larger(build, trained, extended, shown):
    """A model of the extended names with the trained weights."""
    model = build(names=extended, seed=2)
    take_over(trained, model, {}, shown)
    return model


def tuning(vocabulary, config, **fields) -> dict:
    return {**asdict(TuningConfig(**fields)), "known": known_rows(vocabulary, config)}


def test_every_old_name_keeps_its_row_and_new_ones_follow(vocabulary, shown, extended):
    assert extended.perturbations == ("DMSO", "MYC", "TP53", "KRAS")
    assert extended.contexts == ("A", "B", "D")
    assert extended.batches == ("plate1", "plate2", "plate9")
    assert extended.genes == shown.genes
    assert extended.token_rows("TP53+KRAS")[0][0] == vocabulary.token_rows("TP53")[0][0]
    assert extended_vocabulary(extended, extended, TuningConfig()) == extended


def test_a_combination_of_known_perturbations_is_no_new_one(vocabulary, shown):
    new = replace(shown, perturbations=("DMSO", "MYC+TP53", "MYC+XYZ"))
    assert extended_vocabulary(vocabulary, new, TuningConfig()).perturbations == ("DMSO", "MYC", "TP53", "MYC+XYZ")


def test_old_conditions_are_predicted_as_before_whatever_the_order_of_genes(trained, larger, sets):
    batch = sets(5, 3)
    given = batch["mask"], batch["condition"], batch["key"]
    before = trained.eval().predict(batch["control"], *given)
    after = larger.eval().predict(batch["control"][..., ORDER], *given)
    assert not torch.equal(before, batch["control"]), "it predicts the control cells: nothing is compared"
    torch.testing.assert_close(after, before[..., ORDER], atol=1e-6, rtol=0)


SHARED = TuningConfig(genes="shared")


def test_other_genes_are_taken_where_that_was_asked_for_and_the_shared_keep_their_weights(
    build, vocabulary, shown, trained, sets, caplog
):
    other = replace(shown, genes=("fresh1", *shown.genes, "fresh2"))
    names = extended_vocabulary(vocabulary, other, SHARED)
    assert names.genes == other.genes
    assert "have 2 that it does not know ('fresh1', 'fresh2'): weights are kept for the shared genes" in caplog.text
    model, means = build(names=names, seed=2), torch.rand(22)
    take_over(trained, model, {"gene_mean": means}, other)
    assert torch.equal(model.gene_mean[[0, -1]], means[[0, -1]])
    batch = sets(5, 3)
    given = batch["mask"], batch["condition"], batch["key"]
    known, fresh = batch["control"][..., ORDER], torch.rand(2, 5, 1)
    after = model.eval().predict(torch.cat([fresh, known, fresh], dim=-1), *given)
    before = trained.eval().predict(batch["control"], *given)[..., ORDER]
    torch.testing.assert_close(after[..., 1:-1], before, atol=1e-6, rtol=0)
    torch.testing.assert_close(after[..., :1], fresh, atol=1e-6, rtol=0)  # the cell's own, as no change is known


def test_genes_that_new_data_lack_are_dropped_up_to_half(build, vocabulary, shown, trained, sets):
    fewer = replace(shown, genes=shown.genes[:12])
    model = build(names=extended_vocabulary(vocabulary, fewer, SHARED), seed=2)
    take_over(trained, model, {}, fewer)
    batch = sets(5, 3)
    given = batch["mask"], batch["condition"], batch["key"]
    mean = trained.gene_mean.expand_as(batch["control"]).clone()
    kept = ORDER[:12]
    mean[..., kept] = batch["control"][..., kept]
    expected = trained.eval().predict(mean, *given)[..., kept]
    found = model.eval().predict(batch["control"][..., kept], *given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match=r"lack 11 of the model's 20 genes .* wants 50% of the model's"):
        extended_vocabulary(vocabulary, replace(shown, genes=shown.genes[:9]), SHARED)
    with pytest.raises(InputError, match="adapters of low rank cannot learn"):
        extended_vocabulary(
            vocabulary, replace(shown, genes=(*shown.genes, "x")), TuningConfig(genes="shared", method="low_rank")
        )


def test_new_rows_start_as_the_table_did(build, extended, larger):
    fresh = build(names=extended, seed=2)
    for name, known in (("perturbation.learned", 3), ("context", 2), ("batch", 2)):
        rows = larger.condition_encoder.get_submodule(name).weight[known:]
        assert torch.equal(rows, fresh.condition_encoder.get_submodule(name).weight[known:])
        assert rows.any()


def test_a_linear_start_is_refitted_for_what_the_data_show_and_kept_for_the_rest(build, vocabulary, shown):
    old = replace(vocabulary, start_labels=("MYC", "TP53"))
    trained, new = build(names=old, start="linear"), extended_vocabulary(old, shown, TuningConfig())
    model = build(names=new, start="linear")
    for value, buffer in enumerate(trained.linear_start.buffers()):
        buffer.fill_(-1.0 - value)
    fitted = {f"linear_start.{name}": torch.rand_like(buffer) for name, buffer in model.linear_start.named_buffers()}
    for name in ("parts", "variance", "elsewhere", "common", "known"):
        fitted[f"linear_start.{name}"] = fitted[f"linear_start.{name}"][:3]  # two names and the row for others
    fitted["linear_start.interaction"] = fitted["linear_start.interaction"][:3, :3, :4]
    fitted["linear_start.basis"] = fitted["linear_start.basis"][:4]
    take_over(trained, model, fitted, shown)
    assert new.start_labels == ("MYC", "TP53", "KRAS")
    parts, common = model.linear_start.parts, model.linear_start.common
    assert torch.equal(parts[0], trained.linear_start.parts[0])
    assert torch.equal(parts[1], fitted["linear_start.parts"][1])
    assert torch.equal(parts[2], fitted["linear_start.parts"][0])
    assert torch.equal(parts[3], fitted["linear_start.parts"][2])
    assert torch.equal(common[0], trained.linear_start.common[0])
    assert torch.equal(common[1:], fitted["linear_start.common"])
    assert torch.equal(model.linear_start.shares, fitted["linear_start.shares"])
    assert torch.equal(model.linear_start.size, trained.linear_start.size)  # the network is used to it
    interaction, basis = model.linear_start.interaction, model.linear_start.basis
    refitted = fitted["linear_start.interaction"][:2, [1, 0]]
    assert torch.equal(interaction[1:3, 1:3, :4], refitted[:, [0, 1]])
    assert interaction.count_nonzero() == refitted.count_nonzero()
    assert torch.equal(basis[:4], fitted["linear_start.basis"])
    assert not basis[4:].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"genes": ("gene0", "GENE1")},
            r"lack 19 of the model's 20 genes \('gene1', .*; they write 'GENE1'\) and have 1",
        ),
        (
            {"genes": (*(f"gene{i}" for i in range(20)), "extra")},
            r"have 1 that it does not know \('extra'\): .*tuning.genes=shared",
        ),
        ({"kind": "log1p"}, "trained with kind=counts, and the new data have log1p"),
        ({"target_sum": 1e4}, "prepare the new data with --target-sum 100"),
        ({"separator": ""}, r"set training\.separator=\+"),
        ({"control": "MYC"}, "control label 'MYC' of the new data is a perturbation of the model"),
    ],
)
def test_data_that_do_not_fit_are_refused(vocabulary, shown, changes, message):
    with pytest.raises(InputError, match=message) as refused:
        extended_vocabulary(vocabulary, replace(shown, **changes), TuningConfig())
    assert "\n" not in str(refused.value)


def test_doses_of_another_unit_are_refused(vocabulary, shown):
    dosed = replace(vocabulary, dose_unit="uM", log_dose=(0.0, 1.0))
    with pytest.raises(InputError, match="knows doses in uM, and the new data give them in Gy"):
        extended_vocabulary(dosed, replace(shown, dose_unit="Gy", log_dose=(0.0, 1.0)), TuningConfig())
    in_micromolar = replace(shown, dose_unit="uM", log_dose=(2.0, 3.0))
    assert extended_vocabulary(dosed, in_micromolar, TuningConfig()).log_dose == (0.0, 1.0)


def test_embeddings_come_to_the_scale_the_model_knows(vocabulary, extended):
    raw = {name: torch.randn(4, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(extended.tokens)}

    def standardised(names):
        vectors = torch.stack([raw[name] for name in names])
        scaled = (vectors - vectors.mean(0)) / vectors.std(0, correction=0)
        return dict(zip(names, scaled, strict=True))

    def table(names, vectors):
        return torch.stack([vectors.get(name, torch.zeros(4)) for name in names])

    old = replace(vocabulary, embedding_size=4)
    before = table(old.tokens, standardised(["MYC", "TP53"]))
    given = standardised(["MYC", "TP53", "KRAS"])
    joined = joined_embeddings(old, before, extended, table(extended.tokens, given))
    torch.testing.assert_close(joined[1:3], before[1:3])
    seen = torch.stack([raw["MYC"], raw["TP53"]])
    expected = (raw["KRAS"] - seen.mean(0)) / seen.std(0, correction=0)
    torch.testing.assert_close(joined[3], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="fewer than two"):
        joined_embeddings(old, before, extended, table(extended.tokens, {"KRAS": given["KRAS"]}))


def test_other_embeddings_of_known_perturbations_are_refused(vocabulary, extended):
    old = replace(vocabulary, perturbations=("ctrl", "MYC", "TP53", "KRAS"), embedding_size=4)
    rng = torch.Generator().manual_seed(0)
    before, table = torch.randn(4, 4, generator=rng), torch.randn(4, 4, generator=rng)
    before[0] = table[0] = 0.0
    with pytest.raises(InputError, match="other vectors for perturbations that the model was trained with"):
        joined_embeddings(old, before, extended, table)
    with pytest.raises(InputError, match="vectors of 3 numbers, and the model was trained with 4"):
        joined_embeddings(old, before, extended, table[:, :3])


def step(model, batch, rate=0.05) -> None:
    """An optimizer step with everything that Megatron's would do to weights, decay included."""
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=rate, weight_decay=0.5)
    model.train()(TrainingBatch(**batch))["loss"].backward()
    optimizer.step()


def test_low_rank_trains_the_adapters_and_the_tokens_of_new_names_alone(larger, vocabulary, config, sets):
    before = {name: value.clone() for name, value in larger.named_parameters()}
    adapters = tune(larger, tuning(vocabulary, config, method="low_rank", rank=2))
    assert isinstance(adapters, LowRank)
    moving = {name.split(".")[0] for name, value in larger.named_parameters() if value.requires_grad}
    assert moving == {"adapters"}
    batch = sets(5, 3, 4)
    batch["condition"].perturbation[0], batch["condition"].context[0] = 3, 2  # a new perturbation in a new context
    for _ in range(2):
        step(larger, batch)
    for name, value in before.items():
        assert torch.equal(larger.get_parameter(name), value), name
    adapters.merge(larger)
    after = dict(larger.named_parameters())
    assert set(after) == set(before)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    tables = {name for name in changed if name.startswith("condition_encoder")}
    assert tables == {"condition_encoder.perturbation.learned.weight", "condition_encoder.context.weight"}
    assert torch.equal(after["condition_encoder.context.weight"][:2], before["condition_encoder.context.weight"][:2])
    assert all("linear_" in name for name in changed - tables)
    assert {name.split(".")[0] for name in changed - tables} == {"encoder", "transport", "expression_decoder"}


def test_merged_adapters_predict_what_they_predicted_beside_the_weights(larger, vocabulary, config, sets):
    batch = sets(5, 3)
    given = batch["control"], batch["mask"], batch["condition"], batch["key"]
    plain = larger.eval().predict(*given)
    adapters = tune(larger, tuning(vocabulary, config, method="low_rank", rank=3, alpha=5.0))
    torch.testing.assert_close(larger.predict(*given), plain, atol=1e-6, rtol=0)
    torch.manual_seed(0)
    for parameter in adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    beside = larger.predict(*given)
    assert (beside - plain).abs().max() > 0.01
    adapters.merge(larger)
    torch.testing.assert_close(larger.predict(*given), beside, atol=1e-5, rtol=0)


def test_a_full_disk_before_the_first_step_is_a_sentence(tmp_path, larger, record, monkeypatch):
    def full(*_saved):
        raise RuntimeError("Worker failure: [Errno 28] No space left on device")  # as Megatron's writer says it

    monkeypatch.setattr(starting_point.dist_checkpointing, "save", full)
    run = RunDirectory(tmp_path)
    run.start(record, write=True)
    with (
        pytest.raises(InputError, match=r"cannot be written \(.*No space left on device\): give another --out"),
        run.errors_named(),
    ):
        starting_point.write_starting_point(run, larger, {"step": 0})


@pytest.mark.parametrize("method", ["full", "low_rank"])
def test_a_frozen_encoder_stays_as_it_is(larger, vocabulary, config, sets, method):
    before = {name: value.clone() for name, value in larger.encoder.named_parameters()}
    adapters = tune(larger, tuning(vocabulary, config, method=method, freeze_encoder=True))
    step(larger, sets(5, 3))
    if adapters is not None:
        adapters.merge(larger)
    assert all(torch.equal(value, before[name]) for name, value in larger.encoder.named_parameters())


def test_a_checkpoint_with_adapters_is_read_as_plain_weights(tmp_path, larger, extended, record, save_weights, sets):
    batch = sets(5, 3)
    given = batch["control"], batch["mask"], batch["condition"], batch["key"]
    known = {"perturbations": 3, "contexts": 2, "batches": 2, "dose": 0}
    told = {**asdict(TuningConfig(method="low_rank", rank=2)), "known": known}
    adapters = tune(larger, told)
    for parameter in adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    expected = larger.eval().predict(*given)
    RunDirectory(tmp_path).start(replace(record, vocabulary=extended.to_dict(), tuning=told), write=True)
    save_weights(larger, tmp_path / "checkpoints" / "step=3" / "weights")
    model, step = load_model(RunDirectory(tmp_path), torch.device("cpu"))
    assert step == 3
    assert not hasattr(model, "adapters")
    torch.testing.assert_close(model.predict(*given), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "lora"}, "method='lora' is not one of full, low_rank"),
        ({"rank": 0}, "rank=0 must be at least 1"),
        ({"alpha": -1.0}, "alpha=-1.0 must be a number above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        TuningConfig(**fields)


def test_the_roles_of_control_cells_are_those_of_the_run():
    training, roles = TrainingConfig(max_steps=30, sets_per_batch=1, cells_per_set=1), ControlRoles(rotation=2)
    assert _with_roles(training, roles).control_roles == roles
    assert _with_roles(replace(training, control_rotation=2), roles).control_roles == roles
    with pytest.raises(InputError, match=r"training\.control_rotation=1 are not those of the run"):
        _with_roles(replace(training, control_rotation=1), roles)
