"""YAML with the scalars of YAML 1.2, errors for duplicate keys, and the source line of every value. Loads no torch."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fewstep.core.echo import shown
from fewstep.core.errors import Problem, RecipeError

Key = tuple[str | int, ...]
"""Position of a value: mapping keys and list indices, outermost first."""

MAX_BYTES = 1 << 18
"""Limit on the size of a file or text: 256 KiB, some fifty times the longest recipe."""
_LARGE = f"is larger than {MAX_BYTES >> 10} KiB; is it a recipe?"
MAX_VALUES = 10_000
"""Limit on the number of keys and values; what an alias stands for counts at each alias."""
MAX_DEPTH = 50
"""Limit on the nesting of keys and lists."""

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9][0-9_]*$|0x[0-9a-fA-F]+$|0o[0-7]+$")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
# Types of plain scalars; the first match wins. Any other scalar (yes, on, 12:30, 2026-01-01) is a string.
_SCALARS = (("null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
            ("bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
            ("int", _INT, list("-+0123456789")),
            ("float", _FLOAT, list("-+.0123456789")))  # fmt: skip
_ALLOWED_TAGS = {_TAG + name for name in ("null", "bool", "int", "float", "str", "map", "seq")}


class _TooLarge(Exception):
    """A text goes beyond a limit."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(message)


def _refuse_large(count: int, depth: int, line: int) -> None:
    if count > MAX_VALUES:
        raise _TooLarge(line, f"more than {MAX_VALUES:,} values, counting what aliases stand for; write fewer")
    if depth > MAX_DEPTH:
        raise _TooLarge(line, f"nested too deeply: more than {MAX_DEPTH} keys and lists in one another")


class _Loader(yaml.SafeLoader):
    """Reads `1e-4` as a number and `no` as a string, as in YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's attribute

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # Parsing ends at the limits, since a large file would take PyYAML a minute.
        self._count += 1
        self._depth += 1
        _refuse_large(self._count, self._depth, self.peek_event().start_mark.line + 1)  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self._depth -= 1
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = node.value.replace("_", "")
        return int(text, 0 if text[:2] in ("0x", "0o") else 10)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        text = node.value.replace("_", "").lower()
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


class _Dumper(yaml.SafeDumper):
    """Quotes every string that this loader, or a YAML 1.1 reader, would read as another type."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_line_breaks(self, text: str) -> yaml.Node:
        # Unquoted, NEL and the Unicode separators would be read back as plain line breaks.
        return self.represent_scalar(_TAG + "str", text, style='"' if set(text) & set("\x85\u2028\u2029") else None)

    def represent_short_list(self, items: list[object]) -> yaml.Node:
        nested = any(isinstance(item, list | dict) for item in items)
        return self.represent_sequence(_TAG + "seq", items, flow_style=not nested)


_Dumper.add_representer(str, _Dumper.represent_line_breaks)
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, _first)
    _Dumper.add_implicit_resolver(_TAG + _name, _pattern, _first)
_Loader.add_constructor(_TAG + "int", _Loader.construct_yaml_int)
_Loader.add_constructor(_TAG + "float", _Loader.construct_yaml_float)
_Dumper.add_representer(list, _Dumper.represent_short_list)


@dataclass(frozen=True)
class Node:
    """A YAML value with its file and line; the value of a mapping is a dict of nodes."""

    value: Any
    source: str
    line: int | None

    def plain(self) -> Any:
        """The value without positions."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def child(self, step: str | int) -> Node | None:
        """The value under one key or index, or None."""
        if isinstance(self.value, dict):
            value: Node | None = self.value.get(step)
            return value
        if isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            item: Node = self.value[step]
            return item
        return None

    def follow(self, key: Key) -> tuple[Node, int]:
        """The deepest existing value on the path `key`, and the number of existing steps."""
        node = self
        for depth, step in enumerate(key):
            below = node.child(step)
            if below is None:
                return node, depth
            node = below
        return node, len(key)

    def problem(self, message: str, key: str = "") -> Problem:
        """A problem at this place."""
        return Problem(self.source, self.line, key, message)


def to_node(value: object, source: str, line: int | None = None, depth: int = 1) -> Node:
    """Plain data as nodes that all have this source and line.

    Raises:
        RecipeError: nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise RecipeError([Problem(source, line, "", f"nested too deeply: more than {MAX_DEPTH} deep")])
    if isinstance(value, Mapping):
        return Node({key: to_node(item, source, line, depth + 1) for key, item in value.items()}, source, line)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return Node([to_node(item, source, line, depth + 1) for item in value], source, line)
    return Node(value, source, line)


