"""Messages in the words of Python: keywords in the place of the command line's options."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from fewstep.core.errors import FewstepError, RecipeError

FUNCTIONS = ("train", "distill", "benchmark")
"""Commands that are functions of the package too."""
_FLAGS = ("quick", "trust_plugins", "keep_code", "private")
"""Options without a value."""
_RENAMED = {"set": "changes", "repo": "repo_id"}
"""Options whose keyword has another name."""
_COMMAND = re.compile(r"\bfewstep (?P<verb>[a-z][a-z-]*)(?P<words>(?: [^\s`;,()]+)*)")
_VALUE = r"[A-Z][A-Z|/-]+|[\w.{}~-]*[/=][^\s`;,()]*"
_OPTION = re.compile(rf"(?<![\w-])--(?P<name>[a-z]+(?:-[a-z]+)*)(?: (?P<value>{_VALUE}|\w+(?=`)))?")
_ASIDE = re.compile(r" \(in Python: [^()]*\)")


@contextmanager
def python_words() -> Iterator[None]:
    """Within it, errors name keywords of functions and not options of commands."""
    try:
        yield
    except FewstepError as error:
        if isinstance(error, RecipeError):
            error.problems = [
                replace(problem, source=in_python(problem.source), message=in_python(problem.message))
                for problem in error.problems
            ]
        error.args = tuple(in_python(arg) if isinstance(arg, str) else arg for arg in error.args)
        raise


def in_python(text: str) -> str:
    """A message with `top_p` for `--top-p`, `resume="runs/x"` for `--resume runs/x`, and
    `fewstep.train("x")` for `fewstep train x`; commands that are no functions stay as they are."""
    parts, end = [], 0
    for command in _COMMAND.finditer(text):
        parts += [_keywords(text[end : command.start()]), _call(command)]
        end = command.end()
    return "".join([*parts, _keywords(text[end:])])


def _keywords(text: str) -> str:
    return _OPTION.sub(_keyword, _ASIDE.sub("", text))


def _keyword(option: re.Match[str]) -> str:
    name, value = _named(option["name"]), option["value"]
    if value is None:
        return f"{name}=True" if name in _FLAGS else name
    return f"{name}={_literal(name, value)}"


def _named(option: str) -> str:
    name = option.replace("-", "_")
    return _RENAMED.get(name, name)


def _literal(name: str, value: str) -> str:
    if name == "changes" and "=" in value:
        key, _, setting = value.partition("=")
        return json.dumps({key: _scalar(setting)}, ensure_ascii=False)
    return value if value.isupper() else json.dumps(_scalar(value), ensure_ascii=False)


def _scalar(value: str) -> object:
    return int(value) if value.isdecimal() else value


def _call(command: re.Match[str]) -> str:
    """A command as the call of a function, if it is one."""
    if command["verb"] not in FUNCTIONS:
        return command[0]
    name = f"fewstep.{command['verb']}"
    try:
        words = shlex.split(command["words"])
    except ValueError:
        return command[0]
    arguments: list[str] = []
    changes: dict[str, object] = {}
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            arguments.append(word if word.isupper() else json.dumps(word, ensure_ascii=False))
            continue
        option = _named(word.removeprefix("--"))
        value = words.pop(0) if words and not words[0].startswith("--") and option not in _FLAGS else None
        if option == "changes" and value and "=" in value:
            key, _, setting = value.partition("=")
            changes[key] = _scalar(setting)
        elif value is None:
            arguments.append(f"{option}=True")
        else:
            arguments.append(f"{option}={_literal(option, value)}")
    if changes:
        arguments.append(f"changes={json.dumps(changes, ensure_ascii=False)}")
    return f"{name}({', '.join(arguments)})" if arguments else name
