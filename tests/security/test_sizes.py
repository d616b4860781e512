"""Numbers in a stranger's files have bounds before memory is taken or a network is built."""

from __future__ import annotations

import io
import json
import resource
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from arena import Arena
from torch import nn

from fewstep.runtime.bounded import TooLargeError, parameters_within

LARGE = 10**9
MEMORY = 1 << 30


@pytest.fixture
def arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arena:
    monkeypatch.chdir(tmp_path)
    return Arena(tmp_path)


@pytest.fixture(autouse=True)
def one_gigabyte() -> Iterator[None]:
    """The process may take one gigabyte more than it has, and ten seconds."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, before[1]))
    start = time.process_time()
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - start < 10


def refused(arena: Arena, name: str) -> str:
    outcome = arena.fewstep("sample", name, "-n", "2", "--steps", "2")
    assert outcome.code == 2, outcome
    assert "out of memory" not in outcome.text
    lines = [line for line in outcome.text.splitlines() if not line.startswith("note: ")]
    assert len(lines) <= 3, lines
    return "\n".join(lines)


# ---------------------------------------------------------------- networks


def test_modules_are_counted_as_they_are_built() -> None:
    with parameters_within(tensors=4, numbers=100):
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(TooLargeError), parameters_within(tensors=4, numbers=100):
        nn.Sequential(*(nn.Linear(1, 1) for _ in range(LARGE)))
    with pytest.raises(TooLargeError), torch.device("meta"), parameters_within(tensors=4, numbers=100):
        nn.Linear(LARGE, LARGE)
    with pytest.raises(TooLargeError), torch.device("meta"), parameters_within(tensors=4, numbers=100):
        nn.Module().register_buffer("table", torch.zeros(LARGE, LARGE))
    nn.Linear(100, 100)  # the limit ends with the block


SIZES = {"width": 2**26, "depth": LARGE, "mlp_ratio": 1e12}
FORMS = ("run", "exported_file", "exported")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", SIZES)
def test_a_network_is_no_larger_than_its_weights(arena: Arena, form: str, key: str) -> None:
    backbone = {"type": "transformer", "width": 8, "depth": 1, "heads": 2, key: SIZES[key]}
    assert "larger" in refused(arena, getattr(arena, form)({"backbone": backbone}))


@pytest.mark.parametrize("key", ["vocab_size", "length", "classes", "parameters", "step", "steps"])
@pytest.mark.parametrize("value", [LARGE, 10**18, 10**400, -1])
def test_numbers_of_an_export_have_bounds(arena: Arena, key: str, value: int) -> None:
    config = json.loads((arena.folder / "exported/config.json").read_text())
    changes = {key: value} if key in config else {"data": {**config["data"], key: value}}
    name = arena.exported({}, changes)
    outcome = arena.fewstep("sample", name, "-n", "2", "--steps", "2")
    assert outcome.code in (0, 2), outcome
    assert "internal" not in outcome.text
    assert "out of memory" not in outcome.text
    if key in ("vocab_size", "length"):
        assert outcome.code == 2, outcome


@pytest.mark.parametrize("form", FORMS[:2])
@pytest.mark.parametrize(
    "changes", [{"vocab_size": 10**5, "order": 4}, {"size": 10**11}, {"length": 10**11}, {"vocab_size": 10**9}]
)
def test_made_data_have_a_size(arena: Arena, form: str, changes: dict[str, int]) -> None:
    data = {"type": "markov", "vocab_size": 4, "order": 1, "length": 8, "successors": 1, "size": 512, **changes}
    assert "data" in refused(arena, getattr(arena, form)({"data": data}))


# ---------------------------------------------------------------- files


def header(length: int, content: bytes) -> bytes:
    return struct.pack("<Q", length) + content


HEADERS = {
    "a length beyond the file": header(2**40, b"{}"),
    "a length of 100 MB": header(10**8, b"{}"),
    "nesting": header(200_000, b"[" * 200_000),
    "a tensor of no bytes": header(0, b""),
    "offsets beyond the file": (lambda text: header(len(text), text))(
        json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    ),
    "a shape whose product overflows": (lambda text: header(len(text), text))(
        json.dumps({"w": {"dtype": "F32", "shape": [2**33, 2**33], "data_offsets": [0, 0]}}).encode()
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_weights(arena: Arena, name: str) -> None:
    (arena.folder / "theirs.safetensors").write_bytes(HEADERS[name])
    outcome = arena.fewstep("sample", "theirs.safetensors", "-n", "2")
    assert outcome.code in (1, 2), outcome
    assert "internal" not in outcome.text


@pytest.mark.parametrize("metadata", [{}, {"recipe": "a: ["}, {"step": "x"}, {"step": "9" * 5000}])
def test_metadata_of_weights(arena: Arena, metadata: dict[str, str]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(arena.folder / "teacher/export/student_ema.safetensors")
    save_file(tensors, "theirs.safetensors", metadata={"format": "fewstep/1", **metadata})
    refused(arena, "theirs.safetensors")


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 10, '{"a":' * 100_000, "9" * 10_000, '"x"', ""])
@pytest.mark.parametrize("file", ["exported/config.json", "results.json"])
def test_json_of_strangers(arena: Arena, file: str, text: str) -> None:
    (arena.folder / file).write_text(text)
    line = ("leaderboard", "results.json") if "results" in file else ("sample", "exported")
    outcome = arena.fewstep(*line)
    assert outcome.code == 2, outcome
    assert "internal" not in outcome.text


def test_a_config_of_an_export_is_short(arena: Arena) -> None:
    with (arena.folder / "exported/config.json").open("a") as file:
        file.truncate(1 << 30)
    assert "more than" in refused(arena, "exported")


# ---------------------------------------------------------------- pictures and archives


def test_a_picture_says_its_size_before_it_is_decoded(arena: Arena) -> None:
    from PIL import Image

    picture = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(picture, "PNG")
    for label in ("a", "b"):
        (arena.folder / "pictures" / label).mkdir(parents=True)
        (arena.folder / "pictures" / label / "1.png").write_bytes(picture.getvalue())
    data = "data: {type: image_folder, path: pictures, size: 8, resize: true}\nevaluate: {metrics: []}\n"
    outcome = arena.fewstep("train", arena.recipe(data))
    assert outcome.code == 2, outcome
    assert "144,000,000 pixels" in outcome.text


def test_a_member_of_an_archive_has_a_size(arena: Arena) -> None:
    with zipfile.ZipFile(arena.folder / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for label in ("a", "b"):
            with archive.open(f"{label}/1.png", "w") as member:
                for _ in range(300):
                    member.write(bytes(1 << 20))
    data = "data: {type: image_folder, path: pictures.zip, size: 8, resize: true}\nevaluate: {metrics: []}\n"
    outcome = arena.fewstep("train", arena.recipe(data))
    assert outcome.code == 2, outcome
    assert "314,572,800 bytes" in outcome.text
