"""Exported models: the same samples for the same seed, in a process that has neither the run nor the data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from local_data import write_chorales, write_mnist
from safetensors.torch import load_file

from fewstep import Pipeline
from fewstep.core import plugins
from fewstep.core.errors import UserError
from fewstep.core.references import Ref
from fewstep.data.base import DATASETS
from fewstep.evaluation.evaluate import evaluate_run
from fewstep.evaluation.grid_search import grid_run
from fewstep.export.write import export_run
from fewstep.processes.base import PROCESSES
from fewstep.processes.masked import MaskedProcess
from fewstep.recipe import load_recipe
from fewstep.runs.exported import CARD, CONFIG, WEIGHTS, Exported
from fewstep.runs.folder import RunDir
from fewstep.runs.models import open_model
from fewstep.runtime.sealed_json import sealed_json
from fewstep.samplers.base import SAMPLERS
from fewstep.sampling.job import sample_run
from fewstep.sampling.request import SampleRequest
from fewstep.training.assemble import assemble
from fewstep.training.launch import fit
from fewstep.training.origins import misfits

Train = Callable[..., RunDir]
TEXT = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n" * 12
SHORT = ("train.steps=2", "train.batch_size=4", "train.device=cpu")
TINY = ("backbone.width=16", "backbone.depth=1", "backbone.heads=2")
LOADS = """
import json, sys
from fewstep import Pipeline
found = {}
for name, steps in json.loads(sys.argv[1]).items():
    pipe = Pipeline.from_pretrained(name, device="cpu")
    drawn = pipe.sample(5, steps=steps, seed=3)
    found[name] = {"tokens": drawn.tokens.tolist(), "texts": drawn.texts, "images": drawn.images is not None}
    found[name]["labels"] = None if drawn.labels is None else drawn.labels.tolist()
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Case:
    """A recipe (and its teacher's), what is set in both, and in the student's; `steps` to sample with."""

    recipe: str
    both: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    teacher: str | None = None
    steps: int = 2


def cases(folder: Path) -> dict[str, Case]:
    """One of every kind of network input, sampler and data."""
    (folder / "text.txt").write_text(TEXT)
    text = ("data.type=text", f"data.path={folder / 'text.txt'}", "data.length=16", *TINY)
    markov = ("data.size=64", *TINY)
    mnist = (f"data.path={write_mnist(folder / 'mnist')}", "data.size=14", *TINY)
    chorales = (f"data.path={write_chorales(folder / 'chorales.json')}", *TINY)
    pieces = ("data.tokenizer=sentencepiece", "data.pieces=60")
    return {
        "noise-input": Case("smoke-dmmd", teacher="smoke-teacher"),
        "logit-noise": Case("smoke-dmmd", own=("noise_input={type: stable, numbers: 2}",), teacher="smoke-teacher"),
        "step-input": Case("smoke-dmmd", own=("step_input={}",), teacher="smoke-teacher"),
        "uniform": Case("markov-uniform-dmmd", markov, teacher="markov-uniform-teacher"),
        "blocks": Case("markov-block-teacher", markov, steps=8),
        "one-step": Case("markov-one-step", markov, teacher="markov-teacher", steps=1),
        "classes": Case("digits-labelled-teacher", TINY),
        "characters": Case("text-teacher", text),
        "pieces": Case("text-teacher", (*text, *pieces)),
        "mnist": Case("mnist-teacher", mnist),
        "chorales": Case("chorales-teacher", chorales),
    }


def trained(folder: Path, name: str, case: Case) -> RunDir:
    """A run of two steps, and before it its teacher's."""
    teacher = None
    if case.teacher:
        before = load_recipe(case.teacher, [*SHORT, *case.both])
        fit(before, teacher := RunDir(folder / f"{name}-teacher"), echo=lambda line: None)
    loaded = load_recipe(case.recipe, [*SHORT, *case.both, *case.own], teacher=str(teacher.path) if teacher else None)
    fit(loaded, run := RunDir(folder / name), echo=lambda line: None)
    return run


