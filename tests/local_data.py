"""Data for tests: small files in the formats that datasets read, and the real ones where they are at hand."""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewstep.recipe import dump_recipe, parse_recipe
from fewstep.runs.folder import RunDir
from fewstep.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]


def real_data(name: str) -> Path:
    """A file or folder of real data: below $FEWSTEP_TEST_DATA, or below shared/data beside the checkout.

    Skips the test where it is absent.
    """
    path = Path(os.environ.get("FEWSTEP_TEST_DATA", ROOT.parent / "shared" / "data")) / name
    if not path.exists():
        pytest.skip(f"no {name} beside this checkout; FEWSTEP_TEST_DATA can name the folder that holds it")
    return path


def idx(array: np.ndarray) -> bytes:
    """Bytes of an array as an IDX file."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, images: np.ndarray | None = None, labels: np.ndarray | None = None) -> Path:
    """Training files of MNIST: by default 200 images of one random bright square each, in two classes."""
    folder.mkdir(exist_ok=True)
    if images is None:
        corners = np.random.default_rng(0).integers(0, 20, (200, 2))
        images = np.zeros((200, 28, 28))
        for image, (top, left) in zip(images, corners, strict=True):
            image[top : top + 8, left : left + 8] = 255
    if labels is None:
        labels = np.arange(len(images)) % 2
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder


def write_pictures(folder: Path, classes: int = 2, each: int = 4, size: tuple[int, int] = (32, 32)) -> Path:
    """Folders `a`, `b`, ... of PNG files; each picture is of one colour, which differs between pictures."""
    for number in range(classes):
        place = folder / "abcdefghij"[number]
        place.mkdir(parents=True, exist_ok=True)
        for index in range(each):
            colour = (number * 20, index * 30, 200)
            Image.new("RGB", (size[1], size[0]), colour).save(place / f"{index}.png")
    return folder


def write_cifar10(folder: Path, count: int = 10) -> Path:
    """The binary version of CIFAR-10, with `count` random images in each of its six files."""
    place = folder / "cifar-10-batches-bin"
    place.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        records = np.random.default_rng(index).integers(0, 256, (count, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(count) % 10
        (place / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def write_tokenizer(folder: Path, data: Any = "digits", steps: int = 4, **backbone: Any) -> Path:
    """A run of a tiny image tokenizer, trained for a few steps."""
    small = {"type": "vq_autoencoder", "width": 8, "depth": 1, "codes": 12, "code_width": 4, **backbone}
    recipe = parse_recipe(
        {
            "name": "tokenizer",
            "data": data,
            "process": "masked",
            "backbone": small,
            "objective": "vq",
            "optim": {"lr": 3e-3},
            "ema": {"decay": 0.9},
            "train": {"steps": steps, "batch_size": 32, "device": "cpu"},
        }
    )
    run = RunDir(folder)
    folder.mkdir(parents=True)
    run.resolved.write_text(dump_recipe(recipe))
    Trainer.from_recipe(recipe, run, echo=lambda line: None).fit()
    return folder


def random_piece(slots: int, seed: int) -> list[list[int]]:
    """A piece whose voices walk at random, each in its own range."""
    steps = np.random.default_rng(seed).integers(-2, 3, (slots, 4)).cumsum(0).clip(-7, 7)
    return (steps + np.array([72, 65, 58, 50])).tolist()


def write_chorales(path: Path, **parts: Any) -> Path:
    """The JSON file of chorales; by default six pieces to train on and two held out."""
    default = {
        "train": [random_piece(40, seed) for seed in range(6)],
        "valid": [random_piece(40, seed) for seed in (10, 11)],
        "test": [random_piece(40, 20)],
    }
    path.write_text(json.dumps({**default, **parts}))
    return path
