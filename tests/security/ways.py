"""The ways by which code of a stranger's model got in, or could: each builds it in an arena and opens it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from arena import Arena, Outcome, pickle

from fewstep import Pipeline
from fewstep.recipe import load_recipe
from fewstep.runs.models import open_model

Way = Callable[[Arena], Outcome]
CODE: dict[str, Way] = {}
"""Ways by name; whatever they come to, the canary must not be written."""


def way(name: str) -> Callable[[Way], Way]:
    def add(function: Way) -> Way:
        CODE[name] = function
        return function

    return add


# ---------------------------------------------------------------- run folders

for _command, *_rest in (
    ("sample", "-n", "2"),
    ("evaluate", "--steps", "2", "--samples", "4"),
    ("export",),
    ("grid", "--steps", "2", "--samples", "4", "--times", "4"),
):

    @way(f"run folder with a plugin file: {_command}")
    def _(a: Arena, command: str = _command, rest: tuple[str, ...] = tuple(_rest)) -> Outcome:
        return a.fewstep(command, a.run_with_code(), *rest)


@way("run folder with a plugin file: Pipeline.from_pretrained")
def _(a: Arena) -> Outcome:
    return a.python(lambda: Pipeline.from_pretrained(a.run_with_code()))


@way("run folder with a plugin file: open_model")
def _(a: Arena) -> Outcome:
    return a.python(lambda: open_model(a.run_with_code()))


@way("run folder with a plugin file beside its recipe: ./mine.py")
def _(a: Arena) -> Outcome:
    a.run({"plugins": ["./plugins/mine.py"]})
    a.code("stranger/plugins/mine.py")
    return a.fewstep("sample", "stranger", "-n", "2")


@way("run folder that extends a recipe with a plugin file")
def _(a: Arena) -> Outcome:
    a.run({"extends": "./base.yaml"})
    (a.folder / "stranger/base.yaml").write_text(f"plugins: [{a.code('stranger/mine.py')}]\n")
    return a.fewstep("sample", "stranger", "-n", "2")


@way("run folder with a module of the current folder")
def _(a: Arena) -> Outcome:
    return a.fewstep("sample", a.run_with_module(), "-n", "2")


@way("run folder with a module whose name no distribution can have")
def _(a: Arena) -> Outcome:
    a.code("_mine_.py")
    return a.fewstep("sample", a.run({"plugins": ["_mine_"]}), "-n", "2")


@way("run folder with a module of a package that is loaded")
def _(a: Arena) -> Outcome:
    import json

    name = a.module()
    json.__path__.append(str(a.folder))
    try:
        return a.fewstep("sample", a.run({"plugins": [f"json.{name}"]}), "-n", "2")
    finally:
        json.__path__.remove(str(a.folder))


# ---------------------------------------------------------------- exported folders and files


@way("exported folder with a plugin file")
def _(a: Arena) -> Outcome:
    return a.fewstep("sample", a.exported({"plugins": [str(a.code("mine.py"))]}), "-n", "2")


@way("exported folder with a module of the current folder")
def _(a: Arena) -> Outcome:
    return a.fewstep("sample", a.exported({"plugins": [a.module()]}), "-n", "2")


@way("exported folder whose `beside` puts a file into the plugins")
def _(a: Arena) -> Outcome:
    name = a.exported({"plugins": ["json"]}, {"beside": {"plugins.0": "mine.py"}})
    a.code(f"{name}/mine.py")
    return a.fewstep("sample", name, "-n", "2")


@way("exported folder whose reward model is a run folder with a plugin file")
def _(a: Arena) -> Outcome:
    sampler = {"type": "reward_guided", "reward": {"run": "reward"}}
    name = a.exported({"sampler": sampler}, {"beside": {"sampler.reward.run": "reward"}})
    a.run_with_code()
    (a.folder / "stranger").rename(a.folder / name / "reward")
    return a.fewstep("sample", name, "-n", "2")


@way("exported folder read by Pipeline.from_pretrained, with a module")
def _(a: Arena) -> Outcome:
    return a.python(lambda: Pipeline.from_pretrained(a.exported({"plugins": [a.module()]})))


@way("exported file with a plugin file")
def _(a: Arena) -> Outcome:
    return a.fewstep("sample", a.exported_file({"plugins": [str(a.code("mine.py"))]}), "-n", "2")


@way("exported file with a module of the current folder")
def _(a: Arena) -> Outcome:
    return a.fewstep("sample", a.exported_file({"plugins": [a.module()]}), "-n", "2")


# ---------------------------------------------------------------- the Hub


@way("Hub repository that is a run folder with a plugin file")
def _(a: Arena) -> Outcome:
    a.run({"plugins": ["./plugins/mine.py"]})
    a.code("stranger/plugins/mine.py")
    with a.hub(they__few="stranger"):
        return a.python(lambda: Pipeline.from_pretrained("they/few"))


@way("Hub repository of an export with a module of the current folder")
def _(a: Arena) -> Outcome:
    a.exported({"plugins": [a.module()]})
    with a.hub(they__few="strangers"):
        return a.python(lambda: Pipeline.from_pretrained("they/few"))


@way("Hub repository of a pickle, for import")
def _(a: Arena) -> Outcome:
    (a.folder / "repository").mkdir()
    pickle(a, "repository/pytorch_model.bin")
    with a.hub(they__mdlm="repository"):
        return a.fewstep("import", "they/mdlm", "--layout", "mdlm", "--out", "x.safetensors")


# ---------------------------------------------------------------- models that a recipe of one's own names

STUDENT = "objective: {type: dmmd, k: 2}\n"


@way("teacher of --teacher")
def _(a: Arena) -> Outcome:
    return a.fewstep("distill", a.recipe(STUDENT), "--teacher", a.run_with_code())


@way("teacher of a recipe")
def _(a: Arena) -> Outcome:
    return a.fewstep("distill", a.recipe(f"{STUDENT}teacher: {{run: {a.run_with_code()}}}"))


@way("teacher that is an exported file with a module")
def _(a: Arena) -> Outcome:
    file = a.exported_file({"plugins": [a.module()]})
    return a.fewstep("distill", a.recipe(STUDENT), "--teacher", file)


@way("start_from")
def _(a: Arena) -> Outcome:
    return a.fewstep("train", a.recipe(f"start_from: {{student: {a.run_with_code()}}}"))


LABELLED = """data: digits
backbone: {type: transformer, width: 8, depth: 1, heads: 2}
evaluate: {metrics: []}
"""


@way("classifier of a sampler")
def _(a: Arena) -> Outcome:
    a.fewstep("train", a.recipe(LABELLED), "--run-dir", "digits")
    sampler = f"{{type: ancestral, classifier: {{run: {a.run_with_code()}}}}}"
    return a.fewstep("sample", "digits", "-n", "2", "--steps", "2", "--sampler", sampler)


@way("reward of a sampler")
def _(a: Arena) -> Outcome:
    sampler = f"{{type: reward_guided, reward: {{run: {a.run_with_code()}}}}}"
    return a.fewstep("sample", "teacher", "-n", "2", "--sampler", sampler)


@way("reference of a metric")
def _(a: Arena) -> Outcome:
    metric = f"evaluate: {{metrics: [{{type: gradient_moment, reference: {a.run_with_code()}}}]}}"
    a.fewstep("train", a.recipe(metric))
    return a.fewstep("evaluate", "runs/own/latest", "--steps", "2")


@way("tokenizer of images")
def _(a: Arena) -> Outcome:
    data = f"data: {{type: vq_tokens, images: digits, tokenizer: {{run: {a.run_with_code()}}}}}"
    return a.fewstep("train", a.recipe(f"{data}\nevaluate: {{metrics: []}}"))


@way("teacher of a run that is opened")
def _(a: Arena) -> Outcome:
    a.run({"teacher": {"run": a.run_with_code(), "weights": "ema"}}, "student", "second")
    return a.fewstep("export", "second")


SUITE = """name: strange
title: A suite
samples: 8
seeds: [0]
metrics: [{metrics}]
headline: ngram_tv
cases:
- {{name: student, recipe: {recipe}, steps: [2]{more}}}
claims: []
"""


def _suite(a: Arena, recipe: str, more: str = "", metrics: str = "ngram_distance") -> Outcome:
    (a.folder / "suite.yaml").write_text(SUITE.format(recipe=recipe, more=more, metrics=metrics))
    return a.fewstep("benchmark", "./suite.yaml", "--out", "results")


@way("start_from of a suite's recipe")
def _(a: Arena) -> Outcome:
    return _suite(a, a.recipe(f"start_from: {{student: {a.run_with_code()}}}"))


@way("reference of a suite's metric")
def _(a: Arena) -> Outcome:
    metrics = f"ngram_distance, {{type: gradient_moment, reference: {a.run_with_code()}}}"
    return _suite(a, a.recipe(""), metrics=metrics)


# ---------------------------------------------------------------- resume


@way("resume of a stranger's run by a recipe of one's own")
def _(a: Arena) -> Outcome:
    return a.fewstep("train", "smoke-teacher", "--resume", a.run_with_code())


@way("resume of the newest run of a name")
def _(a: Arena) -> Outcome:
    name = a.run_with_code()
    (a.folder / name / "status.json").write_text('{"state": "stopped"}')
    (a.folder / "runs/smoke-teacher").mkdir(parents=True)
    (a.folder / name).rename(a.folder / "runs/smoke-teacher/20990101-000000-abcd")
    return a.fewstep("train", "smoke-teacher", "--resume", "auto")


@way("resume by --run-dir")
def _(a: Arena) -> Outcome:
    return a.fewstep("train", "smoke-teacher", "--run-dir", a.run_with_module(), "--resume", "auto")


# ---------------------------------------------------------------- recipes that are looked at


@way("validate a recipe with a plugin file")
def _(a: Arena) -> Outcome:
    return a.fewstep("validate", a.recipe(f"plugins: [{a.code('mine.py')}]"))


@way("validate a recipe with a module")
def _(a: Arena) -> Outcome:
    return a.fewstep("validate", a.recipe(f"plugins: [{a.module()}]"))


@way("validate a recipe whose base has a plugin file")
def _(a: Arena) -> Outcome:
    a.recipe(f"plugins: [{a.code('mine.py')}]", "base.yaml")
    (a.folder / "own.yaml").write_text("extends: ./base.yaml\n")
    return a.fewstep("validate", "./own.yaml")


@way("validate with --set of a plugin file")
def _(a: Arena) -> Outcome:
    return a.fewstep("validate", "smoke-teacher", "--set", f"plugins=[{a.code('mine.py')}]")


@way("load_recipe in Python")
def _(a: Arena) -> Outcome:
    return a.python(lambda: load_recipe(a.recipe(f"plugins: [{a.code('mine.py')}]")))


@way("data prepare of a recipe with a plugin file")
def _(a: Arena) -> Outcome:
    return a.fewstep("data", "prepare", a.recipe(f"plugins: [{a.code('mine.py')}]"))


@way("import with a recipe with a plugin file")
def _(a: Arena) -> Outcome:
    from public_checkpoints import public_state
    from safetensors.torch import save_file

    save_file(public_state(8), a.folder / "public.safetensors")
    recipe = a.recipe(f"plugins: [{a.code('mine.py')}]")
    return a.fewstep("import", "public.safetensors", "--layout", "mdlm", "--out", "x.safetensors", "--recipe", recipe)


@way("cp, show, list and schema beside a plugin file")
def _(a: Arena) -> Outcome:
    recipe = a.recipe(f"plugins: [{a.code('mine.py')}, {a.module()}]")
    for line in (("cp", recipe, "copy.yaml"), ("show", "recipe", "smoke-teacher"), ("list",), ("schema",)):
        a.fewstep(*line)
    return a.fewstep("show", "objective", "dmmd")


# ---------------------------------------------------------------- pickles


@way("import of a pickle with code")
def _(a: Arena) -> Outcome:
    return a.fewstep("import", pickle(a, "theirs.ckpt"), "--layout", "mdlm", "--out", "x.safetensors")


@way("import of a pickle with code, named .safetensors")
def _(a: Arena) -> Outcome:
    return a.fewstep("import", pickle(a, "theirs.safetensors"), "--layout", "mdlm", "--out", "x.safetensors")


@way("Inception's weights as a pickle with code")
def _(a: Arena) -> Outcome:
    from fewstep.metrics.images.fid import _check_weights

    return a.python(lambda: _check_weights(a.folder / pickle(a, "inception.pth")))


# ---------------------------------------------------------------- the current folder


def _python_m(a: Arena, *args: str) -> Outcome:
    places = [path for path in sys.path if (Path(path) / "fewstep").is_dir()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    line = [sys.executable, "-m", "fewstep", *args]
    done = subprocess.run(line, cwd=a.folder, env=environment, capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout + done.stderr)


@way("entry point that lies in the current folder")
def _(a: Arena) -> Outcome:
    info = a.folder / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[fewstep.plugins]\ntheirs = {a.module()}\n")
    return _python_m(a, "list", "samplers")


@way("module of the current folder that hides an installed one")
def _(a: Arena) -> Outcome:
    a.code("numpy.py")
    return _python_m(a, "list", "samplers")
