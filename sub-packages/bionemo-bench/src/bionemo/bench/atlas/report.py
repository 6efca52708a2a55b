"""Write the record of an atlas benchmark, and its tables."""

from pathlib import Path

from bionemo.bench.harness.report import Result, listed, machine_line, table, write_files

_NEEDED = ("wall, s", "CPU, s", "peak RSS, GiB", "written, GiB")
_UNITS = (
    ("wall_seconds", 1, ",.1f"),
    ("cpu_seconds", 1, ",.1f"),
    ("peak_rss_bytes", 2**30, ",.2f"),
    ("written_bytes", 2**30, ",.2f"),
)
_Row = tuple[str, ...]


def write(result: Result, out: Path) -> dict[str, Path]:
    """Write ``atlas.json`` and ``atlas.md`` into a folder, and return them by ending."""
    return write_files(result, out, "atlas", markdown)


def markdown(result: Result) -> str:
    """Return the tables with what was measured."""
    settings = result["settings"]
    facts = [
        f"{result['started']}, {machine_line(result['machine'])}, commit {result['machine']['git_commit']}",
        f"`{' '.join(result['command'])}`",
        ", ".join(f"{name} {value}" for name, value in result["versions"].items()),
        f"{settings['contexts']} contexts x {settings['genes']:,} genes, {settings['cells_per_condition']} cells a "
        f"condition, {settings['held_out']:.0%} of the conditions predicted and scored",
    ]
    tables = [table(head, rows, left) for head, rows, left in _tables(result)]
    if "growth" in result:
        last = f"{result['target_cells']:,} cells were not measured: a straight line through the sizes was followed."
        tables.append(last)
    return "\n\n".join([listed(facts), *tables]) + "\n"


def _tables(result: Result) -> list[tuple[_Row, list[_Row], int]]:
    """Return head, rows and the number of columns of text, of each table."""
    rows: list[_Row] = [
        (f"{size['cells']:,}", stage, *_cells(found))
        for size in result["sizes"]
        for stage, found in size["stages"].items()
    ]
    tables: list[tuple[_Row, list[_Row], int]] = [(("cells", "stage", *_NEEDED), rows, 2)]
    if "growth" in result:
        head = (
            "stage",
            *(f"{name}, a million cells" for name in _NEEDED),
            *(f"{name}, {result['target_cells']:,} cells (extrapolated)" for name in _NEEDED),
        )
        lines: list[_Row] = [
            (stage, *_grown(found, "per_million_cells"), *_grown(found, "at_target"))
            for stage, found in result["growth"].items()
        ]
        tables.append((head, lines, 1))
    return tables


def _grown(found: Result, which: str) -> _Row:
    """Return where the lines of a stage lead; a line that does not rise leads nowhere."""
    rising = {measure: of[which] for measure, of in found.items() if of["per_million_cells"] > 0}
    return _cells(rising, absent="none seen")


def _cells(found: Result, absent: str = "not known") -> _Row:
    return tuple(
        absent if found.get(measure) is None else f"{found[measure] / unit:{form}}" for measure, unit, form in _UNITS
    )
