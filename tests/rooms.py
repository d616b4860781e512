"""The order of the rooms, read from the code's own imports: `python -m tests.rooms` prints it.

A room is a folder of the package, or a file that lies loose at its root. A room imports only rooms before it in
`ORDER`, whatever the kind of import: at the top of a module, inside a function, or for type checkers alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "framework"
PACKAGE = ROOT / "fewstep"
ORDER = (
    "core",
    "runtime",
    "trackers",
    "schedules",
    "predictions",
    "processes",
    "grids",
    "supervision",
    "backbones",
    "adapters",
    "data",
    "denoisers",
    "recipe",
    "samplers",
    "objectives",
    "likelihood",
    "metrics",
    "runs",
    "cluster",
    "sampling",
    "evaluation",
    "training",
    "planning",
    "demo",
    "export",
    "convert",
    "bench",
    "pipeline",
    "testing",
    "cli",
    "__main__",
    "__init__",
)
"""From the ground up. The package's own file comes last: it names what is public, and no module imports it."""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that a module imports, anywhere in its text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else str(node.module)


@cache
def arrows() -> dict[str, set[str]]:
    """What each module imports, without itself."""
    known = modules()
    return {name: set(imports(name, path, known)) - {name} for name, path in known.items()}


def room_of(module: str) -> str:
    """The room that a module lies in."""
    return (module.split(".")[1:] or ["__init__"])[0]


@cache
def rooms() -> dict[str, set[str]]:
    """What each room imports, without itself."""
    found: dict[str, set[str]] = {}
    for module, targets in arrows().items():
        found.setdefault(room_of(module), set()).update(map(room_of, targets))
    return {room: targets - {room} for room, targets in found.items()}


def back_arrows() -> list[str]:
    """Imports from a room to one that does not come before it."""
    place = {room: index for index, room in enumerate(ORDER)}
    return [
        f"{module} -> {target}"
        for module, targets in arrows().items()
        for target in sorted(targets)
        if room_of(module) != room_of(target) and place[room_of(module)] < place[room_of(target)]
    ]


def circles() -> list[list[str]]:
    """Groups of modules that import each other in a circle, by Tarjan's algorithm."""
    graph, index, low = arrows(), {}, {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def floors() -> dict[str, int]:
    """How many rooms lie below each at most, counted along its longest way down; arrows that run back do not count."""
    levels: dict[str, int] = {}
    for room in ORDER:
        levels[room] = max((levels[below] + 1 for below in rooms().get(room, ()) if below in levels), default=0)
    return levels


def loose_files() -> list[str]:
    """Python files at the root of the package."""
    return sorted(path.name for path in PACKAGE.glob("*.py"))


def main() -> None:
    """Print the house from the ground up."""
    levels = floors()
    for floor in sorted(set(levels.values())):
        print(f"floor {floor:2d}: {', '.join(room for room, level in levels.items() if level == floor)}")
    count = sum(map(len, rooms().values()))
    print(
        f"{len(rooms())} rooms, {max(levels.values()) + 1} floors, {count} arrows, {len(back_arrows())} back arrows, "
        f"{len(circles())} circles, {len(loose_files())} loose Python files"
    )
    for line in back_arrows():
        print(f"back: {line}")
    for group in circles():
        print(f"circle: {', '.join(group)}")


if __name__ == "__main__":
    main()
