"""What is fuzzed: each kind makes its input in a folder, and opens it with changes that a random source draws."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import resource
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutations import HOSTILE, changed_text, damaged
from PIL import Image

from fewstep.bench.results.results import Results
from fewstep.bench.suites.loading import load_suite
from fewstep.cli.main import main
from fewstep.core.errors import FewstepError
from fewstep.data.base import DATASETS, Dataset
from fewstep.data.images.cifar10 import _from_binary
from fewstep.data.images.mnist import read_idx
from fewstep.data.images.picture_files import Form, PictureFiles
from fewstep.data.text.tokenizers.base import TOKENIZERS
from fewstep.recipe import dump_recipe, load_recipe
from fewstep.recipe.shipped import shipped_recipes, shipped_suites
from fewstep.runs.checkpoint import import_weights, load_checkpoint, save_checkpoint
from fewstep.runs.exported import Exported
from fewstep.runtime.sealed_json import sealed_json
from fewstep.sampling.request import SampleRequest
from fewstep.sampling.templates import templates

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 10
"""Seconds that an input may take."""
LARGEST = 1 << 30
"""Bytes that an input may take."""

Try = Callable[[random.Random], bool]
"""Open a changed input; True if it was changed and read as something else than the original, of a kind that has a
digest. Raises FewstepError if the input is refused."""
KINDS: dict[str, Callable[[Path], Try]] = {}


def kind(function: Callable[[Path], Try]) -> Callable[[Path], Try]:
    KINDS[function.__name__] = function
    return function


class TooLong(Exception):
    """An input took more than 10 seconds."""


def outcome(attempt: Try, draw: random.Random) -> str:
    """refused, harmless or silent (also a refusal without a reason).

    Any other exception, a hang or 1 GB of memory is the caller's to report.
    """

    def stop(*_: object) -> None:
        raise TooLong(f"longer than {LONGEST} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            result = "silent" if attempt(draw) else "harmless"
    except FewstepError as error:
        result = "refused" if str(error).strip() else "silent"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < LARGEST >> 10, "more than 1 GB"
    return result


def _file(file: Path, read: Callable[[], Any], *, digest: bool, change: Any = damaged) -> Try:
    """Attempts that damage a file; with `digest`, whatever is read must be what was written."""
    content, whole = file.read_bytes(), _plain(read())

    def attempt(draw: random.Random) -> bool:
        other = change(content, draw) if change is damaged else change(content.decode(), draw).encode()
        file.write_bytes(other)
        try:
            return _plain(read()) != whole and digest
        finally:
            file.write_bytes(content)

    return attempt


def _plain(value: Any) -> Any:
    """A value that can be compared."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), list(value.shape), value.detach().contiguous().view(-1).view(torch.uint8).tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _one_of(attempts: list[Try]) -> Try:
    return lambda draw: draw.choice(attempts)(draw)


@kind
def recipes(folder: Path) -> Try:
    """Shipped recipes, complete, with changed lines or bytes."""
    names = sorted(shipped_recipes())
    texts = [dump_recipe(load_recipe(name, teacher=None).recipe) for name in names if name.endswith("-teacher")][:6]

    def attempt(draw: random.Random) -> bool:
        text = draw.choice(texts)
        content = changed_text(text, draw).encode() if draw.random() < 0.7 else damaged(text.encode(), draw)
        file = folder / "recipe.yaml"
        file.write_bytes(content)
        load_recipe(file)
        return False

    return attempt


@kind
def sets(folder: Path) -> Try:
    """`--set` with hostile values at keys that exist, and at some that do not."""
    plain = load_recipe("smoke-teacher").recipe.model_dump(mode="json")
    keys = list(_keys(plain))

    def attempt(draw: random.Random) -> bool:
        changes = []
        for _ in range(draw.randint(1, 3)):
            key = draw.choice(keys) if draw.random() < 0.9 else draw.choice(("", ".", "a..b", "data.x", "x[0]", "\x1b"))
            section = damaged(b"{type: masked, a: [1, 2]}", draw).decode(errors="replace")
            value = draw.choice(HOSTILE) if draw.random() < 0.8 else section
            changes.append(draw.choice((f"{key}={value}", f"{key}={value}", key + value)))
        load_recipe("smoke-teacher", changes)
        return False

    return attempt


