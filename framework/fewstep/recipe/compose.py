"""Files, `extends` and `--set` composed into one tree; every value keeps its source and line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fewstep.core.echo import shown
from fewstep.core.errors import Problem, RecipeError, UserError
from fewstep.recipe.shipped import find_shipped, is_path
from fewstep.recipe.yaml_loader import Node, dotted, load_mapping, load_value, read_text, to_node

MOST_BASES = 20
"""Limit on the files that extend one another."""


def compose(
    content: Path | Mapping[str, object], source: str, sets: Sequence[str] = (), *, teacher: str | None = None
) -> Node:
    """One file over the files that it extends, then `--set` overrides, then the teacher.

    Args:
        content: the file, or what would stand in a file of the current folder.
        source: its name in messages.
        sets: overrides.
        teacher: run folder for `teacher.run`.

    Raises:
        RecipeError: a file cannot be read or parsed, or an override cannot be applied.
    """
    here = Path.cwd()
    root = _load(content, source) if isinstance(content, Path) else _extended(to_node(content, source), here, ())
    problems: list[Problem] = []
    for index, text in enumerate(sets, start=1):
        try:
            root = merge(root, _parse_set(text, index, root))
        except RecipeError as error:
            problems += error.problems
    if teacher is not None:
        root = merge(root, to_node({"teacher": {"run": teacher}}, "--teacher"))
    if problems:
        raise RecipeError(problems)
    return root


def merge(base: Node, over: Node) -> Node:
    """`over` on top of `base`: mappings are merged key by key, other values are replaced.

    A component may be written as its bare name. A new `type` discards all settings of the old component, so that they
    cannot leak into the new one.
    """
    old, new = _longhand(base, over), _longhand(over, base)
    if not (isinstance(old.value, dict) and isinstance(new.value, dict)):
        return over
    before, after = old.child("type"), new.child("type")
    if before and after and before.value != after.value:
        return over
    merged = {key: merge(old.value[key], child) if key in old.value else child for key, child in new.value.items()}
    return Node({**old.value, **merged}, over.source, over.line)


def _longhand(node: Node, other: Node) -> Node:
    """`digits` as `{type: digits}` if the other node is a mapping."""
    if isinstance(node.value, str) and isinstance(other.value, dict):
        return Node({"type": node}, node.source, node.line)
    return node


def _load(path: Path, source: str, extended_by: tuple[Path, ...] = ()) -> Node:
    """A file merged over the file that it extends."""
    return _extended(load_mapping(read_text(path, source), source), path.parent, (*extended_by, path.resolve()))


def _extended(root: Node, folder: Path, chain: tuple[Path, ...]) -> Node:
    """The content of a file in `folder`, merged over the file that it extends; `chain` is what has led to it."""
    node = anchor_plugins(root, folder)
    extends = node.child("extends")
    if extends is None:
        return node
    if not isinstance(extends.value, str):
        raise RecipeError([extends.problem("expected one string: a path, or the name of a shipped recipe", "extends")])
    base = _base_path(extends, folder)
    if len(chain) > MOST_BASES:
        raise RecipeError([extends.problem(f"more than {MOST_BASES} files extend one another; merge some", "extends")])
    if base.resolve() in chain:
        circle = " -> ".join(display_path(file) for file in (*chain[chain.index(base.resolve()) :], base))
        raise RecipeError([extends.problem(f"goes round in a circle: {circle}", "extends")])
    if not base.is_file():
        raise RecipeError([extends.problem(f"no such file: {display_path(base)}", "extends")])
    own = {key: child for key, child in node.value.items() if key != "extends"}
    return merge(_load(base, display_path(base), chain), Node(own, node.source, node.line))


def _base_path(extends: Node, folder: Path) -> Path:
    if is_path(extends.value):
        return folder / str(extends.value)
    try:
        return find_shipped("base", extends.value)
    except UserError as error:
        raise RecipeError([extends.problem(str(error), "extends")]) from None


def display_path(path: Path) -> str:
    """A path for messages: relative if it lies below the current folder."""
    path, here = path.resolve(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def anchor_plugins(root: Node, folder: Path) -> Node:
    """Make `plugins: [./file.py]` absolute, since it is relative to the file that contains it."""
    plugins = root.child("plugins")
    if plugins is None or not isinstance(plugins.value, list):
        return root
    items = [
        Node(str((folder / item.value).resolve()), item.source, item.line)
        if isinstance(item.value, str) and item.value.endswith(".py")
        else item
        for item in plugins.value
    ]
    return Node({**root.value, "plugins": Node(items, plugins.source, plugins.line)}, root.source, root.line)


def _parse_set(text: str, index: int, root: Node) -> Node:
    """The `index`-th override, such as `a.b=1`, as a mapping to merge over `root`."""
    key, equals, value = text.partition("=")
    steps = key.strip().split(".")
    place = Node(None, "--set", index)
    if not equals or not all(steps):
        raise RecipeError(
            [place.problem(f"expected KEY=VALUE with a dotted key, as in train.steps=100, not '{shown(text)}'")]
        )
    node = load_value(value, "--set", line=index, key=tuple(steps))
    if node is None:
        raise RecipeError([place.problem("no value after '='; write null for none", key)])
    deepest, depth = root.follow(tuple(steps))
    if depth < len(steps) and not isinstance(deepest.value, dict | str | None):
        kind = "a list; set all of it" if isinstance(deepest.value, list) else "a value, not keys"
        raise RecipeError([place.problem(f"'{shown(dotted(tuple(steps[:depth])))}' holds {kind}", key)])
    for step in reversed(steps):
        node = Node({step: node}, "--set", index)
    return anchor_plugins(node, Path.cwd())
