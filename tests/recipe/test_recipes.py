"""Every recipe that ships: well named, launched as its comment says, trained for two steps; the smoke ones in full."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest
from local_data import write_chorales, write_cifar10, write_mnist, write_pictures

from fewstep.core.kinds import registry
from fewstep.evaluation.evaluate import evaluate_run
from fewstep.recipe import load_recipe
from fewstep.recipe.shipped import shipped_bases, shipped_recipes
from fewstep.runs.folder import RunDir
from fewstep.sampling.job import sample_run
from fewstep.sampling.request import SampleRequest
from fewstep.training.launch import launch

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "recipes").rglob("*.yaml"))
RECIPES = shipped_recipes()
LEAST = 137
"""Files when this was last looked at: 124 recipes and 13 bases. Fewer means that a folder is not searched any more."""


def teacher_of(name: str) -> str | None:
    """The shipped recipe whose run a recipe learns from."""
    teacher = load_recipe(RECIPES[name]).recipe.teacher
    return teacher.run.removeprefix("runs/").removesuffix("/latest") if teacher else None


def tokenizer_of(name: str) -> str | None:
    """The shipped recipe whose run makes codes of a recipe's images."""
    data = load_recipe(RECIPES[name]).recipe.data
    return data.tokenizer.run.removeprefix("runs/").removesuffix("/latest") if data.type == "vq_tokens" else None


def trainings_before(name: str) -> int:
    """How many trainings come before this one: of a teacher, of networks that roles start from, of a tokenizer."""
    recipe = load_recipe(RECIPES[name]).recipe
    runs = [*recipe.start_from.values(), *([recipe.teacher.run] if recipe.teacher else [])]
    names = [run.removeprefix("runs/").removesuffix("/latest") for run in runs]
    return max((1 + trainings_before(before) for before in filter(None, [*names, tokenizer_of(name)])), default=0)


def header(path: Path) -> str:
    """The opening comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    return "\n".join(line.lstrip("# ") for line in comment)


def test_every_file_is_known() -> None:
    assert len(FILES) >= LEAST
    assert sorted([*RECIPES.values(), *shipped_bases().values()]) == FILES


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid_and_says_how_to_launch_it(name: str) -> None:
    recipe = load_recipe(RECIPES[name]).recipe
    assert recipe.name == name
    found = re.search(r"^Launch: (.+?)(?:\s{2,}.*)?$", header(RECIPES[name]), re.MULTILINE)
    assert found, "no line `# Launch: ...`"
    teacher = teacher_of(name)
    verb = ["distill", name, "--teacher", f"runs/{teacher}/latest"] if teacher else ["train", name]
    assert shlex.split(found[1]) == ["fewstep", *verb]
    assert not teacher or teacher in RECIPES
    for needed in filter(None, (teacher, tokenizer_of(name))):
        assert re.search(rf"^Needs: .*\b{needed}\b", header(RECIPES[name]), re.MULTILINE), f"does not say {needed}"


def test_every_teacher_has_a_dmmd_student() -> None:
    loaded = {name: load_recipe(path).recipe for name, path in RECIPES.items()}
    taught = {teacher_of(name) for name, recipe in loaded.items() if recipe.objective.type == "dmmd"}
    teachers = [name for name in RECIPES if name.endswith("-teacher")]
    assert len(teachers) > 25
    assert [name for name in teachers if name not in taught] == []


def test_every_base_is_used() -> None:
    extended = {(path.parent / name).resolve() for path in FILES for name in extends(path)}
    assert set(shipped_bases().values()) <= extended


def extends(path: Path) -> list[str]:
    """What a file says that it extends; recipes name their bases by path."""
    return re.findall(r"^extends: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_objective_and_process_has_a_recipe() -> None:
    loaded = [load_recipe(path).recipe for path in RECIPES.values()]
    assert {recipe.objective.type for recipe in loaded} >= set(own("objectives"))
    assert {recipe.process.type for recipe in loaded} >= set(own("processes"))


def own(kind: str) -> list[str]:
    return [entry.name for entry in registry(kind).entries() if entry.distribution[0] == "fewstep"]


@pytest.mark.medium
@pytest.mark.parametrize("family", sorted({path.parent.name for path in RECIPES.values()}))
def test_family_trains_for_two_steps(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network is built, every loss computed, every student started from its teacher; on small batches."""
    monkeypatch.chdir(tmp_path)
    short = ["train.steps=2", "train.batch_size=4", "train.device=cpu", "watch.samples=2"]
    short += small_data(family, tmp_path)
    names = [name for name, path in RECIPES.items() if path.parent.name == family]
    for name in sorted(names, key=trainings_before):
        pairs = ["objective.pairs=8", "objective.teacher_steps=2"] if name.endswith("-rectified") else []
        small = [*small_network(name), *small_text(name, tmp_path), *small_images(name, tmp_path)]
        run = launch(name, sets=[*short, *pairs, *small])
        assert RunDir(run).status.items() >= {"state": "finished", "step": 2, "steps": 2}.items()