def dotted(key: Key) -> str:
    """Written form of a key: `a.b[0]` for `("a", "b", 0)`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in key).removeprefix(".")


def undotted(text: str) -> Key:
    """The inverse of `dotted`."""
    return tuple(int(index) if index else name for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", text))


def read_text(path: Path, source: str | None = None) -> str:
    """Text of a UTF-8 file; `source` is its name in messages.

    Raises:
        RecipeError: the file is missing, not a regular file, too large, unreadable, or not UTF-8.
    """
    source = source or str(path)
    try:
        raw = _read_regular(path, source)
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{raw[error.start]:02x}"
        raise RecipeError([Problem(source, line, "", f"not UTF-8 text ({byte}); save the file as UTF-8")]) from None
    except FileNotFoundError:
        raise RecipeError([Problem(source, None, "", "no such file")]) from None
    except OSError as error:
        raise RecipeError([Problem(source, None, "", f"cannot be read: {error.strerror}")]) from None


def _read_regular(path: Path, source: str) -> bytes:
    """Content of a regular file; others are refused unread, since a pipe or device may never end."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder; name a YAML file in it" if stat.S_ISDIR(mode) else "no regular file; save it as one"
            raise RecipeError([Problem(source, None, "", f"is {kind}")])
        with open(descriptor, "rb", closefd=False) as file:
            raw = file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(raw) > MAX_BYTES:
        raise RecipeError([Problem(source, None, "", _LARGE)])
    return raw


def load_mapping(text: str, source: str) -> Node:
    """The keys and values of a YAML file.

    Raises:
        RecipeError: the text is not valid YAML, has duplicate keys, is empty, or is not a mapping.
    """
    node = load_value(text, source)
    if node is None:
        raise RecipeError([Problem(source, 1, "", "the file is empty")])
    if not isinstance(node.value, dict):
        form = "a list" if isinstance(node.value, list) else "a single value"
        raise RecipeError([node.problem(f"expected keys and values (`name: ...`), found {form}")])
    return node


def load_value(text: str, source: str, *, line: int | None = None, key: Key = ()) -> Node | None:
    """Any YAML value; None for an empty text.

    Args:
        text: YAML.
        source: name of the text in messages.
        line: line of every value, for a one-line override; None counts lines.
        key: position of the value in the recipe.

    Raises:
        RecipeError: the text is not valid YAML, has duplicate keys, or is too large or nested too deeply.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError([Problem(source, line, dotted(key), _LARGE)])
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        builder = _Builder(loader, source, line)
        node = builder.build(root, key)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        error_line = line or (mark.line + 1 if mark else None)
        raise RecipeError([Problem(source, error_line, "", _syntax(error))]) from None
    except yaml.reader.ReaderError as error:
        error_line = line or text.count("\n", 0, error.position) + 1
        raise RecipeError(
            [Problem(source, error_line, "", f"the character {chr(error.character)!r} is not allowed")]
        ) from None
    except _TooLarge as error:
        raise RecipeError([Problem(source, line or error.line, dotted(key), str(error))]) from None
    if builder.problems:
        raise RecipeError(builder.problems)
    return node


def dump_yaml(value: object) -> str:
    """Plain data as YAML; `load_value` restores equal data."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "syntax error"
    if r"'\t'" in problem:
        return "not valid YAML: a tab cannot indent or start a value; use spaces"
    context = f"{error.context}, " if error.context and error.problem else ""
    return f"not valid YAML: {context}{problem}"


class _Builder:
    """Converts PyYAML's nodes to `Node` and collects the problems."""

    def __init__(self, loader: _Loader, source: str, line: int | None) -> None:
        self.loader = loader
        self.source = source
        self.line = line
        self.problems: list[Problem] = []
        self._open: set[int] = set()
        self._count = 0

    def build(self, raw: yaml.Node, key: Key = (), line: int | None = None) -> Node:
        """The node of `raw` at position `key`; `line` is the line of its mapping key, if it has one."""
        line = line or self._line(raw)
        self._count += 1
        _refuse_large(self._count, len(key) + 1, line)
        if raw.tag not in _ALLOWED_TAGS:
            return self._report(key, line, f"the tag '{shown(raw.tag.replace(_TAG, '!!'))}' is not allowed")
        if id(raw) in self._open:  # an anchor in itself would recurse without end
            return self._report(key, line, "an alias that contains itself")
        self._open.add(id(raw))
        try:
            if isinstance(raw, yaml.MappingNode):
                return Node(self._mapping(raw, key), self.source, line)
            if isinstance(raw, yaml.SequenceNode):
                items = [self.build(item, (*key, index)) for index, item in enumerate(raw.value)]
                return Node(items, self.source, line)
            value = self.loader.construct_object(raw)  # type: ignore[no-untyped-call]
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                return self._report(key, line, "should be a whole number below 2^63")
            return Node(value, self.source, line)
        except ValueError:
            return self._report(key, line, f"'{shown(raw.value)}' is not a {raw.tag.removeprefix(_TAG)}")
        finally:
            self._open.discard(id(raw))

    def _mapping(self, raw: yaml.MappingNode, key: Key) -> dict[str, Node]:
        values: dict[str, Node] = {}
        for name, value in raw.value:
            line = self._line(name)
            if not isinstance(name, yaml.ScalarNode):
                self._report(key, line, "a key must be a single word or number, not a list or mapping")
                continue
            step = (*key, name.value)
            if name.value in values:
                lines = "" if self.line else f" on lines {values[name.value].line} and {line}"
                self._report(step, line, f"duplicate key '{shown(name.value)}'{lines}; keep one of them")
                continue
            values[name.value] = self.build(value, step, line)
        return values

    def _line(self, raw: yaml.Node) -> int:
        return self.line or raw.start_mark.line + 1

    def _report(self, key: Key, line: int, message: str) -> Node:
        self.problems.append(Problem(self.source, line, dotted(key), message))
        return Node(None, self.source, line)
