"""Plugins: found through entry points (best effort) or listed by a recipe (required)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from fewstep import __version__
from fewstep.core import entries, plugins
from fewstep.core.entries import distribution_of
from fewstep.core.kinds import KINDS, registry
from fewstep.core.plugins import PluginError, failure_notes, load_required, loaded

SAMPLER = """
from typing import Literal
from fewstep.core.component import ComponentConfig
from fewstep.samplers.base import SAMPLERS, Sampler

@SAMPLERS.register("{name}"{more})
class {cls}(Sampler):
    '''A sampler that does nothing.'''
    class Config(ComponentConfig):
        type: Literal["{name}"] = "{name}"
    def sample(self, denoiser, count, *, steps, generator, cond=None, on_step=None):
        return None
"""


def sampler(name: str, more: str = "") -> str:
    return SAMPLER.format(name=name, more=more, cls=name.title().replace("_", ""))


class Site:
    """A folder of installed distributions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(
        self, name: str, text: str, *, entry: str | None = "", version: str = "1.2", requires: Sequence[str] = ()
    ) -> str:
        """A distribution with one module, and an entry point unless `entry` is None. Returns the module's name."""
        module = name.replace("-", "_") + "_module"
        (self.folder / f"{module}.py").write_text(text)
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "top_level.txt").write_text(module + "\n")
        if entry is not None:
            (info / "entry_points.txt").write_text(f"[fewstep.plugins]\n{entry or name} = {module}\n")
        return module


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty place to install into; registries, imports and the loader are restored afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    before = set(sys.modules)
    with ExitStack() as stack:
        monkeypatch.delenv("FEWSTEP_PLUGINS", raising=False)
        monkeypatch.setattr(plugins, "_loader", quiet := plugins._Loader())
        quiet.discovered = True
        for kind in KINDS:
            stack.enter_context(registry(kind).snapshot())
        monkeypatch.setattr(plugins, "_loader", plugins._Loader())
        monkeypatch.setattr(entries, "_origins", {})
        monkeypatch.syspath_prepend(folder)
        entries._installed.cache_clear()
        yield Site(folder)
    entries._installed.cache_clear()
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_an_installed_plugin_is_found_by_the_first_look_up(site: Site) -> None:
    module = site.install("acme-samplers", sampler("acme"))
    assert registry("samplers").get("acme").distribution == ("acme-samplers", "1.2")
    (plugin,) = loaded()
    assert (plugin.name, plugin.module, plugin.error) == ("acme-samplers", module, None)
    assert str(plugin) == "acme-samplers (acme-samplers 1.2)"


def test_plugins_are_imported_once_and_sorted(site: Site) -> None:
    for name in ("beta", "alpha"):
        site.install(name, f"import sys\nsys.modules.setdefault('order_log', []).append('{name}')\n")
    sys.modules["order_log"] = log = []  # type: ignore[assignment]
    try:
        plugins.load_entry_points()
        plugins.load_entry_points()
    finally:
        del sys.modules["order_log"]
    assert log == ["alpha", "beta"]


def test_a_plugin_may_look_names_up_while_it_is_imported(site: Site) -> None:
    text = sampler("acme") + "\nfrom fewstep.core.kinds import registry\nKNOWN = registry('objectives').names()\n"
    module = site.install("acme", text)
    assert "acme" in registry("samplers").names()
    assert sys.modules[module].KNOWN


def test_a_broken_plugin_is_recorded_undone_and_quoted(site: Site) -> None:
    module = site.install("broken", sampler("half") + "\nimport no_such_module_at_all\n")
    site.install("fine", sampler("fine"))
    names = registry("samplers").names()
    assert "fine" in names
    assert "half" not in names
    assert module not in sys.modules
    (note,) = failure_notes()
    assert note.startswith(
        "plugin 'broken' failed to load: ModuleNotFoundError: No module named 'no_such_module_at_all'"
    )
    assert f"{module}.py:14)" in note
    with pytest.raises(LookupError, match="plugin 'broken' failed to load"):
        registry("samplers").get("half")


def test_undoing_a_plugin_keeps_the_built_in_that_it_replaced(site: Site) -> None:
    text = sampler("ancestral", ', replaces="ancestral"') + "\n1 / 0\n"
    site.install("broken", text)
    assert registry("samplers").get("ancestral").distribution[0] == "fewstep"
    assert "ZeroDivisionError" in failure_notes()[0]


def test_a_collision_names_both_origins(site: Site) -> None:
    site.install("alpha", sampler("same"))
    site.install("beta", sampler("same"))
    assert registry("samplers").get("same").distribution == ("alpha", "1.2")
    (note,) = failure_notes()
    assert "two components claim the sampler name 'same': alpha 1.2 (" in note
    assert "alpha_module.py:6) and beta 1.2 (" in note


