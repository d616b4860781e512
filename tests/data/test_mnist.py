"""MNIST: what is read is what the files say, and files that are wrong are told in one sentence."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from local_data import idx, real_data, write_mnist

from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS, Dataset
from fewstep.data.images.mnist import read_idx
from fewstep.testing.datasets import check_dataset

RAMP = np.arange(2 * 4 * 4).reshape(2, 4, 4) * 8
"""Two images of 4x4 pixels, 0 to 248."""


def build(folder: Path, **settings: object) -> Dataset:
    return DATASETS.build({"type": "mnist", "path": str(folder), **settings})


def test_all_levels_give_the_bytes_back(tmp_path: Path) -> None:
    data = build(write_mnist(tmp_path, RAMP, np.array([7, 1])), size=4, levels=256)
    assert torch.equal(data.train, torch.from_numpy(RAMP.reshape(2, 16)))
    assert data.labels is not None
    assert data.labels.tolist() == [7, 1]
    assert data.spec.grid == (4, 4, 1)
    assert torch.equal(data.to_images(data.train), data.train.view(2, 1, 4, 4) / 255)


def test_areas_are_averaged_and_cut_into_equal_levels(tmp_path: Path) -> None:
    data = build(write_mnist(tmp_path, RAMP), size=2, levels=4)
    means = RAMP.reshape(2, 2, 2, 2, 2).mean((2, 4)).reshape(2, 4)
    assert data.train.tolist() == (means // 64).astype(int).tolist()


def test_a_size_that_does_not_divide(tmp_path: Path) -> None:
    check_dataset({"type": "mnist", "path": str(write_mnist(tmp_path)), "size": 10, "levels": 2})


def test_limit_keeps_the_first(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    some, everything = build(tmp_path, size=7, limit=5), build(tmp_path, size=7)
    assert torch.equal(some.train, everything.train[:5])
    assert some.labels is not None
    assert len(some.labels) == 5


@pytest.mark.parametrize("place", ["", "MNIST/raw"])
@pytest.mark.parametrize("name", ["{}-idx{}-ubyte", "{}.idx{}-ubyte", "{}-idx{}-ubyte.gz"])
def test_names_in_use_are_found(name: str, place: str, tmp_path: Path) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array, dimensions in (("train-images", RAMP, 3), ("train-labels", np.arange(2), 1)):
        content = idx(array)
        path = folder / name.format(kind, dimensions)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    assert len(build(tmp_path, size=4)) == 2


IMAGES = "train-images-idx3-ubyte.gz"
WRONG = {
    "cut short": (gzip.compress(idx(RAMP))[:-20], f"'.*{IMAGES}' ends early; fetch it again"),
    "not gzip": (b"<html>not found</html>", f"'.*{IMAGES}' is not a whole gzip file"),
    "labels for images": (
        gzip.compress(idx(np.arange(2))),
        r"not an IDX file of bytes in 3 dimensions \(it begins with 00000801, not 00000803\)",
    ),
    "empty": (gzip.compress(b""), "begins with nothing"),
    "fewer pixels than said": (gzip.compress(idx(RAMP)[:-1]), "holds 31 bytes, its header says 32"),
    "no header": (gzip.compress(idx(RAMP)[:6]), "ends early; fetch it again"),
    "more pixels than said": (gzip.compress(idx(RAMP) + b"0"), "holds more than 32 bytes, its header says 32"),
    "more than any": (
        gzip.compress(bytes((0, 0, 8, 3)) + b"\x7f" * 12),
        r"says that it holds 9,\d+,\d+,\d+,\d+,\d+,\d+,\d+,\d+,\d+ bytes, more than the 1,073,741,824 allowed",
    ),
    "no images": (gzip.compress(idx(RAMP[:0])), "has 0 images, '.*' 2 labels"),
    "one image too few": (gzip.compress(idx(RAMP[:1])), "has 1 images, '.*' 2 labels"),
}


@pytest.mark.parametrize("content", WRONG)
def test_a_wrong_file_is_one_sentence(content: str, tmp_path: Path) -> None:
    write_mnist(tmp_path, RAMP)
    data, told = WRONG[content]
    (tmp_path / IMAGES).write_bytes(data)
    with pytest.raises(UserError, match=told) as caught:
        build(tmp_path, size=4)
    assert "\n" not in str(caught.value)
    assert "data.path: " in str(caught.value)


def test_a_file_that_unpacks_to_more_than_it_says_is_not_unpacked(tmp_path: Path) -> None:
    """100 MB of zeros behind a header that says 32 bytes, in 100 KB."""
    (tmp_path / IMAGES).write_bytes(gzip.compress(idx(RAMP) + bytes(100_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="holds more than 32 bytes"):
            read_idx(tmp_path / IMAGES, 3)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no {IMAGES} in .*; set data.path to the folder that holds MNIST, or data"):
        build(tmp_path / "nowhere")


def test_images_smaller_than_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.size: the images have 4 x 4 pixels, not 14"):
        build(write_mnist(tmp_path, RAMP), size=14)


def test_a_download_without_a_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried one, got: no\nTried two, got: no\n")

    monkeypatch.setattr("torchvision.datasets.MNIST", refuse)
    with pytest.raises(UserError) as caught:
        build(tmp_path, download=True)
    assert str(caught.value) == (
        f"data.download: could not fetch MNIST into '{tmp_path}' (Error downloading train-images-idx3-ubyte.gz); "
        "put its files there by hand, and leave data.download out"
    )


def test_what_is_there_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.MNIST", None)
    assert len(build(write_mnist(tmp_path, RAMP), size=4, download=True)) == 2


def test_real_mnist() -> None:
    data = build(real_data("mnist"), size=14, levels=4)
    assert data.train.shape == (60_000, 196)
    assert data.labels is not None
    assert data.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert torch.bincount(data.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert set(data.train.unique().tolist()) == {0, 1, 2, 3}