def elsewhere(folder: Path, names: dict[str, int]) -> dict[str, Any]:
    """What a fresh process in `folder` draws."""
    done = subprocess.run(
        [sys.executable, "-c", LOADS, json.dumps(names)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "framework")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.medium
def test_exports_draw_the_same_in_a_process_without_the_run_and_the_data(tmp_path: Path) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    for folder in (home, away):
        folder.mkdir()
    wanted, steps = {}, {}
    for name, case in cases(home).items():
        run = trained(home / "runs", name, case)
        export_run(str(run.path), str(away / name))
        request = SampleRequest(5, steps=case.steps, seed=3, out=str(tmp_path / "drawn" / name))
        drawn = load_file(sample_run(str(run.path), request).parent / "samples.safetensors")
        texts = open_model(run.path, device="cpu").dataset.to_text(drawn["tokens"])
        labels = drawn["labels"].tolist() if "labels" in drawn else None
        shown = name in ("mnist", "classes", "chorales")
        wanted[name] = {"tokens": drawn["tokens"].tolist(), "texts": texts, "images": shown, "labels": labels}
        steps[name] = case.steps
    shutil.rmtree(home)
    assert elsewhere(away, steps) == wanted


@pytest.mark.medium
def test_what_the_sampler_asks_and_reads_comes_along(train: Train, tmp_path: Path) -> None:
    """A reward's network, a classifier's, and the file of a measured grid."""
    teacher = train("markov-teacher", "teacher", *SHORT, *TINY, "data.size=64")
    didi = train("markov-didi", "didi", *SHORT, *TINY, "data.size=64", teacher=teacher)
    grid, _ = grid_run(str(teacher.path), [2], str(tmp_path / "grid.json"), times=4, samples=8)
    small = (*SHORT, *TINY, "evaluate.steps=[2]")
    classifier = train("digits-classifier", "classifier", *small)
    runs = {
        "reward": train(
            "markov-teacher", "a", *SHORT, *TINY, "data.size=64",
            f"sampler={{type: reward_guided, reward: {{run: {didi.path}}}}}",
        ),
        "grid": train(
            "markov-teacher", "b", *SHORT, *TINY, "data.size=64", "evaluate.steps=[2]",
            f"sampler={{type: ancestral, grid: {{type: measured, file: {grid}}}}}",
        ),
        "classifier": train(
            "digits-teacher", "c", *small,
            f"sampler={{type: ancestral, classifier: {{run: {classifier.path}, weight: 3}}}}",
        ),
    }  # fmt: skip
    away = tmp_path / "away"
    wanted = {}
    for name, run in runs.items():
        export_run(str(run.path), str(away / name))
        wanted[name] = Pipeline.from_pretrained(run.path, device="cpu").sample(5, steps=2, seed=3).tokens.tolist()
    for gone in (*runs.values(), didi, classifier, teacher):
        shutil.rmtree(gone.path)
    grid.unlink()
    found = elsewhere(away, dict.fromkeys(runs, 2))
    assert {name: one["tokens"] for name, one in found.items()} == wanted
    assert Exported(away / "reward" / "reward").config.role == "discriminator"


def test_no_place_of_the_machine_is_told(tmp_path: Path) -> None:
    case = cases(tmp_path)["characters"]
    run = trained(tmp_path / "runs", "x", case)
    folder = export_run(str(run.path), str(tmp_path / "out"))
    assert not [f for f in folder.rglob("*") if f.is_file() and str(tmp_path).encode() in f.read_bytes()]


def test_an_export_can_be_a_teacher_and_tells_the_chain(train: Train, tmp_path: Path) -> None:
    teacher = train("smoke-teacher", "teacher")
    folder = export_run(str(teacher.path), str(tmp_path / "out"))
    shutil.rmtree(teacher.path)
    student = train("smoke-dmmd", "student", teacher=RunDir(folder))
    config = Exported(export_run(str(student.path), str(tmp_path / "student-out"))).config
    assert [(one.name, one.objective, one.step) for one in config.teachers] == [("smoke-teacher", "denoising", 20)]
    assert config.teachers[0].weights_digest == Exported(folder).config.weights_digest
    shutil.rmtree(folder)
    (gone,) = Exported(export_run(str(student.path), str(tmp_path / "again"))).config.teachers
    assert (gone.name, gone.weights_digest) == ("out", None)


def test_weights_and_dtype(train: Train, tmp_path: Path) -> None:
    run = train("smoke-teacher", "run")
    tokens = {}
    for weights in ("ema", "raw"):
        folder = export_run(str(run.path), str(tmp_path / weights), weights=weights)  # type: ignore[arg-type]
        theirs = open_model(run.path, weights=weights, device="cpu").denoiser.state_dict()  # type: ignore[arg-type]
        ours = open_model(folder, device="cpu").denoiser.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        tokens[weights] = Pipeline.from_pretrained(folder).sample(400, steps=4).tokens
    assert not torch.equal(tokens["ema"], tokens["raw"])
    with pytest.raises(UserError, match="holds averaged weights only; export the run with `--weights raw`"):
        open_model(tmp_path / "ema", weights="raw")
    half = export_run(str(run.path), str(tmp_path / "half"), dtype="bfloat16")
    assert {tensor.dtype for tensor in load_file(half / WEIGHTS).values()} == {torch.bfloat16}
    pipe = Pipeline.from_pretrained(half, device="cpu", dtype="bfloat16")
    assert pipe.sample(3, steps=2).tokens.shape == (3, 8)
    assert pipe.score(pipe.sample(3, steps=2).tokens, steps=4).nats.isfinite().all()


def test_an_export_is_evaluated_where_its_data_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    settings = [*SHORT, *TINY, "data.type=text", f"data.path={tmp_path / 'text.txt'}", "data.length=16"]
    run = RunDir(tmp_path / "run")
    fit(load_recipe("text-teacher", settings), run, echo=lambda line: None)
    folder = export_run(str(run.path), str(tmp_path / "out"))
    monkeypatch.chdir(tmp_path)
    rows = evaluate_run("out", steps=[2], samples=4)
    assert rows == evaluate_run(str(run.path), steps=[2], samples=4)
    (tmp_path / "text.txt").write_text(TEXT[:-40])
    with pytest.raises(UserError, match="those that its recipe finds here are others"):
        evaluate_run("out", steps=[2])
    (tmp_path / "text.txt").unlink()
    with pytest.raises(UserError, match=r"came without its training data, which this compares with, and they are not"):
        evaluate_run("out", steps=[2])
    with pytest.raises(UserError, match="came with an exported model, without the training data that this needs"):
        len(open_model(folder).dataset)


def test_the_card_has_what_was_measured(train: Train, tmp_path: Path) -> None:
    run = train("smoke-dmmd", "run", teacher=train("smoke-teacher", "teacher"))
    card = (export_run(str(run.path), str(tmp_path / "before")) / "README.md").read_text()
    assert "Nothing was measured with these weights" in card
    (row,) = evaluate_run(str(run.path), steps=[2], samples=40)
    folder = export_run(str(run.path), str(tmp_path / "after"))
    card = (folder / "README.md").read_text()
    values = [f"{value:.4g}" for value in row["metrics"].values()]
    assert f"| ancestral | 2 | 2 | 40 | 0 | {' | '.join(values)} |" in card
    assert card.startswith("---\n# license:")
    for told in ("library_name: fewstep", "masked-diffusion", "distilled from `smoke-teacher`", "ngram_tv ↓"):
        assert told in card
    raw = export_run(str(run.path), str(tmp_path / "raw"), weights="raw")  # not those that were measured
    assert "Nothing was measured with these weights" in (raw / "README.md").read_text()
    people = folder / "README.md"
    people.write_text(card + "\nEdited.\n")
    assert Exported(folder).config.name == "smoke-dmmd"


# --------------------------------------------------------------------- what is wrong with a folder


@pytest.fixture
def exported(train: Train, tmp_path: Path) -> Path:
    return export_run(str(train("smoke-teacher", "run").path), str(tmp_path / "out"))


def rewrite(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / CONFIG).read_text())
    del content["seal"]
    (folder / CONFIG).write_text(json.dumps(sealed_json({**content, **changes})))