def test_exit_and_syntax_errors_are_failures_too(site: Site) -> None:
    site.install("quits", "import sys\nsys.exit('bye')\n")
    site.install("typo", "x = = 1\n")
    plugins.load_entry_points()
    notes = "\n".join(failure_notes())
    assert "plugin 'quits' failed to load: SystemExit: bye (" in notes
    assert "plugin 'typo' failed to load: SyntaxError: invalid syntax (" in notes
    assert "typo_module.py:1)" in notes


@pytest.mark.parametrize(
    ("allowed", "names"), [("none", []), ("", []), ("alpha", ["alpha"]), ("alpha, beta", ["alpha", "beta"])]
)
def test_the_environment_limits_discovery(
    site: Site, monkeypatch: pytest.MonkeyPatch, allowed: str, names: list[str]
) -> None:
    for name in ("alpha", "beta"):
        site.install(name, sampler(name))
    monkeypatch.setenv("FEWSTEP_PLUGINS", allowed)
    assert [name for name in registry("samplers").names() if name in ("alpha", "beta")] == names


def test_a_typo_in_the_environment_is_reported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("acme", sampler("acme"))
    monkeypatch.setenv("FEWSTEP_PLUGINS", "acmee")
    plugins.load_entry_points()
    assert "FEWSTEP_PLUGINS names it, but it is not installed; did you mean 'acme'?" in failure_notes()[0]