def _keys(node: Any, above: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield above + name
        if isinstance(value, dict):
            yield from _keys(value, f"{above}{name}.")


_COMMANDS = (
    "validate", "show", "schema", "list", "sample", "evaluate", "runs", "leaderboard", "export", "grid", "cp", "",
)  # fmt: skip
_WORDS = (
    "--set", "--steps", "-n", "--seed", "--out", "--json", "--help", "--label", "--top-p", "--temperature", "--part",
    "--batch-size", "--prompt", "--infill", "--sampler", "--resume", "--weights", "--samples", "--times", "--", "-",
    "smoke-teacher", "no-such-recipe", "missing.yaml", "absent/run", "samplers", "train.steps=1", "4,8", "1/2", "auto",
    "-1", "nan", "1e9", "9" * 30, "", " ", ".", "..", "/dev/null", "\x1b[2J", "é", "\udcff", "x" * 300, "=", "{}", "[",
)  # fmt: skip


@kind
def commands(folder: Path) -> Try:
    """Command lines that train nothing, of models that do not exist."""

    def attempt(draw: random.Random) -> bool:
        words = [draw.choice(_WORDS) for _ in range(draw.randint(0, 5))]
        args = [draw.choice(_COMMANDS), *words]
        if args[0] in ("schema", "cp"):  # their files go to this folder
            args = [args[0], *words[:1], str(folder / "written")]
        err = io.StringIO()
        with _chdir(folder), contextlib.redirect_stderr(err):
            try:
                main(args)
            except SystemExit as stop:
                code = stop.code
        text = err.getvalue()
        assert code in (0, 1, 2), f"exit code {code!r} of {args}"
        assert not any(sign in text for sign in ("Traceback", "internal error")), f"{args}: {text}"
        assert "\x1b" not in text, f"{args}: a control character"
        if code:
            raise FewstepError(text or "usage")
        return False

    return attempt


@contextlib.contextmanager
def _chdir(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@kind
def suites(folder: Path) -> Try:
    """Shipped suites with changed lines."""
    texts = [path.read_text() for path in shipped_suites().values()]

    def attempt(draw: random.Random) -> bool:
        (folder / "suite.yaml").write_text(changed_text(draw.choice(texts), draw), errors="replace")
        load_suite(str(folder / "suite.yaml"), quick=draw.random() < 0.2)
        return False

    return attempt


@kind
def results(folder: Path) -> Try:
    """results.json of a suite, which has no digest: it is refused or fits its form."""
    file = folder / "results.json"
    content = json.loads((ROOT / "benchmarks/results/exact-quick/base.json").read_text())
    content["cases"], content["rows"] = content["cases"][:2], content["rows"][:4]
    file.write_text(json.dumps(content, indent=1))
    read = lambda: Results.load(file).without_times()  # noqa: E731
    return _one_of([_file(file, read, digest=False, change=change) for change in (damaged, changed_text)])


@kind
def checkpoints(folder: Path) -> Try:
    """Both files of a checkpoint and its mark."""
    state = {"weights": torch.arange(64.0), "step": 7, "names": {"a": 1.5, "b": "text"}}
    path = save_checkpoint(folder, 7, state, keep_last=1, run="ours")
    return _one_of(
        [
            _file(path / name, lambda: load_checkpoint(path, run="ours"), digest=True)
            for name in ("state.safetensors", "state.json", "DONE")
        ]
    )


@kind
def exports(folder: Path) -> Try:
    """Files of an exported folder, and an exported file of an earlier version, which has no digest."""
    before = ROOT / "tests/data/before"
    shutil.copytree(before / "exported", folder / "exported")
    config = folder / "exported/config.json"
    config.write_text(json.dumps(sealed_json(json.loads(config.read_text())), indent=2))
    single = folder / "single.safetensors"
    shutil.copy(before / "teacher/export/student_ema.safetensors", single)

    def read() -> object:
        exported = Exported(folder / "exported")
        recipe = exported.recipe()
        exported.dataset(recipe)
        return exported.contents, recipe.model_dump(mode="json")

    return _one_of(
        [
            _file(folder / "exported/model.safetensors", read, digest=True),
            _file(folder / "exported/config.json", read, digest=True),
            _file(folder / "exported/config.json", read, digest=True, change=changed_text),
            _file(single, lambda: import_weights(single), digest=False),
        ]
    )


@kind
def shards(folder: Path) -> Try:
    """A shard and the manifest of prepared text, and the tokenizer beside it."""
    (folder / "t.txt").write_text("\n".join(f"Document {i} of many" for i in range(60)))
    config = {"type": "corpus", "path": str(folder / "t.txt"), "prepared": str(folder / "shards"), "length": 16}
    read = lambda: DATASETS.build(config).train[:].tolist()  # noqa: E731
    with contextlib.redirect_stderr(io.StringIO()):
        read()
    files = sorted(file for file in (folder / "shards").iterdir() if file.suffix in (".safetensors", ".json", ".txt"))
    assert len(files) >= 2
    return _one_of([_file(file, read, digest=True) for file in files])


@kind
def tokenizers(folder: Path) -> Try:
    """Files of tokenizers."""
    texts = [f"Some documents to learn pieces from, number {i}.\n" for i in range(50)]
    attempts = []
    for config in ({"type": "char"}, {"type": "sentencepiece", "vocab_size": 300}):
        fitted = TOKENIZERS.build(config)
        fitted.fit(texts)
        ((name, content),) = fitted.files().items()
        file = folder / name
        file.write_bytes(content)

        def read(config: Any = config, name: str = name, file: Path = file) -> object:
            tokenizer = TOKENIZERS.build(config)
            tokenizer.load({name: file.read_bytes()})
            with contextlib.suppress(FewstepError):
                tokenizer.encode(texts[0])
            return tokenizer.symbols(), tokenizer.decode(list(range(tokenizer.vocab_size)))

        attempts.append(_file(file, read, digest=False))
    return _one_of(attempts)


@kind
def pictures(folder: Path) -> Try:
    """Pictures of several formats."""
    pixels = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))
    attempts = []
    for ending in ("png", "jpg", "webp", "bmp", "tiff", "ppm"):
        (folder / ending / "a").mkdir(parents=True)
        file = folder / ending / "a" / f"p.{ending}"
        pixels.save(file)
        attempts.append(_file(file, lambda path=folder / ending: _read_pictures(path), digest=False))
    return _one_of(attempts)


