"""Show on one GPU what a CPU cannot show: `python recipes/gpu_proof/prove.py --out gpu_proof`; README.md says how.

The steps run in order of worth, each in processes of its own and with a time limit. What fails stops no other step.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SCALE = (sys.executable, "-m", "bionemo.scale.cli")
BENCH = (sys.executable, "-c", "from bionemo.bench.cli import main; main()")
NEEDS_TRANSFORMER_ENGINE = "transformer_engine or fp8 or current or fused or spec"
"""Tests whose names have one of these."""
FACTS = """
import importlib, json, platform
from importlib.metadata import distributions
import torch
for name in ("pretrain", "fit", "strategy", "module"):
    importlib.import_module(f"bionemo.scale.training.{name}")
from bionemo.scale.inference import predict
from bionemo.scale.layers.specs import transformer_engine_works
there = torch.cuda.is_available()
names = ("bionemo", "torch", "transformer", "megatron", "nemo", "lightning", "numpy", "triton", "flash", "apex")
print(json.dumps({
    "gpu": torch.cuda.get_device_name() if there else None,
    "memory_bytes": torch.cuda.get_device_properties(0).total_memory if there else None,
    "cuda": torch.version.cuda,
    "python": platform.python_version(),
    "transformer_engine_works": transformer_engine_works(),
    "versions": {d.name: d.version for d in distributions() if d.name.lower().startswith(names)},
}))
"""
KEYS = ("perturbation", "context", "batch")
"""Columns of a simulated screen."""
SAME_SCORE = 0.03
"""What two trainings of one screen may differ by in the PDCorr of their validation conditions."""


class Failed(Exception):
    """A step did not find what it was to find, or a command of it failed; the message says which."""


@dataclass
class Result:
    """A `Result` is what one step found, and how it ended: `ok`, `failed` or `out of time`."""

    step: str
    limit: float
    ended: str = "ok"
    seconds: float = 0.0
    words: str = ""
    found: dict[str, Any] = field(default_factory=dict)


class Proof:
    """A `Proof` runs steps; each is a method that fills ``found`` and raises `Failed`.

    Parameters
    ----------
    out
        The folder of results and logs.
    device
        ``cuda``, or ``cpu`` to see that the script works.
    tiny
        Whether sizes are as small as they can be.
    """

    def __init__(self, out: Path, device: str, tiny: bool):
        self.out, self.device, self.tiny = out.resolve(), device, tiny
        self.results: list[Result] = []

    def run(self, steps: list[tuple[Callable[[dict], None], float]]) -> None:
        """Run every step with its limit in seconds, and write its result as soon as it has one."""
        for step, limit in steps:
            result = Result(step.__name__, limit)
            self.results.append(result)
            began = time.monotonic()
            self._deadline, self._log = began + limit, self.out / f"{result.step}.log"
            try:
                step(result.found)
            except subprocess.TimeoutExpired:
                result.ended, result.words = "out of time", f"more than {limit:.0f} s"
            except Exception as error:
                result.ended, result.words = "failed", str(error) if isinstance(error, Failed) else repr(error)
            result.seconds = round(time.monotonic() - began, 1)
            (self.out / f"{result.step}.json").write_text(json.dumps(asdict(result), indent=1))
            print(row(result), flush=True)
            self._write()

    def _write(self) -> None:
        facts = next((r.found for r in self.results if r.step == "imports"), {})
        asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        commit = subprocess.run(asked, capture_output=True, text=True).stdout.strip() or None
        record = {
            "commit": commit,
            "date": time.strftime("%Y-%m-%d"),
            "device": self.device,
            "tiny": self.tiny,
            **facts,
        }
        record["steps"] = {result.step: asdict(result) for result in self.results}
        (self.out / "proof.json").write_text(json.dumps(record, indent=1))
        gpu = facts.get("gpu") or "no GPU"
        table = [f"{gpu}, commit {commit}, {record['date']}", "", HEADER, *map(row, self.results), ""]
        (self.out / "proof.md").write_text("\n".join(table))

    def call(self, *words: object) -> str:
        """Run a command within what is left of the step's time, and return what it printed; all of it is in the log.

        Raises
        ------
        Failed
            It ended with another code than 0.
        """
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {}
        with self._log.open("a+") as log, self._log.with_suffix(".err").open("a+") as errors:
            log.write(f"$ {' '.join(map(str, words))}\n")
            log.flush()
            began = log.tell()
            process = subprocess.Popen(
                [*map(str, words)], stdout=log, stderr=errors, env={**os.environ, **hidden}, start_new_session=True
            )
            try:
                process.wait(max(1.0, self._deadline - time.monotonic()))
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            log.seek(began)
            said = log.read()
            if process.returncode:
                errors.seek(0)
                last = [line for line in (errors.read() or said).splitlines() if line.strip()][-1:]
                raise Failed(f"exit code {process.returncode}: {''.join(last)[:300]}")
        return said

    def imports(self, found: dict) -> None:
        """Import what a training imports; which versions there are."""
        found.update(json.loads(self.call(sys.executable, "-c", FACTS).splitlines()[-1]))
        if self.device == "cuda" and not found["gpu"]:
            raise Failed("torch sees no GPU")

    def tests_of_local_layers(self, found: dict) -> None:
        """Run the tests that need a GPU and not Transformer Engine: training, resuming, bf16, uploaded counts."""
        self._tests(found, f"not ({NEEDS_TRANSFORMER_ENGINE})")

    def tests_of_transformer_engine(self, found: dict) -> None:
        """Run the tests that need Transformer Engine: its layers, its optimizer, FP8."""
        self._tests(found, NEEDS_TRANSFORMER_ENGINE)

    def _tests(self, found: dict, which: str) -> None:
        kept = self.out / f"{self._log.stem}.xml"
        files = [ROOT / "tests/test_gpu.py", ROOT / "sub-packages/bionemo-cellsets/tests/test_loader.py"]
        if self.device == "cpu":
            files.pop()
        mark = "gpu" if self.device == "cuda" else "not gpu"
        words = ["-m", "pytest", "-rs", "-p", "no:cacheprovider", f"--rootdir={ROOT}", f"--junitxml={kept}"]
        told = self.call(sys.executable, *words, "-m", mark, "-k", which, *files)
        found["summary"] = next((line for line in reversed(told.splitlines()) if line.strip()), "")

    def demo(self, found: dict) -> None:
        """Train scale_small on the demo's screen; its predictions have to be better than transferred shifts."""
        cells, genes = (600, 60) if self.tiny else (20_000, 1_000)
        keys = [word for key in KEYS for word in (f"--{key}-key", key)]
        sizes = ["--cells", cells, "--genes", genes, "--contexts", 4, "--perturbations", 12]
        self.call(*SCALE, "simulate", self.out / "screen.h5ad", *sizes)
        self.call(
            *SCALE,
            "prepare",
            self.out / "screen.h5ad",
            "--store",
            self.out / "store",
            "--all-genes",
            *keys,
            "--control",
            "control",
        )
        found["best"] = self.train("demo")
        screen, predicted, report = (self.out / name for name in ("screen.h5ad", "predicted.h5ad", "report"))
        began = time.monotonic()
        given = ["--checkpoint", self.out / "demo", "--controls", screen, "--like", screen]
        self.call(*SCALE, "predict", *given, "--out", predicted)
        found["seconds_of_prediction"] = round(time.monotonic() - began, 1)
        scored = ["--predicted", predicted, "--observed", screen, "--split", self.split, "--out", report]
        self.call(*SCALE, "evaluate", *scored, "--no-progress")
        arms = json.loads((report / "metrics.json").read_text())["arms"]
        found["PDCorr"] = {name: arm["metrics"]["PDCorr"] for name, arm in arms.items()}
        if not self.tiny and found["PDCorr"]["prediction"] <= found["PDCorr"]["control cells + transferred delta"]:
            raise Failed(f"the predictions are not better than transferred shifts: {found['PDCorr']}")

    @property
    def split(self) -> Path:
        """Return the demo's split."""
        return ROOT / "recipes/demo/split.toml"

    def training(self, name: str, *settings: str) -> list[object]:
        """Return the command that trains scale_small on the demo's screen."""
        small = ["training.cells_per_set=8", "training.sets_per_batch=4", "training.warmup_steps=1"]
        steps = ["training.max_steps=6", "training.checkpoint_every=2", "training.validate_every=2", *small]
        given = ["--store", self.out / "store", "--split", self.split, "--recipe", "scale_small"]
        settings = (f"compute.device={self.device}", *(steps if self.tiny else []), *settings)
        return [*SCALE, "pretrain", *given, "--out", self.out / name, *settings]

    def train(self, name: str, *settings: str) -> float:
        """Train scale_small on the demo's screen; return the score of its best checkpoint, as validated."""
        self.call(*self.training(name, *settings))
        return json.loads((self.out / name / "best.json").read_text())["value"]

    def resume(self, found: dict) -> None:
        """End a training by SIGTERM after its first checkpoint, and go on: it ends as the demo's did."""
        run = self.out / "resumed"
        waits = (
            "import pathlib, subprocess, sys, time\n"
            "run = subprocess.Popen(sys.argv[2:])\n"
            "while run.poll() is None and not list(pathlib.Path(sys.argv[1]).glob('checkpoints/step=*/*.json')):\n"
            "    time.sleep(0.05)\n"
            "run.terminate()\n"
            "print(run.wait())\n"
        )
        found["code"] = int(self.call(sys.executable, "-c", waits, run, *self.training(run.name)).splitlines()[-1])
        self._compare(found, self.train(run.name))

    def precisions(self, found: dict) -> None:
        """Train in bf16 and both kinds of FP8: the scores are those of float32."""
        kinds = {"bf16": ["compute.precision=bf16"]}
        if self.device == "cuda":
            fp8 = ["compute.precision=bf16", "compute.layer_spec=transformer_engine"]
            kinds |= {f"fp8_{recipe}": [*fp8, f"compute.fp8={recipe}"] for recipe in ("delayed", "current")}
        failed = []
        for name, settings in kinds.items():
            try:
                self._compare(found.setdefault(name, {}), self.train(name, *settings))
            except Failed as failure:
                failed.append(f"{name}: {failure}")
        if failed:
            raise Failed("; ".join(failed))

    def upload(self, found: dict) -> None:
        """Send cells to the GPU as counts, where they are made dense: the score is the same."""
        self._compare(found, self.train("uploaded", "compute.upload_counts=true"))

    def _compare(self, found: dict, best: float) -> None:
        demo = json.loads((self.out / "demo" / "best.json").read_text())["value"]
        found.update(best=best, demo=demo)
        if not self.tiny and abs(best - demo) > SAME_SCORE:
            raise Failed(f"PDCorr of the validation conditions is {best:.3f}, and {demo:.3f} in float32, uninterrupted")

    def sweep(self, found: dict) -> None:
        """Measure scale_184m, and the wide model of 2.4 thousand million weights: cells a second, MFU, FP8."""
        asked = ["--model", "scale_184m", "--parts", "grid", "fp8", "upload", "compile", "wide", "--sets", 16, 32]
        asked += ["--cells", 256, "--steps", 20, "--warm-up", 5]
        if self.tiny:
            asked = ["--model", "scale_tiny", "--precision", "fp32", "--parts", "grid", "upload", "--sets", 4]
            asked += ["--cells", 8, "--steps", 3, "--warm-up", 1, "--screen-cells", 2_000, "--genes", 60]
        folder = self.out / "sweep"
        self.call(sys.executable, ROOT / "experiments/throughput_sweep/sweep.py", *asked, "--out", folder)
        (file,) = folder.glob("*.json")
        record = json.loads(file.read_text())
        found.update(goals=record["goals"], failed=[m["failure"] for m in record["measurements"] if not m["result"]])
        if found["failed"]:
            raise Failed(f"{len(found['failed'])} measurements failed, the first: {found['failed'][0]}")

    def training_beside_state(self, found: dict) -> None:
        """Train beside STATE at its own small size."""
        self._beside_state(found, "training", "scale")

    def prediction_beside_state(self, found: dict) -> None:
        """Predict beside STATE at its own small size."""
        self._beside_state(found, "inference", "predict")

    def _beside_state(self, found: dict, task: str, own: str) -> None:
        asked = ["--size", "state_sm", "--device", "cuda"]
        if self.tiny:
            asked = ["--device", "cpu", "--steps", 2, "--cells", 3_000, "--genes", 60, "--nnz", 20, "--contexts", 2]
            asked += ["--perturbations", 4, "--cache", self.out / "cache", "--arm", own]
        folder = self.out / task
        self.call(*BENCH, "throughput", "--task", task, *asked, "--out", folder)
        result = json.loads((folder / "throughput.json").read_text())
        arms = {arm["name"]: arm["not_run"] or arm["cells_per_second"]["median"] for arm in result["arms"]}
        found.update(cells_per_second=arms, headline=result["headline"])
        if isinstance(arms[own], str):
            raise Failed(f"{own}: {arms[own]}")


