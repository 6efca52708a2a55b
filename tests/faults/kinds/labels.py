"""Names that are markup, control characters, formulas or paths; and split files with anything in them."""

import json
import re
import tomllib

import numpy as np

from faults.kinds.damage import BYTES, WRONG
from faults.sandbox import Found, Outcome
from faults.trials import ERROR, IDENTICAL, Trial, register, register_each
from faults.workshop import KEYS, PANEL, PROTOCOL, SPLIT, TARGETS

WORDS = (
    "[/red] [bold]x [link=http://a] \\[x {0} %s ' \" ` $(x) a,b a;b a/b ../../x /etc/x ~ * ? -x --out =1+1 @a a|b # "
    "nan None NaN 0 1e5 True <script>alert(1)</script> &amp; a+b + a.b \u00e9 e\u0301 \u202eabc \U0001f9ec"
)
SPACES = (" ", " a", "a ", "a\nb", "a\tb", "a\rb", "\x1b[2J\x1b[H", "\x07", "\x9b2J", "\ufeff", "\u2028")
HOSTILE = (*WORDS.split(), *SPACES, "x" * 300, "\u4e2d" * 80)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""What a terminal would obey."""


def check_printed(outcome: Outcome) -> None:
    """Raise if something was printed that a terminal obeys."""
    if CONTROL.search(outcome.out + outcome.err):
        raise Found("silent wrong", "control characters were printed as they are")


def screen(trial: Trial) -> dict[str, set[str]]:
    """Write a screen whose every label is hostile; return the labels that stand in it."""
    import anndata as ad
    import pandas as pd

    rng = np.random.default_rng(trial.rng.randrange(2**32))
    names = trial.rng.sample(HOSTILE, 8)
    contexts, perturbations, batch = names[:2], ["control", *names[2:5]], names[5]
    pairs = [(c, p) for c in contexts for p in perturbations for _ in range(8)]
    obs = pd.DataFrame(pairs, columns=["context", "perturbation"], index=[f"{names[6]}{i}" for i in range(len(pairs))])
    obs["batch"] = batch
    genes = pd.DataFrame(index=[names[7], *(f"gene_{i}" for i in range(19))])
    counts = rng.poisson(2, (len(pairs), 20)).astype(np.float32) + 1
    ad.AnnData(counts, obs, genes).write_h5ad(trial.folder / "screen.h5ad")
    return {"contexts": set(contexts), "perturbations": set(perturbations), "batches": {batch}}


def prepare(trial: Trial) -> str:
    """Prepare and inspect a screen of hostile names: they are refused, or stand in the store as they were."""
    from bionemo.cellsets import CellStore

    names = screen(trial)
    words = f"bionemo-scale prepare {trial.folder}/screen.h5ad --store store --all-genes {KEYS}"
    made = trial.run(words.split())
    check_printed(made)
    if made.code:
        made.check_error()
        return ERROR
    store = CellStore.open(trial.work / "store")
    for table, expected in names.items():
        if (found := set(map(str, getattr(store, table)))) != expected:
            raise Found("silent wrong", f"{table}: {found} for {expected}")
    looked = trial.run(["bionemo-scale", "inspect", "store"])
    check_printed(looked)
    if looked.code:
        raise Found("lost", f"prepared, but not inspected: {looked.sentence}")
    return IDENTICAL


def evaluate(trial: Trial) -> str:
    """Score a screen of hostile names against itself, by each of the two commands."""
    import anndata as ad

    screen(trial)
    cells = ad.read_h5ad(trial.folder / "screen.h5ad")
    counts = np.asarray(cells.X)
    cells.X = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    cells[cells.obs["perturbation"] != "control"].copy().write_h5ad(trial.folder / "predicted.h5ad")
    program = ("bionemo-scale", "perteval")[trial.number % 2]
    keys = ["--perturbation-key", "perturbation", "--context-key", "context", "--control", "control"]
    files = ["--predicted", trial.folder / "predicted.h5ad", "--observed", trial.folder / "screen.h5ad"]
    more = ["--target-sum", "10000", "--arms", "main", "--no-progress", "--threads", "1"]
    scored = trial.run([program, "evaluate", *files, *keys, *more, "--out", "report"])
    check_printed(scored)
    if scored.code:
        scored.check_error()
        return ERROR
    if "<script>alert" in (trial.work / "report" / "report.html").read_text():
        raise Found("silent wrong", "a name became a script of the report")
    return IDENTICAL


def challenge(trial: Trial) -> str:
    """Score a submission of hostile names by the rules of the challenge."""
    import anndata as ad

    screen(trial)
    cells = ad.read_h5ad(trial.folder / "screen.h5ad")
    line = cells[cells.obs["context"] == cells.obs["context"].iloc[0]].copy()
    line.write_h5ad(trial.folder / "line.h5ad")
    labels = line.obs["perturbation"].astype(str).replace("control", "non-targeting")
    ad.AnnData(line.X, labels.to_frame("target"), line.var).write_h5ad(trial.folder / "submission.h5ad")
    files = ["--predicted", trial.folder / "submission.h5ad", "--observed", trial.folder / "line.h5ad"]
    keys = ["--perturbation-key", "perturbation", "--control", "control", "--context-key", "context"]
    more = ["--protocol", "vcc2026", "--no-progress", "--threads", "1", "--out", "scores"]
    scored = trial.run(["perteval", "evaluate", *files, *keys, *more])
    check_printed(scored)
    if scored.code:
        scored.check_error()
        return ERROR
    return IDENTICAL


def whole_job(trial: Trial) -> str:
    """Train on a screen of hostile names, and predict the held-out condition."""
    names = screen(trial)
    context, name = (sorted(names[table] - {"control"})[0] for table in ("contexts", "perturbations"))
    context, name = (json.dumps(label, ensure_ascii=False) for label in (f"screen.{context}", name))
    split = f'[training]\nscreen = "train"\n[fewshot.{context}]\nval = []\ntest = [{name}]\n'
    (trial.folder / "split.toml").write_text(split, encoding="utf-8")
    screened, split = trial.folder / "screen.h5ad", trial.folder / "split.toml"
    small = ["training.max_steps=2", "training.warmup_steps=1", "training.cells_per_set=8", "model.hidden_size=16"]
    for words in (
        ["prepare", screened, "--store", "store", "--all-genes", *KEYS.split()],
        ["pretrain", "--store", "store", "--split", split, "--out", "run", *small],
        ["predict", "--checkpoint", "run", "--controls", screened, "--like", screened, "--out", "predicted.h5ad"],
    ):
        done = trial.run(["bionemo-scale", *words])
        check_printed(done)
        if done.code:
            done.check_error()
            return ERROR
    return IDENTICAL


def edited(trial: Trial, name: str, of: str, text: str) -> str:
    """Edit a split or a protocol: it is refused, or what it names is there."""
    file, rng = trial.folder / of, trial.rng
    file.write_text(text)
    if rng.random() < 0.4:
        rng.choice(BYTES)(file, rng)
    else:
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        key = lines[at].partition("=")[0]
        value = rng.choice(
            [*map(repr, WRONG), *(f'"{label}"' for label in HOSTILE), '["perturbation_1"]', '["control"]']
        )
        lines[at : at + rng.choice([0, 1])] = [rng.choice([f"{key}= {value}", f"[{value}]", lines[at] * 2, value])]
        file.write_text("\n".join(lines), encoding="utf-8")
    command = trial.commands[name]
    words = [word.replace(f"../base/{of}", str(file)) for word in command.words]
    if name == "prepare":
        words += ["--split", str(file)]
    done = trial.run(words)
    check_printed(done)
    if done.code:
        done.check_error()
        return ERROR
    if of == "split.toml":
        for context, parts in tomllib.loads(file.read_text()).get("fewshot", {}).items():
            unknown = {label for part in parts.values() for label in part} - {f"perturbation_{i}" for i in range(1, 5)}
            if unknown or context not in ("screen.context_1", "screen.context_2"):
                raise Found("silent wrong", f"a split went through that names {unknown or context}")
    return IDENTICAL


register("labels-prepare", 70, 10, prepare)
register("labels-evaluate", 19, 3, evaluate)
register("labels-challenge", 12, 1, challenge)
register("labels-whole-job", 8, 1, whole_job)
register_each("edited-split", edited, "prepare 45 5, evaluate 13 2", of="split.toml", text=SPLIT)
register_each("edited-protocol", edited, "split 38 6", of="protocol.toml", text=PROTOCOL)
register_each("edited-targets", edited, "submission 16 1", of="targets.csv", text=TARGETS)
register_each("edited-panel", edited, "submission 8 1", of="panel.txt", text=PANEL)
