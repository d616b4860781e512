"""Names to components: lazy, loud about collisions, helpful about typos."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from fewstep.core import plugins
from fewstep.core.component import Component, ComponentConfig, Strict
from fewstep.core.entries import RegistryError, undo_registrations_on_failure
from fewstep.core.errors import UserError
from fewstep.core.kinds import KINDS, registry
from fewstep.core.registry import Registry
from fewstep.samplers.base import SAMPLERS

PACKAGE = "toy_components"


class Toy(Component):
    """Base of the toys."""


def toy(name: str, **keys: Any) -> type[Toy]:
    """A toy class whose config carries `name`."""
    space = {"type": name, "__annotations__": {"type": Literal[name], **dict.fromkeys(keys, int)}, **keys}
    config = type("Config", (ComponentConfig,), {"__module__": __name__, **space})
    return type(
        name.title(), (Toy,), {"Config": config, "__doc__": f"The toy called {name}.\n\nMore.", "__module__": __name__}
    )


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[Toy]]:
    """A registry over a package with one built-in module, and no plugins."""
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "ball.py").write_text(
        "import sys\n"
        "from typing import Literal\n"
        "from fewstep.core.component import ComponentConfig\n"
        "home = sys.modules['toy_home']\n"
        "@home.TOYS.register('ball')\n"
        "class Ball(home.Toy):\n"
        "    '''A ball.\n\n    It rolls.'''\n"
        "    class Config(ComponentConfig):\n"
        "        type: Literal['ball'] = 'ball'\n"
        "        size: int = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_loader", plugins._Loader())
    monkeypatch.setenv("FEWSTEP_PLUGINS", "none")
    found: Registry[Toy] = Registry("toy", Toy, PACKAGE)
    home = type(sys)("toy_home")
    home.TOYS, home.Toy = found, Toy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_home", home)
    yield found
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


def test_the_package_is_imported_by_the_first_look_up(toys: Registry[Toy]) -> None:
    assert f"{PACKAGE}.ball" not in sys.modules
    assert toys.names() == ["ball"]
    assert f"{PACKAGE}.ball" in sys.modules


def test_an_entry_knows_where_it_came_from(toys: Registry[Toy]) -> None:
    entry = toys.get("ball")
    assert entry.summary == "A ball."
    assert entry.place[0].endswith("ball.py")
    assert entry.place[1] == 5
    assert entry.origin.startswith("toy_components (")


def test_a_collision_names_both_origins(toys: Registry[Toy]) -> None:
    with pytest.raises(RegistryError) as caught:
        toys.register("ball")(toy("ball"))
    message = str(caught.value)
    assert "two components claim the toy name 'ball'" in message
    assert "ball.py:5" in message
    assert "test_registry.py" in message or "test_registry (" in message
    assert 'replaces="ball"' in message
    assert toys.get("ball").cls.__name__ == "Ball"
    assert toys.get("ball").cls.__module__ == f"{PACKAGE}.ball"


def test_a_check_beside_the_settings_is_refused(toys: Registry[Toy]) -> None:
    mine = toy("kite")
    mine.check_recipe = classmethod(lambda cls, config, recipe: iter(()))  # type: ignore[attr-defined]
    with pytest.raises(RegistryError, match=r"toy 'kite' .* defines check_recipe itself, which nothing calls; move it"):
        toys.register("kite")(mine)
    assert "kite" not in toys.names()


def test_a_flag_of_samplers_of_before_is_refused() -> None:
    cls = type("Heun", (SAMPLERS.get("ancestral").cls,), {"masks_only": True})
    with pytest.raises(RegistryError, match=r"sampler 'heun' .* defines masks_only itself, .* `traits = SamplerTraits"):
        SAMPLERS.register("heun")(cls)


def test_settings_derive_from_those_of_the_kind(toys: Registry[Toy], monkeypatch: pytest.MonkeyPatch) -> None:
    class ToyConfig(ComponentConfig):
        pass

    monkeypatch.setattr(Toy, "Config", ToyConfig)
    with pytest.raises(RegistryError, match=r"toy 'kite' .* needs a Config derived from ToyConfig"):
        toys.register("kite")(toy("kite"))


def test_replacing_on_purpose(toys: Registry[Toy]) -> None:
    mine = toy("ball")
    toys.register("ball", replaces="ball")(mine)
    assert toys.get("ball").cls is mine
    assert toys.get("ball").replaced is not None


def test_replaces_must_name_what_it_replaces(toys: Registry[Toy]) -> None:
    with pytest.raises(RegistryError, match="two components claim"):
        toys.register("ball", replaces="kite")(toy("ball"))


def test_importing_a_module_again_is_no_collision(toys: Registry[Toy]) -> None:
    first = toys.get("ball").cls
    del sys.modules[f"{PACKAGE}.ball"]
    __import__(f"{PACKAGE}.ball")
    assert toys.get("ball").cls is not first
    assert toys.names() == ["ball"]


def test_two_classes_of_one_file_collide(toys: Registry[Toy]) -> None:
    toys.register("kite")(toy("kite"))
    other = type("Other", (Toy,), {"Config": toy("kite").Config, "__module__": __name__})
    with pytest.raises(RegistryError, match="two components claim the toy name 'kite'"):
        toys.register("kite")(other)


@pytest.mark.parametrize("wrong", [int, Component, "ball"])
def test_the_base_class_is_checked(toys: Registry[Toy], wrong: Any) -> None:
    with pytest.raises(RegistryError, match="toy 'x' must be a class derived from Toy"):
        toys.register("x")(wrong)


def test_a_config_must_carry_the_name(toys: Registry[Toy]) -> None:
    with pytest.raises(
        RegistryError, match=r'needs a Config of its own with the line `type: Literal\["kite"\] = "kite"`'
    ):
        toys.register("kite")(toy("drum"))
    bare = type("Bare", (Toy,), {})
    with pytest.raises(RegistryError, match="needs a Config of its own"):
        toys.register("bare")(bare)


def test_an_unknown_name_suggests_and_lists(toys: Registry[Toy]) -> None:
    with pytest.raises(LookupError) as caught:
        toys.get("bal")
    assert caught.value.args[0] == "no toy named 'bal'; did you mean 'ball'? known: ball"
    with pytest.raises(LookupError) as caught:
        toys.get("zzz")
    assert caught.value.args[0] == "no toy named 'zzz'; known: ball"


def test_an_unknown_name_mentions_broken_plugins(toys: Registry[Toy]) -> None:
    plugins._loader.plugins["acme"] = plugins.Plugin("acme", "acme", "acme", "1.0", "ImportError: no module")
    with pytest.raises(LookupError, match="plugin 'acme' failed to load: ImportError: no module"):
        toys.get("rocket")


def test_a_broken_built_in_module_fails_every_time(toys: Registry[Toy], tmp_path: Path) -> None:
    (tmp_path / PACKAGE / "cracked.py").write_text("raise ImportError('needs glue')\n")
    for _ in range(2):
        with pytest.raises(ImportError, match="needs glue"):
            toys.names()


@pytest.mark.parametrize("raw", ["ball", {"type": "ball"}, {"type": "ball", "size": 3}])
def test_parse_takes_names_and_mappings(toys: Registry[Toy], raw: Any) -> None:
    config = toys.parse(raw)
    assert config.model_dump() == {"type": "ball", "size": 3}
    assert toys.parse(config) is config
    assert toys.build(raw).config.size == 3


@pytest.mark.parametrize("raw", [3, None, [], {"size": 3}, {"type": 3}])
def test_parse_explains_what_it_wants(toys: Registry[Toy], raw: Any) -> None:
    with pytest.raises(Exception, match="expected the name of a toy, or keys with `type: NAME`; known: ball"):
        toys.parse(raw)


def test_parse_locates_an_unknown_type(toys: Registry[Toy]) -> None:
    with pytest.raises(ValidationError) as caught:
        toys.parse({"type": "bal"})
    assert caught.value.errors()[0]["loc"] == ("type",)


def test_snapshot_undoes_registrations(toys: Registry[Toy]) -> None:
    with toys.snapshot():
        toys.register("kite")(toy("kite"))
        assert toys.names() == ["ball", "kite"]
    assert toys.names() == ["ball"]


def register_and_fail(toys: Registry[Toy]) -> None:
    with undo_registrations_on_failure(__name__.split(".")[0]):
        toys.register("drum")(toy("drum"))
        toys.register("ball", replaces="ball")(toy("ball"))
        raise ZeroDivisionError


def test_undoing_restores_what_was_replaced_and_keeps_built_ins(toys: Registry[Toy]) -> None:
    # Nothing was looked up yet: the failing block itself brings the built-in ball in.
    with pytest.raises(ZeroDivisionError):
        register_and_fail(toys)
    assert toys.names() == ["ball"]
    assert toys.get("ball").cls.__module__ == f"{PACKAGE}.ball"


def test_undoing_leaves_earlier_registrations_of_the_same_owner(toys: Registry[Toy]) -> None:
    toys.register("kite")(toy("kite"))
    with pytest.raises(ZeroDivisionError):
        register_and_fail(toys)
    assert toys.names() == ["ball", "kite"]


class Inner(Strict):
    depth: int = 1


class Outer(Strict):
    learning_rate: float = Field(1.0, gt=0)
    mode: Literal["fast", "slow"] = "fast"
    count: int
    inner: Inner = Inner()
    steps: tuple[int, ...] = Field((1,), min_length=1)
    name: str = Field("x", pattern="^[a-z]+$")


def errors(raw: Any) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Outer).validate_python(raw)
    return {".".join(map(str, error["loc"])): error["msg"] for error in caught.value.errors()}


def test_strict_words_its_errors_for_people() -> None:
    assert errors({"lerning_rate": 1, "mode": "fats", "inner": {"dept": 2, "zzz": 3}, "learning_rate": -1}) == {
        "lerning_rate": "unknown key 'lerning_rate'; did you mean 'learning_rate'?",
        "mode": "should be 'fast' or 'slow'; did you mean 'fast'?",
        "count": "required key 'count' is missing",
        "inner.dept": "unknown key 'dept'; did you mean 'depth'?",
        "inner.zzz": "unknown key 'zzz'; known keys: depth",
        "learning_rate": "should be greater than 0, not -1",
    }
    assert errors({"count": 1, "inner": None, "steps": 4, "name": "A"}) == {
        "inner": "should be keys with values, not null",
        "steps": "should be a list, not 4",
        "name": "should match pattern '^[a-z]+$', not 'A'",
    }
    assert errors({"count": 1, "steps": []}) == {"steps": "should have at least 1 item after validation, not 0"}
    assert errors({"count": "many"}) == {"count": "should be a valid integer, not 'many'"}


def test_every_kind_has_a_registry_and_a_singular() -> None:
    for kind in KINDS:
        assert registry(kind).names() == sorted(registry(kind).names())
        assert registry(kind.removesuffix("es" if kind == "processes" else "s")) is registry(kind)
    with pytest.raises(UserError, match="did you mean 'objectives'"):
        registry("objektives")
