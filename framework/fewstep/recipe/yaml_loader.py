"""YAML with YAML 1.2's scalars, no silent duplicates, and a source line behind every value. Loads no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fewstep.core.errors import Problem, RecipeError

Key = tuple[str | int, ...]
"""Where a value stands: mapping keys and list indices, outermost first."""

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9][0-9_]*$|0x[0-9a-fA-F]+$|0o[0-7]+$")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
# What a plain scalar is, first match wins; everything else (yes, on, 12:30, 2026-01-01) is a string.
_SCALARS = (("null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
            ("bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
            ("int", _INT, list("-+0123456789")),
            ("float", _FLOAT, list("-+.0123456789")))  # fmt: skip
_ALLOWED_TAGS = {_TAG + name for name in ("null", "bool", "int", "float", "str", "map", "seq")}


class _Loader(yaml.SafeLoader):
    """Reads `1e-4` as a number and `no` as a string, as YAML 1.2 does."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's attribute

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = node.value.replace("_", "")
        return int(text, 0 if text[:2] in ("0x", "0o") else 10)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        text = node.value.replace("_", "").lower()
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


class _Dumper(yaml.SafeDumper):
    """Quotes every string that this loader, or a YAML 1.1 reader, would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_line_breaks(self, text: str) -> yaml.Node:
        # Unquoted, NEL and the Unicode separators would be read back as plain line breaks.
        return self.represent_scalar(_TAG + "str", text, style='"' if set(text) & set("\x85\u2028\u2029") else None)

    def represent_short_list(self, items: list[Any]) -> yaml.Node:
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
    """A YAML value that knows the file and line that it came from; a mapping's value is a dict of nodes."""

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
            found: Node | None = self.value.get(step)
            return found
        if isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            item: Node = self.value[step]
            return item
        return None

    def follow(self, key: Key) -> tuple[Node, int]:
        """The deepest value on the way to `key`, and how many steps of it exist."""
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


def to_node(value: Any, source: str, line: int | None = None) -> Node:
    """Give plain data a source; all of it is said to stand at `line`."""
    if isinstance(value, Mapping):
        return Node({key: to_node(item, source, line) for key, item in value.items()}, source, line)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return Node([to_node(item, source, line) for item in value], source, line)
    return Node(value, source, line)


def dotted(key: Key) -> str:
    """`("a", "b", 0)` as a person writes it: `a.b[0]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in key).removeprefix(".")


def undotted(text: str) -> Key:
    """The inverse of `dotted`."""
    return tuple(int(index) if index else name for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", text))


def read_text(path: Path, source: str | None = None) -> str:
    """A UTF-8 file's text.

    Raises:
        RecipeError: it is missing, a folder, unreadable, or not UTF-8.
    """
    source = source or str(path)
    try:
        raw = path.read_bytes()
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{raw[error.start]:02x}"
        raise RecipeError([Problem(source, line, "", f"not UTF-8 text ({found}); save the file as UTF-8")]) from None
    except FileNotFoundError:
        raise RecipeError([Problem(source, None, "", "no such file")]) from None
    except IsADirectoryError:
        raise RecipeError([Problem(source, None, "", "is a folder; name a YAML file in it")]) from None
    except OSError as error:
        raise RecipeError([Problem(source, None, "", f"cannot be read: {error.strerror}")]) from None


def load_mapping(text: str, source: str) -> Node:
    """The keys and values of a YAML file.

    Raises:
        RecipeError: not valid YAML, duplicate keys, empty, or something else than a mapping on top.
    """
    node = load_value(text, source)
    if node is None:
        raise RecipeError([Problem(source, 1, "", "the file is empty")])
    if not isinstance(node.value, dict):
        found = "a list" if isinstance(node.value, list) else "a single value"
        raise RecipeError([node.problem(f"expected keys and values (`name: ...`), found {found}")])
    return node


def load_value(text: str, source: str, *, line: int | None = None, key: Key = ()) -> Node | None:
    """Any YAML value; None if there is none. An override's text stands at one `line` and under a `key`.

    Raises:
        RecipeError: not valid YAML, or duplicate keys.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        builder = _Builder(loader, source, line)
        node = builder.build(root, key)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = line or (mark.line + 1 if mark else None)
        raise RecipeError([Problem(source, where, "", _syntax(error))]) from None
    except yaml.reader.ReaderError as error:
        where = line or text.count("\n", 0, error.position) + 1
        raise RecipeError(
            [Problem(source, where, "", f"the character {chr(error.character)!r} is not allowed")]
        ) from None
    except RecursionError:
        raise RecipeError([Problem(source, line, "", "nested too deeply")]) from None
    if builder.problems:
        raise RecipeError(builder.problems)
    return node


def dump_yaml(value: Any) -> str:
    """Plain data as YAML that `load_value` reads back to the same."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "syntax error"
    if r"'\t'" in problem:
        return "not valid YAML: a tab cannot indent or start a value; use spaces"
    context = f"{error.context}, " if error.context and error.problem else ""
    return f"not valid YAML: {context}{problem}"


class _Builder:
    """Turns PyYAML's nodes into ours and gathers what is wrong on the way."""

    def __init__(self, loader: _Loader, source: str, line: int | None) -> None:
        self.loader = loader
        self.source = source
        self.line = line
        self.problems: list[Problem] = []
        self._open: set[int] = set()

    def build(self, raw: yaml.Node, key: Key = (), line: int | None = None) -> Node:
        """Our node for `raw`, which stands under `key`; `line` is that of the key where there is one."""
        line = line or self._line(raw)
        if raw.tag not in _ALLOWED_TAGS:
            return self._wrong(key, line, f"the tag '{raw.tag.replace(_TAG, '!!')}' is not allowed")
        if id(raw) in self._open:
            return self._wrong(key, line, "an alias that contains itself")
        self._open.add(id(raw))
        try:
            if isinstance(raw, yaml.MappingNode):
                return Node(self._mapping(raw, key), self.source, line)
            if isinstance(raw, yaml.SequenceNode):
                items = [self.build(item, (*key, index)) for index, item in enumerate(raw.value)]
                return Node(items, self.source, line)
            return Node(self.loader.construct_object(raw), self.source, line)
        except ValueError:
            return self._wrong(key, line, f"'{raw.value}' is not a {raw.tag.removeprefix(_TAG)}")
        finally:
            self._open.discard(id(raw))

    def _mapping(self, raw: yaml.MappingNode, key: Key) -> dict[str, Node]:
        values: dict[str, Node] = {}
        for name, value in raw.value:
            line = self._line(name)
            if not isinstance(name, yaml.ScalarNode):
                self._wrong(key, line, "a key must be a single word or number, not a list or mapping")
                continue
            step = (*key, name.value)
            if name.value in values:
                lines = "" if self.line else f" on lines {values[name.value].line} and {line}"
                self._wrong(step, line, f"duplicate key '{name.value}'{lines}; keep one of them")
                continue
            values[name.value] = self.build(value, step, line)
        return values

    def _line(self, raw: yaml.Node) -> int:
        return self.line or raw.start_mark.line + 1

    def _wrong(self, key: Key, line: int, message: str) -> Node:
        self.problems.append(Problem(self.source, line, dotted(key), message))
        return Node(None, self.source, line)
