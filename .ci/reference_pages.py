"""Write what the reference pages take from the code: every setting of the dataclasses, every option of the commands.

    python .ci/reference_pages.py            # write it anew
    python .ci/reference_pages.py --check    # fail where a page is not what the code says

A page has it between the markers ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``.
"""

import ast
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

PAGES = Path(__file__).parents[1] / "docs" / "reference"


def documentation(kind: type) -> dict[str, str]:
    """Return the text under each field of a dataclass, in one line."""
    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    found = {}
    for here, below in pairwise(body):
        if isinstance(here, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[here.target.id] = plain(str(below.value.value))  # type: ignore[union-attr]
    return found


def plain(text: str) -> str:
    """Return a docstring as one line of Markdown that fits a table's cell."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    return " ".join(text.replace("``", "`").split()).replace("|", r"\|")


def cell(value: Any) -> str:
    """Return a value as a user types it."""
    if value is MISSING:
        return "by recipe"
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value.value if isinstance(value, Enum) else value}`"


def settings() -> str:
    """Return one table for each section of the configuration, and the recipes' own values."""
    from bionemo.scale.config.compute import ComputeConfig
    from bionemo.scale.config.model import ModelConfig
    from bionemo.scale.config.presets import ABOUT, FINETUNING, PRETRAINING
    from bionemo.scale.config.training import TrainingConfig
    from bionemo.scale.config.tuning import TuningConfig

    sections = {"model": ModelConfig, "compute": ComputeConfig, "training": TrainingConfig, "tuning": TuningConfig}
    parts = []
    for section, kind in sections.items():
        texts = documentation(kind)
        first = plain((inspect.getdoc(kind) or "").split("\n\n")[0])
        parts += [f"## `{section}`", "", first, "", "| setting | default | what it is |", "| --- | --- | --- |"]
        for field in fields(kind):
            kinds = [field.type, *getattr(field.type, "__args__", ())]
            choices = next((k for k in kinds if isinstance(k, type) and issubclass(k, Enum)), None)
            words = [texts.get(field.name, "" if choices is None else plain(choices.__doc__ or ""))]
            if choices is not None:
                words.append("One of " + ", ".join(f"`{choice.value}`" for choice in choices) + ".")
            text = " ".join(word for word in words if word)
            if not text:
                sys.exit(f"error: {section}.{field.name} says nothing of itself: write a line under the field")
            parts.append(f"| `{section}.{field.name}` | {cell(field.default)} | {text} |")
        parts.append("")
    for title, recipes in {"training": PRETRAINING, "finetuning": FINETUNING}.items():
        parts += [f"## Recipes of {title}", "", "| recipe | what it is for |", "| --- | --- |"]
        parts += [f"| `{name}` | {plain(ABOUT[name])} |" for name in recipes]
        parts += ["", f"| setting | {' | '.join(f'`{name}`' for name in recipes)} |"]
        parts.append("| --- |" + " ---: |" * len(recipes))
        for section, config in next(iter(recipes.values())).items():
            for field in fields(config):
                values = [getattr(recipe[section], field.name) for recipe in recipes.values()]
                if any(value != field.default for value in values):
                    parts.append(f"| `{section}.{field.name}` | {' | '.join(map(cell, values))} |")
        parts.append("")
    return "\n".join(parts).rstrip()


def commands() -> str:
    """Return every command of every program with its arguments and options."""
    from bionemo.bench.cli import app as bench
    from bionemo.perteval.cli import app as perteval
    from bionemo.scale.cli.app import app as scale

    parts = []
    for program, app in {"bionemo-scale": scale, "perteval": perteval, "bionemo-bench": bench}.items():
        group = typer.main.get_command(app)
        assert isinstance(group, typer.core.TyperGroup)
        parts += [f"## `{program}`", "", plain(group.help or ""), ""]
        for name, command in group.commands.items():
            context = typer.Context(command, info_name=f"{program} {name}")
            parts += [f"### `{program} {name}`", "", plain(command.help or ""), ""]
            if command.epilog:
                parts += [plain(command.epilog), ""]
            rows = []
            for param in command.params:
                record = param.get_help_record(context)
                if record:
                    names, text = (plain(part) for part in record)
                    rows.append(f"| `{names}` | {text} |")
            parts += ["| | |", "| --- | --- |", *rows, ""]
    return "\n".join(parts).rstrip()


WRITTEN: dict[str, tuple[Path, Callable[[], str]]] = {
    "settings": (PAGES / "configuration.md", settings),
    "commands": (PAGES / "command_line.md", commands),
}


def renewed(name: str) -> str:
    """Return the page of that name as the code says it must be."""
    page, write = WRITTEN[name]
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, rest = page.read_text(encoding="utf-8").split(begin)
    return f"{head}{begin}\n\n{write()}\n\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Write the pages, or check them."""
    for name, (page, _) in WRITTEN.items():
        text = renewed(name)
        if "--check" not in sys.argv:
            page.write_text(text, encoding="utf-8")
        elif page.read_text(encoding="utf-8") != text:
            sys.exit(f"error: {page.name} is not what the code says: run python .ci/reference_pages.py")


if __name__ == "__main__":
    main()