def _read_pictures(path: Path) -> object:
    source = PictureFiles(path)
    return [part.tolist() for part in source.read(None, Form(8, "rgb", True), source.classes)]


@kind
def archives(folder: Path) -> Try:
    """A .zip of pictures, IDX files packed and plain, and CIFAR-10 in binary."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "png")
    packed = folder / "pictures.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("a/1.png", "b/2.png"):
            archive.writestr(name, picture.getvalue(), zipfile.ZIP_DEFLATED)
    idx = bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 4)) + bytes(range(32))
    (folder / "plain-idx").write_bytes(idx)
    (folder / "idx.gz").write_bytes(gzip.compress(idx))
    cifar = folder / "cifar-10-batches-bin" / "test_batch.bin"
    cifar.parent.mkdir()
    cifar.write_bytes(bytes(3073) * 2)
    return _one_of(
        [
            _file(packed, lambda: _read_pictures(packed), digest=False),
            _file(folder / "plain-idx", lambda: read_idx(folder / "plain-idx", 3).tolist(), digest=False),
            _file(folder / "idx.gz", lambda: read_idx(folder / "idx.gz", 3).tolist(), digest=False),
            _file(cifar, lambda: [part.tolist() for part in _from_binary(folder, False, False)], digest=False),
        ]
    )


@kind
def infill(folder: Path) -> Try:
    """Templates as text and as tensors, and prompts."""
    (folder / "t.txt").write_text("some text to learn letters from, and more of it. " * 40)
    data: Dataset = DATASETS.build({"type": "text", "path": str(folder / "t.txt"), "length": 16})
    text, tensors = folder / "rows.txt", folder / "rows.safetensors"
    text.write_text("some te_t\nto le___")
    from safetensors.torch import save_file

    save_file({"tokens": torch.zeros(2, 16, dtype=torch.long)}, tensors)
    read = lambda file: templates(SampleRequest(count=2, infill=str(file)), data)  # noqa: E731

    def prompt(draw: random.Random) -> bool:
        templates(SampleRequest(prompt=damaged(b"some text", draw).decode(errors="surrogateescape")), data)
        return False

    files = [_file(file, lambda file=file: read(file), digest=False) for file in (text, tensors)]
    return _one_of([*files, prompt])