@pytest.mark.parametrize("name", ["Acme.Samplers", "short", "acme_samplers_module"])
def test_required_by_distribution_entry_point_or_module(site: Site, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("FEWSTEP_PLUGINS", "none")
    site.install("acme-samplers", sampler("acme"), entry="short")
    assert "acme" not in registry("samplers").names()
    assert load_required(name).distribution == "acme-samplers"
    assert "acme" in registry("samplers").names()


def test_a_required_plugin_that_fails_is_an_error_each_time(site: Site) -> None:
    site.install("broken", sampler("half") + "\n1 / 0\n")
    for _ in range(2):
        with pytest.raises(
            PluginError, match=r"plugin 'broken' failed to load: ZeroDivisionError: .*broken_module.py:14"
        ):
            load_required("broken")


def test_a_required_plugin_that_is_repaired_loads(site: Site) -> None:
    module = site.install("broken", sampler("half") + "\n1 / 0\n")
    assert failure_notes() == []
    plugins.load_entry_points()
    assert failure_notes()
    (site.folder / f"{module}.py").write_text(sampler("half") + "\n# repaired, and of another size\n")
    load_required("broken")
    assert failure_notes() == []
    assert "half" in registry("samplers").names()


def test_a_failed_package_is_imported_afresh(site: Site) -> None:
    package = site.folder / "acme_package"
    package.mkdir()
    (package / "part.py").write_text(sampler("part"))
    (package / "__init__.py").write_text("from acme_package import part\n1 / 0\n")
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        load_required("acme_package", trusted=True)
    assert "part" not in registry("samplers").names()
    (package / "__init__.py").write_text("from acme_package import part  # repaired\n")
    load_required("acme_package", trusted=True)
    assert "part" in registry("samplers").names()


@pytest.mark.parametrize("name", ["acme-sampler", "no_such_module", "no_such.module", "not a name", ""])
def test_a_required_plugin_that_is_not_there(site: Site, name: str) -> None:
    site.install("acme-samplers", sampler("acme"))
    with pytest.raises(PluginError) as caught:
        load_required(name, trusted=True)
    assert f"no plugin '{name}': neither an installed distribution" in str(caught.value)
    assert ("did you mean 'acme-samplers'?" in str(caught.value)) == (name == "acme-sampler")


def test_a_missing_submodule_is_told(site: Site) -> None:
    with pytest.raises(PluginError, match=r"plugin 'json\.nothing' failed to load: ModuleNotFoundError"):
        load_required("json.nothing", trusted=True)


def test_a_plugin_file(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(sampler("mine"))
    load_required(str(path), trusted=True)
    load_required(str(path), trusted=True)
    entry = registry("samplers").get("mine")
    assert entry.distribution == ("mine.py", "")
    assert entry.origin == f"mine.py ({path.resolve()}:6)"


def test_two_plugin_files_of_one_name_live_together(site: Site, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(sampler(f"mine_{folder}"))
        load_required(str(tmp_path / folder / "mine.py"), trusted=True)
    assert {"mine_a", "mine_b"} <= set(registry("samplers").names())


def test_a_plugin_file_that_is_missing_or_fails(site: Site, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"no plugin file '.*none\.py'"):
        load_required(str(tmp_path / "none.py"), trusted=True)
    (tmp_path / "bad.py").write_text(sampler("bad") + "\nundefined_name\n")
    with pytest.raises(PluginError, match=r"NameError: name 'undefined_name' is not defined \(.*bad.py:14\)"):
        load_required(str(tmp_path / "bad.py"), trusted=True)
    assert "bad" not in registry("samplers").names()


# ------------------------------------------------------------- the version that a plugin needs

MET = (
    (),
    ("numpy", "fewstep"),
    ("fewstep>=0.1",),
    ("fewstep<0.2,>=0.1",),
    ("Fewstep ~=0.1.0",),
    ("fewstep>=9; python_version < '3'",),
    ("fewstep>=9; extra == 'later'",),
    ("this is no requirement", "fewstep==0.1.*"),
)
UNMET = (("fewstep>=0.3",), ("fewstep>=0.1", "fewstep<0.1"), ("fewstep!=0.1.0",))


@pytest.mark.parametrize("requires", MET, ids=str)
def test_a_plugin_whose_version_of_fewstep_is_here_is_loaded(site: Site, requires: tuple[str, ...]) -> None:
    site.install("acme", sampler("acme"), requires=requires)
    assert "acme" in registry("samplers").names()
    assert failure_notes() == []


@pytest.mark.parametrize("requires", UNMET, ids=str)
def test_another_is_refused_in_a_sentence_before_its_code_runs(
    site: Site, monkeypatch: pytest.MonkeyPatch, requires: tuple[str, ...]
) -> None:
    monkeypatch.setattr("fewstep.core.api.__version__", "0.1.0")
    module = site.install("acme-dist", "raise SystemExit('ran')", entry="acme", requires=requires)
    registry("samplers").names()
    (note,) = failure_notes()
    assert note.startswith("plugin 'acme' failed to load: it needs fewstep")
    assert note.endswith(", and this is fewstep 0.1.0; install another version of fewstep or of acme-dist")
    assert module not in sys.modules
    with pytest.raises(PluginError, match="plugin 'acme' failed to load: it needs fewstep"):
        load_required("acme")


def test_a_plugin_knows_its_file_its_need_and_its_time(site: Site) -> None:
    module = site.install("acme", "import time\ntime.sleep(0.02)\n", requires=("fewstep<0.2,>=0.1",))
    refused = site.install("later", "", requires=("fewstep>=7",))
    site.install("broken", "1 / 0\n")
    plugins.load_entry_points()
    acme, broken, later = loaded()
    assert (acme.needs, acme.file, acme.error) == ("<0.2,>=0.1", str(site.folder / f"{module}.py"), None)
    assert 0.02 <= acme.seconds < 5
    assert (later.needs, later.file) == (">=7", str(site.folder / f"{refused}.py"))
    assert broken.file == str(site.folder / "broken_module.py")


# ------------------------------------------------------------- what a model needs


def test_distributions_that_a_model_needs_are_loaded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_PLUGINS", "none")
    site.install("acme-samplers", sampler("acme"))
    plugins.load_distributions({"Acme_Samplers": "0.9"})
    assert "acme" in registry("samplers").names()


def test_distributions_that_are_missing_are_named_in_one_sentence(site: Site) -> None:
    site.install("acme", sampler("acme"))
    with pytest.raises(PluginError) as caught:
        plugins.load_distributions({"fewstep-one": "1.0", "acme": "1.2", "two": "; rm"})
    assert str(caught.value) == (
        "fewstep-one 1.0, two ; rm, which are not installed; if you trust the authors: "
        "pip install 'fewstep-one==1.0' 'two'"
    )


@pytest.mark.parametrize("name", ["json", "./mine.py", "mine.py", "nothing"])
def test_a_name_without_an_entry_point_runs_nothing(
    site: Site, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("raise SystemExit('ran')")
    with plugins.trusting_plugins(), pytest.raises(PluginError, match="not installed"):
        plugins.load_distributions({name: "1"})


def test_a_needed_plugin_that_fails_says_why(site: Site) -> None:
    site.install("broken", "1 / 0\n")
    with pytest.raises(PluginError, match="'broken': ZeroDivisionError"):
        plugins.load_distributions({"broken": "1.2"})


def test_distributions(site: Site) -> None:
    site.install("plain-thing", "", entry=None, version="7")
    assert distribution_of("fewstep.samplers.ancestral") == ("fewstep", __version__)
    assert distribution_of("plain_thing_module") == ("plain-thing", "7")
    assert distribution_of("nobody_knows.this") == ("nobody_knows", "")


def test_importing_it_loads_no_torch() -> None:
    code = (
        "import sys, fewstep.core.plugins; fewstep.core.plugins.load_entry_points(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
