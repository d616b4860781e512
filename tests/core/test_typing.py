"""What a type checker can know of the package: settings have types of their own, and little is `Any`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import fewstep

PACKAGE = Path(fewstep.__file__).parent
MOST = 45
"""Arguments and returns of the package whose annotation says `Any`, alone or within another type."""


def annotations(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, ast.expr]]:
    """Names and annotations of the arguments, and that of the return."""
    a = function.args
    for argument in (*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))):
        if argument.annotation is not None:
            yield argument.arg, argument.annotation
    if function.returns is not None:
        yield "return", function.returns


def says_any(annotation: ast.expr, aliases: frozenset[str] = frozenset()) -> bool:
    """Whether `Any`, or one of the names that stand for a type with it, occurs in an annotation."""
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    return bool(names & {"Any", *aliases})


def aliases_of(tree: ast.Module) -> frozenset[str]:
    """Names that a module gives to types with `Any` in them (`Rows = list[dict[str, Any]]`)."""
    return frozenset(
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp) and says_any(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    )


def signatures() -> list[str]:
    """`file:line name(argument: annotation)` of every annotation of the package that says `Any`."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    modules = {
        ".".join(("fewstep", *path.relative_to(PACKAGE).with_suffix("").parts)): tree for path, tree in trees.items()
    }
    lines = []
    for path, tree in trees.items():
        aliases = aliases_of(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                aliases |= {name.name for name in node.names} & aliases_of(modules[node.module])
        lines += [
            f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}({name}: {ast.unparse(annotation)})"
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for name, annotation in annotations(node)
            if says_any(annotation, aliases)
        ]
    return lines


def test_settings_and_recipes_have_types() -> None:
    untyped = [line for line in signatures() if "(config: Any)" in line or "(recipe: Any)" in line]
    texts = [str(path) for path in PACKAGE.rglob("*.py") if "config: Any" in path.read_text()]
    assert not untyped + texts


def test_few_signatures_say_any() -> None:
    found = signatures()
    assert len(found) <= MOST, "\n".join(found)