def small_data(family: str, folder: Path) -> list[str]:
    """Settings for little data: fewer samples, or files of the test's own where recipes name files."""
    if family in ("mnist", "fashion-mnist"):
        return [f"data.path={write_mnist(folder / 'mnist')}"]
    if family == "cifar10":
        return [f"data.path={write_cifar10(folder / 'cifar10')}"]
    if family == "images":
        return [f"data.path={write_pictures(folder / 'images')}"]
    if family == "chorales":
        return [f"data.path={write_chorales(folder / 'chorales.json')}"]
    return ["data.size=64"] * (family == "markov")


def small_network(name: str) -> list[str]:
    """Settings for a network that a CPU can train, for recipes that are made for a GPU."""
    if name.startswith("cifar10-3072"):
        network = (
            "{type: unet, width: 8, multipliers: [1, 2], attention_levels: 1, blocks: 1, heads: 2, token_width: 8}"
        )
        return ["data.size=8", f"backbone={network}", "backbone.time_conditioned=true", "train.compile=off"]
    if name.startswith("owt-"):
        blocks = ["backbone.block_size=16"] * name.startswith("owt-block")
        return ["data.length=64", "train.compile=off", *blocks]
    small = ["backbone.width=16", "backbone.depth=1", "train.precision=fp32"]
    if name in ("cifar10-vq", "cifar10-vq-teacher", "cifar10-vq-dmmd"):
        return small + ["backbone.heads=2"] * (name != "cifar10-vq")
    return [*small, "data.size=12", "backbone.heads=2"] if name.startswith("cifar10-full") else []


def small_images(name: str, folder: Path) -> list[str]:
    """Settings for images of the test's own, in families whose recipes do not all have the same."""
    if not name.startswith(("cifar10-vq", "cifar10-3072")):
        return []
    path = folder / "cifar10"
    write_cifar10(path)
    return [f"data{'.images' if tokenizer_of(name) else ''}.path={path}"]


def small_text(name: str, folder: Path) -> list[str]:
    """Settings for a corpus: a little text of the test's own, few pieces, a small network."""
    data = load_recipe(RECIPES[name]).recipe.data
    if data.type != "corpus":
        return []
    tokenizer = {"sentencepiece": ["data.tokenizer.vocab_size=300"], "huggingface": ["data.tokenizer={type: byte}"]}
    words = ["".join(letters) for letters in itertools.product("abcdef", "eiou", "klmnt", "st")]
    between = " " if name.startswith("text8") else "\n\n"  # its alphabet has no line break
    text = between.join(" ".join(words[i % 240 : i % 240 + 40]) for i in range(0, 9000, 7))
    (folder / "text.txt").write_text(text)
    network = ["backbone.width=32", "backbone.depth=1", "backbone.heads=2"]
    return [f"data.path={folder / 'text.txt'}", *tokenizer.get(data.tokenizer.type, []), *network]


def test_smoke_recipes_run_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("smoke-teacher", "smoke-dmmd"):
        run = launch(name)
        assert RunDir(run).export.is_file()
        assert sample_run(str(run), SampleRequest(4)).is_file()
        rows = evaluate_run(str(run))
        assert [row["nfe"] for row in rows] == [row["steps"] for row in rows]
    smoke = [name for name, path in RECIPES.items() if path.parent.name == "smoke"]
    assert sorted(smoke) == ["smoke-dmmd", "smoke-teacher"], "a new smoke recipe belongs in this test"
