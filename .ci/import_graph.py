"""Draw which rooms import which, as a Mermaid diagram between the markers of docs' architecture.md.

    python .ci/import_graph.py            # draw it anew
    python .ci/import_graph.py --check    # fail where the drawing is not what the code says

An arrow is left out where a longer way says it already. The contracts in pyproject.toml forbid circles and arrows up.
"""

import sys
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- imports: drawn by .ci/import_graph.py -->", "<!-- imports: end -->"
Graph = dict[str, set[str]]


def rooms() -> Graph:
    """Return the rooms (packages and lone modules of a distribution) and what each imports."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    graph = grimp.build_graph(*rules["root_packages"], cache_dir=None)
    found: Graph = {}
    for module in graph.modules:
        targets = found.setdefault(room(module), set())
        targets |= {room(imported) for imported in graph.find_modules_directly_imported_by(module)} - {room(module)}
    return found


def room(module: str) -> str:
    """Return the room of a module, or the name of its distribution for the face of that."""
    return ".".join(module.split(".")[1:3])


def shortest(graph: Graph) -> Graph:
    """Return a graph without the arrows that a longer way says already; refuse a circle."""
    below: Graph = {}

    def reach(node: str, path: tuple[str, ...]) -> set[str]:
        if node in path:
            sys.exit(f"error: rooms import in a circle: {' -> '.join([*path[path.index(node) :], node])}")
        if node not in below:
            below[node] = set().union(*({t} | reach(t, (*path, node)) for t in graph[node]))
        return below[node]

    for node in graph:
        reach(node, ())
    return {node: {t for t in to if not any(t in below[other] for other in to)} for node, to in graph.items()}


def drawing(graph: Graph) -> str:
    """Return the graph as Mermaid text, one box a distribution."""
    lines = ["```mermaid", "flowchart TD"]
    for distribution in sorted({node.split(".")[0] for node in graph}):
        lines.append(f'  subgraph {distribution}_["bionemo.{distribution}"]')
        inside = sorted(node for node in graph if node.split(".")[0] == distribution)
        lines += [f'    {node.replace(".", "_")}["{node.split(".")[-1]}"]' for node in inside]
        lines.append("  end")
    for node, to in sorted(graph.items()):
        lines += [f"  {node.replace('.', '_')} --> {target.replace('.', '_')}" for target in sorted(to)]
    return "\n".join([*lines, "```"])


def main() -> None:
    """Write the drawing into the page, or compare it with the page."""
    page = next((ROOT / "docs").rglob("architecture.md"))
    text = page.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    drawn = f"{head}{BEGIN}\n{drawing(shortest(rooms()))}\n{END}{rest.split(END)[1]}"
    if "--check" not in sys.argv:
        page.write_text(drawn, encoding="utf-8")
    elif drawn != text:
        sys.exit(f"error: the imports drawn in {page.relative_to(ROOT)} are old: run python .ci/import_graph.py")


if __name__ == "__main__":
    main()
