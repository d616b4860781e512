"""`fewstep new-plugin`: a distribution with one component, its test, a recipe and a page, correct from the start."""

from __future__ import annotations

import importlib.util
import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from fewstep.core.echo import shown
from fewstep.core.errors import UserError
from fewstep.core.kinds import kind_named, registry
from fewstep.core.version import __version__

TEMPLATES = Path(__file__).with_name("templates")
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST = 30
"""Limit on the letters of a name: lines of the templates stay below 120."""


@dataclass(frozen=True)
class NewPlugin:
    """Names of a new distribution and of the component in it.

    Args:
        distribution: such as "fewstep-mine".
        kind: plural, as `fewstep list` names kinds.
    """

    distribution: str
    kind: str

    @property
    def package(self) -> str:
        return self.distribution.replace("-", "_")

    @property
    def component(self) -> str:
        return self.package.removeprefix("fewstep_")

    @property
    def recipe(self) -> str:
        """Path of the recipe below the folder."""
        return f"recipes/{self.component.replace('_', '-')}.yaml"

    @property
    def trained_before(self) -> str:
        """Shipped recipe whose run the plugin's recipe needs; "" if it needs none."""
        return "smoke-teacher" if self.kind == "noise_inputs" else ""

    def names(self) -> dict[str, str]:
        """Values of the templates' variables."""
        major, minor = (int(part) for part in __version__.split(".")[:2])
        words = registry(self.kind).kind
        return {
            "distribution": self.distribution,
            "package": self.package,
            "component": self.component,
            "recipe": Path(self.recipe).stem,
            "klass": "".join(part.capitalize() for part in self.component.split("_")),
            "kind": words,
            "a_kind": f"{'an' if words[0] in 'aeiou' else 'a'} {words}",
            "kinds": self.kind,
            "api": f"fewstep>={major}.{minor},<{major}.{minor + 1}",
            "before": f"fewstep train {self.trained_before}\n" if self.trained_before else "",
        }

    def files(self) -> dict[str, str]:
        """Content of every file, by path below the distribution's folder."""
        names, common, own = self.names(), TEMPLATES / "common", TEMPLATES / self.kind
        module = f"src/{self.package}"
        sources = {
            "pyproject.toml": common / "pyproject.toml.txt",
            "README.md": common / "README.md.txt",
            f"{module}/__init__.py": common / "init.py.txt",
            f"{module}/{self.component}.py": own / "component.py.txt",
            self.recipe: own / "recipe.yaml.txt",
            f"tests/test_{self.component}.py": own / "test.py.txt",
        }
        texts = {path: Template(file.read_text(encoding="utf-8")).substitute(names) for path, file in sources.items()}
        return {**texts, f"{module}/py.typed": ""}


def new_plugin(name: str, kind: str, folder: str | Path | None = None) -> tuple[NewPlugin, Path]:
    """Write a new distribution; returns its names and its folder.

    Args:
        name: of the distribution, such as "fewstep-mine"; its component is called "mine".
        kind: singular or plural ("objective").
        folder: new folder; None for one named like the distribution.

    Raises:
        UserError: there is no such kind, the name cannot be one or is taken, or the folder is not empty.
    """
    plugin = NewPlugin(name, kind_named(kind))
    _check_name(plugin)
    path = Path(folder or name)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"'{path}' exists already; name another folder with --out, or delete it")
    for place, text in plugin.files().items():
        file = path / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return plugin, path


def _check_name(plugin: NewPlugin) -> None:
    """Check that distribution, package and component can have these names.

    Raises:
        UserError: they cannot.
    """
    name = plugin.distribution
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UserError(
            f"NAME: '{shown(name)}' cannot name a distribution and a package; write at most {_LONGEST} lower-case "
            "letters, digits and dashes, such as fewstep-mine"
        )
    if any(map(keyword.iskeyword, (plugin.package, plugin.component))):
        raise UserError(f"NAME: '{name}' is a word of Python; add one, such as {name}-plugin")
    if plugin.component == "fewstep" or importlib.util.find_spec(plugin.package):
        raise UserError(f"NAME: a module '{plugin.package}' is installed already; take another name")
    components = registry(plugin.kind)
    if plugin.component in components.names():
        origin = components.get(plugin.component).origin
        raise UserError(f"NAME: {origin} has the {components.kind} '{plugin.component}'; take another name")
