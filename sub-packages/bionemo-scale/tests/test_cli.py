"""The command line: help that shows how, and mistakes that end in one sentence."""

import errno
import io
import logging
import os
import re
import subprocess
import sys

import anndata as ad
import pytest
import typer
from typer.testing import CliRunner

from bionemo.cellsets import CellStore
from bionemo.scale.cli.app import app, main
from bionemo.scale.quiet import hush

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


@pytest.fixture(autouse=True)
def same_log_handlers():
    """`main` gives the package's log a handler on a stream that ends with the test."""
    own = logging.getLogger("bionemo")
    before = own.handlers[:], own.level
    yield
    own.handlers[:] = before[0]
    own.setLevel(before[1])


def test_the_commands_are_all_there():
    assert {"simulate", "prepare", "inspect", "pretrain", "predict", "evaluate"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command):
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert "Example" in shown.stdout
    assert f"bionemo-scale {command}" in shown.stdout


def test_nothing_heavy_is_imported_before_a_command_runs():
    heavy = "{'torch', 'nemo', 'nemo_run', 'megatron', 'lightning', 'anndata', 'scanpy', 'pandas', 'numba'}"
    code = f"import sys, bionemo.scale.cli.app; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_labels_are_shown_as_text_whatever_they_are(written, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    hostile = "[/red]\x1b[2J[bold]"

    def renamed(cells):
        cells.obs["line"] = cells.obs["line"].cat.rename_categories({"A": hostile})
        return cells

    prepare = ("prepare", written(renamed), "--store", tmp_path / "store", "--control", "ctrl", "--context-key", "line")
    for arguments in ((*prepare, "--perturbation-key", "target"), ("inspect", tmp_path / "store")):
        monkeypatch.setattr(sys, "argv", ["bionemo-scale", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        shown = capsys.readouterr().out
        assert r"[/red]\x1b[2J[bold]" in shown
        assert "\x1b" not in shown


def test_a_message_moves_no_cursor(capsys):
    logging.getLogger("bionemo").handlers.clear()
    hush()
    logging.getLogger("bionemo.scale").info("context %s is new", "\x1b[2J")
    assert capsys.readouterr().err == "context \\x1b[2J is new\n"


def test_a_log_file_on_a_full_disk_prints_no_traceback(monkeypatch, capsys):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(logging, "raiseExceptions", True)
    hush()
    talker = logging.getLogger("megatron")
    monkeypatch.setattr(talker, "handlers", [logging.StreamHandler(Full())])
    talker.error("a file was cut short")
    assert not capsys.readouterr().err


def test_ctrl_c_ends_any_command_with_a_sentence(tmp_path, monkeypatch, capsys):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("bionemo.screens.simulation.simulate", interrupted)
    monkeypatch.setattr(sys, "argv", ["bionemo-scale", "simulate", str(tmp_path / "screen.h5ad")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped by SIGINT: the same command can be started again.\n"


@pytest.mark.parametrize(
    "said",
    ["OMP_NUM_THREADS=abc", "OMP_NUM_THREADS=0", "MASTER_PORT=x", "RANK=-1", "LOCAL_RANK=1.5", "SLURM_NTASKS=two"],
)
def test_a_variable_that_is_no_number_is_named(tmp_path, said):
    """The command has a process of its own: libraries read such variables while they are imported."""
    name, value = said.split("=")
    ran = command("inspect", tmp_path, **{name: value})
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"error: the environment variable {name}='{value}' is no number of")
    assert len(ran.stderr.splitlines()) == 1


def test_a_locale_without_the_characters_of_a_label_shows_their_numbers(written, tmp_path):
    def renamed(cells):
        cells.obs["line"] = cells.obs["line"].cat.rename_categories({"A": "β"})
        return cells

    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "COLUMNS": "200"}
    keys = ("--perturbation-key", "target", "--control", "ctrl", "--context-key", "line")
    prepare = ("prepare", written(renamed), "--store", tmp_path / "store", *keys)
    for arguments in (prepare, ("inspect", tmp_path / "store")):
        ran = command(*arguments, **ascii_only)
        assert ran.returncode == 0, ran.stderr
        assert r"\u03b2" in ran.stdout


@pytest.mark.parametrize("program", ["bionemo.scale.cli", "bionemo.perteval.cli"])
def test_output_that_cannot_be_printed_is_a_sentence(program):
    with open("/dev/full", "w") as full:
        ran = subprocess.run([sys.executable, "-m", program, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 1
    assert ran.stderr == "error: the output cannot be printed (No space left on device): send it elsewhere\n"


def command(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "bionemo.scale.cli", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def failed(monkeypatch, capsys):
    """Run a command that must fail, and return the sentence it ends with; nothing but a progress bar comes before."""

    def run(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["bionemo-scale", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        *bars, line = capsys.readouterr().err.splitlines()
        assert all(not bar or "%|" in bar for bar in bars), bars
        assert line.startswith("error: ")
        return line

    return run


def test_a_mistake_ends_with_one_line_and_exit_code_2(failed, written, run_path, tmp_path):
    screen, absent, out = written(), tmp_path / "absent", tmp_path / "out"
    assert str(absent) in failed("inspect", absent)
    assert str(absent) in failed("predict", "--checkpoint", absent, "--controls", screen, "--out", out)
    predict = ("predict", "--checkpoint", run_path, "--controls", screen, "--out", out)
    assert "'TP53'" in failed(*predict, "--perturbations", "TP35")
    assert "--perturbations" in failed(*predict)
    assert f"--out {screen} exists" in failed("split", screen, "--protocol", "tahoe100m", "--out", screen)
    assert "'tahoe100m'" in failed("split", screen, "--protocol", "tahoe", "--out", out)
    assert "no obs column 'cell_line'" in failed("split", screen, "--protocol", "tahoe100m", "--out", out)
    prepare = ("prepare", screen, "--store", out, "--control", "ctrl", "--context-key", "line")
    assert "'target'" in failed(*prepare, "--perturbation-key", "targt")
    assert "contradict" in failed(*prepare, "--perturbation-key", "target", "--n-genes", 5, "--all-genes")
    assert "is no bionemo-scdl archive" in failed(*prepare, "--perturbation-key", "target", "--obs", screen)
    assert "absent" in failed("evaluate", "--predicted", absent, "--observed", screen, "--out", out)
    assert not out.exists()


def test_an_archive_and_a_table_of_its_cells_make_a_store(written, failed, tmp_path):
    screen = written()
    keys = ["--perturbation-key", "target", "--control", "ctrl", "--context-key", "line"]
    first = CliRunner().invoke(app, ["prepare", str(screen), "--store", str(tmp_path / "archive"), *keys])
    assert first.exit_code == 0, first.output
    stored = CellStore.open(tmp_path / "archive")  # a store is an archive
    obs = ad.read_h5ad(screen).obs.loc[stored.obs().index]
    obs.to_csv(tmp_path / "obs.csv")
    archive = ["prepare", str(tmp_path / "archive"), "--obs", str(tmp_path / "obs.csv"), *keys]
    again = CliRunner().invoke(app, [*archive, "--store", str(tmp_path / "again"), "--threads", "2"])
    assert again.exit_code == 0, again.output
    assert CellStore.open(tmp_path / "again").runs.tolist() == stored.runs.tolist()
    obs[:-1].to_csv(tmp_path / "obs.csv")
    assert "one line per row" in failed(*archive, "--store", tmp_path / "short")


def test_a_place_given_twice_to_pretrain_is_refused(failed, tmp_path):
    where = ("--store", tmp_path / "s", "--split", tmp_path / "s.toml", "--out", tmp_path / "run")
    assert "no setting 'out'" in failed("pretrain", *where, "out=other")


def test_an_unknown_part_is_refused_by_the_command_line(tmp_path):
    where = ["--checkpoint", "run", "--controls", "c.h5ad", "--like", "o.h5ad", "--out", "p.h5ad"]
    shown = CliRunner().invoke(app, ["predict", *where, "--part", "tset"])
    assert shown.exit_code == 2


@pytest.mark.parametrize(
    ("line", "perturbation", "message"),
    [("A", "TP35", "'TP35'.*'TP53'"), ("AA", "TP53", "'AA'"), ("A", "ctrl", "control label 'ctrl'")],
)
def test_a_split_that_names_what_was_not_observed_is_refused(
    failed, written, run_path, tmp_path, line, perturbation, message
):
    made, split = tmp_path / "predicted.h5ad", tmp_path / "split.toml"
    predict = ["predict", "--checkpoint", run_path, "--controls", written(), "--like", written(), "--out", made]
    assert CliRunner().invoke(app, [*map(str, predict), "--part", "all"]).exit_code == 0
    split.write_text(f'[fewshot."{line}"]\ntest = ["{perturbation}"]\n')
    where = ("--predicted", made, "--observed", written(), "--split", split, "--out", tmp_path / "report")
    assert re.search(message, failed("evaluate", *where))


def test_several_perturbations_follow_one_option(written, run_path, tmp_path):
    out = tmp_path / "predicted.h5ad"
    where = ["--checkpoint", str(run_path), "--controls", str(written()), "--out", str(out)]
    shown = CliRunner().invoke(app, ["predict", *where, "--perturbations", "TP53", "MYC"])
    assert shown.exit_code == 0, shown.output
    assert set(ad.read_h5ad(out).obs["target"]) == {"TP53", "MYC"}


def test_a_word_that_belongs_to_no_option_is_refused_by_name(written, run_path, tmp_path):
    """It used to be taken for a perturbation."""
    where = ["--checkpoint", str(run_path), "--controls", str(written()), "--out", str(tmp_path / "p.h5ad")]
    for words in (
        ["TP53", *where, "--perturbations", "MYC"],
        ["--perturbations", "MYC", *where, "--seed", "1", "TP53"],
    ):
        shown = CliRunner().invoke(app, ["predict", *words])
        assert shown.exit_code == 2
        assert "TP53" in shown.output
    assert not (tmp_path / "p.h5ad").exists()


def test_predict_says_what_a_prediction_is_made_of(written, run_path, tmp_path):
    where = ["--checkpoint", str(run_path), "--controls", str(written()), "--out", str(tmp_path / "p.h5ad")]
    shown = CliRunner().invoke(app, ["predict", *where, "--perturbations", "MYC", "--missing-genes", "zero"])
    assert "10 cells, step 1, the network alone" in shown.output


def test_a_wrong_setting_of_pretrain_is_one_line_in_a_process_of_its_own(tmp_path):
    where = ["--store", str(tmp_path / "s"), "--split", str(tmp_path / "s.toml"), "--out", str(tmp_path / "run")]
    ran = subprocess.run(
        [sys.executable, "-m", "bionemo.scale.cli", "pretrain", *where, "training.max_steps=many"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.splitlines() == ["error: training.max_steps takes a whole number, not 'many'."]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "setting", "code", "said"),
    [
        ("pretrain", "training.max_steps=5000", 0, "the settings can be used"),
        ("pretrain", "training.max_stps=5000", 2, "did you mean 'training.max_steps'"),
        ("pretrain", "compute.tensor_parallel=3", 2, "compute.tensor_parallel=3 does not divide"),
        ("finetune", "tuning.rank=4", 0, "the settings can be used"),
        ("finetune", "tuning.rank=four", 2, "tuning.rank takes a whole number, not 'four'"),
    ],
)
def test_settings_are_checked_before_a_job_is_submitted_without_files(
    capsys, monkeypatch, command, setting, code, said
):
    where = ["--store", "/absent/store", "--split", "/absent/split.toml", "--out", "/absent/run"]
    start = ["--from", "/absent/old"] if command == "finetune" else []
    monkeypatch.setattr("sys.argv", ["bionemo-scale", command, *start, *where, "--check", setting])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == code
    told = capsys.readouterr()
    assert said in told.out + told.err


def test_every_command_shows_an_example():
    commands = typer.main.get_command(app).commands
    assert len(commands) > 8
    assert not [name for name, command in commands.items() if "`bionemo-scale " not in (command.epilog or "")]


def test_prediction_uses_the_threads_it_is_told(monkeypatch):
    asked = []
    monkeypatch.setattr("bionemo.scale.threads.use_threads", asked.append)
    where = ["--checkpoint", "absent", "--controls", "c.h5ad", "--out", "p.h5ad", "--perturbations", "A"]
    for more in ([], ["--threads", "3"]):
        CliRunner().invoke(app, ["predict", *where, *more])
    assert asked == [1, 3]
