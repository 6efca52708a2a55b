"""What a user gets wrong, as commands: each ends with exit code 2 and one sentence that says what to mend."""

import shutil

import pytest

PREPARE = (
    "prepare {screen} --store {out} --perturbation-key perturbation --control control --context-key context "
    "--batch-key batch"
)
PRETRAIN = "pretrain --store {store} --split {split} --out {out}"
PREDICT = "predict --checkpoint {run} --controls {screen} --out {out}"

MISTAKES = [
    ("prepare {absent} --store {out} --perturbation-key a --control b --context-key c", "{absent}"),
    (PREPARE.replace("-key perturbation", "-key perturbatoin"), "'perturbation'"),
    (PREPARE.replace("--control control", "--control ctrl"), "'ctrl'"),
    (f"{PREPARE} --n-genes 50 --all-genes", "--n-genes 50 and --all-genes contradict"),
    (f"{PREPARE} --genes-of {{absent}}", "--genes-of {absent} is no run and no store"),
    (PRETRAIN.replace("pretrain", "finetune --from {absent}"), "{absent} holds no run.json"),
    (PRETRAIN.replace("pretrain", "finetune --from {run} --recipe low-rank"), "did you mean 'low_rank'"),
    ("inspect {absent}", "{absent}"),
    (PRETRAIN.replace("{store}", "{absent}"), "{absent}"),
    (f"{PRETRAIN} out=other", "no setting 'out'"),
    (f"{PREDICT} --perturbations perturbation_x", "'perturbation_x' was never seen in training: did you mean"),
    (PREDICT.replace("{out}", "{screen}") + " --like {screen}", "which it would replace"),
    (PREDICT.replace("{run}", "{damaged}") + " --like {screen}", "step=2 is damaged"),
    ("evaluate --predicted {absent} --observed {screen} --out {out}", "{absent}"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory, workshop, pretrain):
    """Paths that the commands name; ``out`` and ``absent`` are not there."""
    folder = tmp_path_factory.mktemp("bad_input")
    pretrain(folder / "run", "training.max_steps=2", "training.warmup_steps=1")
    shutil.copytree(folder / "run", folder / "damaged")
    for shard in (folder / "damaged" / "checkpoints" / "step=2" / "weights").glob("*.distcp"):
        shard.unlink()
    there = {"screen": workshop / "screen.h5ad", "store": workshop / "store", "split": workshop / "split.toml"}
    return there | {name: folder / name for name in ("run", "damaged", "absent", "out")}


@pytest.mark.parametrize(("line", "says"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_ends_with_one_sentence(line, says, places, command):
    screen = places["screen"].stat()
    done = command(*line.format(**places).split(), code=2)
    *_, sentence = done.stderr.splitlines()
    assert sentence.startswith("error: ")
    assert says.format(**places) in sentence
    assert "Traceback" not in done.stderr + done.stdout
    assert not places["out"].exists()
    assert places["screen"].stat().st_mtime_ns == screen.st_mtime_ns