def edit(folder: Path) -> None:
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(text.replace('"temperature": 1.0', '"temperature": 1.5'))


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-8])


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut": (cut, r"model.safetensors' is damaged or was changed"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "is incomplete: model.safetensors is missing"),
    "no config": (lambda f: (f / CONFIG).unlink(), r"holds no exported model \(no config.json\)"),
    "half a config": (lambda f: (f / CONFIG).write_text('{"format": '), r"config.json' is damaged \("),
    "a foreign one": (lambda f: (f / CONFIG).write_text('{"model_type": "gpt2"}'), "was not written by fewstep"),
    "a list": (lambda f: (f / CONFIG).write_text("[]"), "was not written by fewstep"),
    "a later one": (lambda f: rewrite(f, format="fewstep-folder/2"), "is of a later version of fewstep"),
    "another number": (edit, "config.json' is damaged or was changed .* or remove its entry 'seal' if the change"),
    "a wrong value": (lambda f: rewrite(f, step="many"), "config.json' is damaged: step: "),
    "a way out": (lambda f: rewrite(f, files={"../x": "0"}), "names a file outside of its folder"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_and_foreign_folders_say_what_is_wrong(what: str, exported: Path) -> None:
    damage, told = DAMAGE[what]
    damage(exported)
    with pytest.raises(UserError, match=told) as error:
        Pipeline.from_pretrained(exported)
    assert "\n" not in str(error.value)


def test_nothing_is_written_over_and_nothing_half_is_left(exported: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    with pytest.raises(UserError, match="exists already; name another folder with --out"):
        export_run(run, str(exported))
    with pytest.raises(UserError, match="is an exported model already"):
        export_run(str(exported), str(tmp_path / "twice"))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.medium
def test_a_plugin_in_a_file_stays_behind_and_is_asked_for(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "my_coins.py"
    plugin.write_text(
        "from typing import Literal\n"
        "from fewstep import DATASETS, ComponentConfig\nfrom fewstep.data.synthetic.coins import Coins\n"
        "@DATASETS.register('export_coins')\nclass Mine(Coins):\n    '''Coins.'''\n"
        "    class Config(Coins.Config):\n        type: Literal['export_coins'] = 'export_coins'\n"
    )
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "extends: smoke-teacher\nname: mine\nplugins: [./my_coins.py]\n"
        "data: !replace {type: export_coins}\nevaluate: {metrics: []}\n".replace("!replace ", "")
    )
    sets = ("data={type: export_coins}",)
    with DATASETS.snapshot():
        run = RunDir(tmp_path / "run")
        fit(load_recipe(recipe, sets, trust_plugins=True), run, echo=lambda line: None)
        folder = export_run(str(run.path), str(tmp_path / "out"))
        assert Exported(folder).config.needs == ("my_coins.py",)
        assert Pipeline.from_pretrained(folder).sample(2, steps=1).tokens.shape == (2, 2)  # it is loaded here
    code = f"from fewstep import Pipeline\nPipeline.from_pretrained({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "needs the plugin my_coins.py, which is code and was not exported; import it first" in done.stderr


PLUGIN_CODE = """
from typing import Literal
from fewstep import SAMPLERS
from fewstep.samplers.ancestral import AncestralSampler

@SAMPLERS.register("export_walk")
class Walk(AncestralSampler):
    '''Ancestral.'''
    class Config(AncestralSampler.Config):
        type: Literal["export_walk"] = "export_walk"
"""


def install(site: Path, version: str, code: str = PLUGIN_CODE) -> None:
    """A distribution with an entry point, written into a folder of the path."""
    for old in site.glob("*.dist-info"):
        shutil.rmtree(old)
    (site / "export_plugin.py").write_text(code)
    info = site / f"export_plugin-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: export-plugin\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("[fewstep.plugins]\nexport-plugin = export_plugin\n")


def opened(folder: Path, site: Path, *, plugins: str = "export-plugin") -> str:
    """What opening a folder in a new process prints, with a folder of distributions on the path."""
    code = f"from fewstep import Pipeline\nprint(Pipeline.from_pretrained({str(folder)!r}).model.recipe.sampler.type)"
    paths = [str(site), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "FEWSTEP_PLUGINS": plugins}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.medium
def test_an_export_names_the_distributions_that_it_needs(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "0.3")
    monkeypatch.syspath_prepend(site)
    with SAMPLERS.snapshot():
        plugins.load_required("export-plugin")
        run = train("smoke-teacher", "run", "sampler=export_walk")
        folder = export_run(str(run.path), str(tmp_path / "out"))
        config = Exported(folder).config
    monkeypatch.setattr(plugins._loader, "plugins", {})
    assert config.distributions == {"export-plugin": "0.3"}
    assert "`pip install export-plugin==0.3`" in (folder / CARD).read_text()

    install(site, "0.4")
    assert opened(folder, site, plugins="none") == "export_walk\n", "another version that fits, loaded on demand"
    install(site, "0.5", PLUGIN_CODE.replace("export_walk", "export_run"))
    text = opened(folder, site)
    assert "was made with export-plugin 0.3, and 0.5 is installed (" in text
    assert "no sampler named 'export_walk'" in text
    missing = opened(folder, tmp_path / "nowhere", plugins="none")
    assert (
        f"UserError: '{folder}' needs export-plugin 0.3, which is not installed; if you trust the authors: " in missing
    )
    assert missing.endswith("pip install 'export-plugin==0.3'\n")


def test_an_export_without_plugins_says_nothing_of_them(exported: Path) -> None:
    assert "distributions" not in json.loads((exported / CONFIG).read_text())


@pytest.mark.parametrize("name", ["../x", "a b", "x; rm", "-r", ""])
def test_a_strangers_distribution_has_a_name_that_can_be_one(exported: Path, name: str) -> None:
    rewrite(exported, distributions={name: "1"})
    with pytest.raises(UserError, match=r"config\.json' is damaged: distributions"):
        Exported(exported)


def test_files_that_a_process_names_are_exported(tmp_path: Path) -> None:
    """The folder samples without the original file, and its weights start a training that names another copy."""
    file = tmp_path / "levels.txt"
    file.write_text("1 2 3")
    with PROCESSES.snapshot():

        @PROCESSES.register("masked_by_file")
        class MaskedByFile(MaskedProcess):
            class Config(MaskedProcess.Config):
                type: Literal["masked_by_file"] = "masked_by_file"  # type: ignore[assignment]
                file: Annotated[str, Ref("file")]

        changes = [*SHORT, f"process={{type: masked_by_file, file: {file}}}"]
        run = RunDir(tmp_path / "run")
        fit(load_recipe("smoke-teacher", changes), run, echo=lambda line: None)
        folder = export_run(str(run.path))
        copy = file.rename(tmp_path / "copy.txt")
        assert Path(open_model(folder).recipe.process.file).read_text() == "1 2 3"
        with pytest.raises(UserError, match=r"process\.file: no file .* so that the model cannot be exported"):
            export_run(str(run.path), str(tmp_path / "again"))
        sets = [*SHORT, f"process={{type: masked_by_file, file: {copy}}}", f"start_from.student={folder}"]
        assemble(load_recipe("smoke-teacher", sets).recipe)
        copy.write_text("1 2 3 ")
        assert [key for key, _ in misfits(load_recipe("smoke-teacher", sets).recipe)] == ["start_from.student"]