HEADER = f"{'step':28} {'ended':12} {'seconds':>8}  what was found"


def row(result: Result) -> str:
    """Return a line of the table."""
    words = result.words or ", ".join(flat(result.found))
    return f"{result.step:28} {result.ended:12} {result.seconds:8.1f}  {words[:300]}"


def flat(found: Any, name: str = "") -> list[str]:
    """Return what was found as words; versions, and what has no value, are in the files alone."""
    if isinstance(found, dict):
        nested = ((f"{name} {key}".strip(), value) for key, value in found.items() if key != "versions")
        return [words for key, value in nested for words in flat(value, key)]
    if found is None or found == []:
        return []
    return [f"{name}: {found:.4g}" if isinstance(found, float) else f"{name}: {found}"]


def main() -> int:
    """Run the proof, print its table, and return 1 where a step did not end well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_proof"), help="new folder of results, logs and data")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that show only that every step works")
    parser.add_argument(
        "--only", metavar="STEP", nargs="+", help="these steps; `resume`, `precisions` and `upload` need `demo`"
    )
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    proof = Proof(given.out, given.device, given.tiny)
    steps = [
        (proof.imports, 180.0),
        (proof.tests_of_local_layers, 420.0),
        (proof.tests_of_transformer_engine, 420.0),
        (proof.demo, 420.0),
        (proof.resume, 240.0),
        (proof.precisions, 420.0),
        (proof.upload, 180.0),
        (proof.sweep, 1200.0),
        (proof.training_beside_state, 900.0),
        (proof.prediction_beside_state, 600.0),
    ]
    chosen = [(step, limit * (3 if given.device == "cpu" else 1)) for step, limit in steps]
    print(HEADER)
    proof.run([step for step in chosen if not given.only or step[0].__name__ in given.only])
    print(f"\n{(proof.out / 'proof.md').read_text()}\nkept in {proof.out / 'proof.json'}")
    return int(any(result.ended != "ok" for result in proof.results))


if __name__ == "__main__":
    sys.exit(main())
