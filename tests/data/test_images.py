"""Image folders and CIFAR-10: pixels, sizes, classes, parts and changes at random are what the settings say."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from local_data import real_data, write_cifar10, write_mnist, write_pictures
from PIL import Image

from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS, Dataset
from fewstep.data.images.pixels import flipped, shifted, spread


def folder(path: Path, **settings: Any) -> Dataset:
    return DATASETS.build({"type": "image_folder", "path": str(path), "size": 4, **settings})


def cifar(path: Path, **settings: Any) -> Dataset:
    return DATASETS.build({"type": "cifar10", "path": str(path), **settings})


def save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


RAMP = np.arange(4 * 4 * 3).reshape(4, 4, 3) * 5


def test_pixels_come_row_by_row_with_channels_last(tmp_path: Path) -> None:
    save(tmp_path / "x" / "ramp.png", RAMP)
    data = folder(tmp_path)
    assert data.spec.grid == (4, 4, 3)
    assert data.train.dtype == torch.uint8
    assert data.train.tolist() == [RAMP.reshape(-1).tolist()]
    images = data.to_images(data.train)
    assert images is not None
    torch.testing.assert_close(images, torch.from_numpy(RAMP).permute(2, 0, 1)[None].float() / 255)


@pytest.mark.parametrize("levels", [2, 10, 16, 256])
def test_levels_are_of_equal_width(levels: int, tmp_path: Path) -> None:
    every = np.arange(256).reshape(16, 16)
    save(tmp_path / "x" / "every.png", every)
    data = folder(tmp_path, size=16, levels=levels, colour="grey")
    assert data.train[0].tolist() == [value * levels // 256 for value in range(256)]
    assert data.spec.vocab_size == levels


def test_a_wide_picture_is_scaled_by_its_shorter_side_and_cut_to_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((8, 16, 3))
    wide[:, 4:12] = 200  # the middle square
    wide[0, 4] = 0  # one of the four pixels that the first one is the mean of
    save(tmp_path / "x" / "wide.png", wide)
    pixels = folder(tmp_path).train.view(4, 4, 3)
    assert pixels[0, 0].tolist() == [150] * 3
    assert set(pixels.flatten()[3:].tolist()) == {200}


def test_a_small_picture_is_enlarged(tmp_path: Path) -> None:
    save(tmp_path / "x" / "dot.png", np.full((1, 1, 3), 77))
    assert set(folder(tmp_path).train.flatten().tolist()) == {77}


def test_grey_is_one_token_a_pixel(tmp_path: Path) -> None:
    save(tmp_path / "x" / "red.png", np.full((4, 4, 3), [255, 0, 0]))
    data = folder(tmp_path, colour="grey")
    assert data.spec.grid == (4, 4, 1)
    assert set(data.train.flatten().tolist()) == {76}  # 0.299 x 255


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image = np.zeros((4, 4, 3), np.uint8)
    image[0, 0] = 255
    Image.fromarray(image).save(tmp_path / "x" / "turned.png", exif=exif)
    assert folder(tmp_path).train.view(4, 4, 3)[3, 3].tolist() == [255] * 3


def pack(source: Path, name: str) -> Path:
    return Path(shutil.make_archive(str(source.parent / name), "zip", source.parent, source.name))


def test_an_archive_is_the_same_as_its_folder(tmp_path: Path) -> None:
    plain = folder(write_pictures(tmp_path / "p", classes=3))
    packed = folder(pack(tmp_path / "p", "packed"))
    assert plain.labels is not None
    assert plain.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert plain.fingerprint == packed.fingerprint
    assert torch.equal(plain.labels, packed.labels)


def test_hidden_files_and_others_are_left_out(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.png").write_bytes(b"no picture")
    (tmp_path / "a" / "._0.png").write_bytes(b"no picture")
    assert len(folder(tmp_path)) == 8


def test_one_folder_of_pictures_is_one_class(tmp_path: Path) -> None:
    write_pictures(tmp_path, classes=1)
    assert folder(tmp_path / "a").classes == folder(tmp_path).classes == 1


def test_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    for name in ("a/one/x.png", "a/two/y.png", "b/z.png"):
        save(tmp_path / name, RAMP)
    assert folder(tmp_path).labels.tolist() == [0, 0, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize("packed", [False, True])
def test_a_test_part_is_held_out(packed: bool, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for part, each in (("train", 4), ("test", 3)):
        write_pictures(root / part, each=each)
        if packed:
            pack(root / part, f"x_{part}_jpg")
            shutil.rmtree(root / part)
    data = folder(root, held_out=2)
    assert len(data) == 8
    assert data.held_out is not None
    assert data.held_out[:, :3].tolist() == [[0, 0, 200], [20, 0, 200]]  # evenly from a's three and b's three
    assert folder(root, held_out=0).held_out is None


def test_without_a_test_part_a_share_is_held_out_or_it_is_said(tmp_path: Path) -> None:
    write_pictures(tmp_path, classes=2)
    whole = folder(tmp_path, held_out=3)
    assert whole.held_out is None
    assert whole.remark == (
        "no test part, so none of the 3 images of data.held_out are held out; data.held_out_share holds out a share of "
        "the training pictures"
    )
    assert folder(tmp_path, held_out=0).remark is None
    data = folder(tmp_path, held_out_share=0.25)
    assert data.held_out is not None
    assert data.remark is None
    assert torch.equal(data.held_out, whole.train[[0, 4]])  # one of each class
    assert torch.equal(data.train, whole.train[[1, 2, 3, 5, 6, 7]])
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for share in (0.01, 0.99):
        with pytest.raises(UserError, match=f"data.held_out_share: {share:g} of 8 images are"):
            folder(tmp_path, held_out_share=share)


def test_a_class_named_train_is_a_class(tmp_path: Path) -> None:
    for name in ("trains", "cars"):
        save(tmp_path / name / "x.png", RAMP)
    assert folder(tmp_path).classes == 2


def test_limit_keeps_the_shares_of_classes(tmp_path: Path) -> None:
    data = folder(write_pictures(tmp_path, classes=4, each=5), limit=8)
    assert data.labels is not None
    assert torch.bincount(data.labels).tolist() == [2, 2, 2, 2]
    assert spread(3, None).tolist() == spread(3, 5).tolist() == [0, 1, 2]


def broken(path: Path, content: bytes) -> None:
    write_pictures(path, classes=1)
    (path / "a" / "9.jpg").write_bytes(content)


def jpeg(tmp_path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    Image.fromarray(noise.astype(np.uint8)).save(tmp_path / "whole.jpg")
    return (tmp_path / "whole.jpg").read_bytes()


def told(path: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        folder(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "HERE")


def test_a_picture_that_is_cut_short_is_named(tmp_path: Path) -> None:
    root = tmp_path / "root"
    broken(root, jpeg(tmp_path)[:-300])
    message = told(root)
    assert message.startswith("data.path: image 'a/9.jpg' of 'HERE' cannot be read (image file is truncated")
    assert message.endswith("; replace it, or remove it")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_what_is_no_picture_is_named(content: bytes, tmp_path: Path) -> None:
    broken(tmp_path, content)
    assert "image 'a/9.jpg' of 'HERE' cannot be read (it is no picture that Pillow knows)" in told(tmp_path)


def test_pictures_of_more_than_eight_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "x" / "deep.png")
    assert "image 'x/deep.png' of 'HERE' cannot be read (its pixels have more than 8 bits, mode I;16)" in told(tmp_path)


def test_a_size_that_is_wrong_is_refused_if_asked(tmp_path: Path) -> None:
    write_pictures(tmp_path, size=(8, 10))
    assert told(tmp_path, resize=False) == (
        "data.path: image 'a/0.png' of 'HERE' has 8 x 10 pixels, not 4 x 4; set data.resize to true to make all fit"
    )


def test_places_that_hold_nothing(tmp_path: Path) -> None:
    assert "'HERE' holds no pictures (.jpg, " in told(tmp_path)
    assert told(tmp_path / "none") == "data.path: no folder or archive 'HERE'"
    archive = tmp_path / "x.zip"
    archive.write_bytes(b"PK\x03\x04 and no more")
    assert told(archive) == "data.path: 'HERE' is not a whole .zip archive; fetch it again"
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr("a/1.png", b"")
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 255  # a version that does not exist yet
    archive.write_bytes(content)
    assert told(archive) == "data.path: 'HERE' is not a whole .zip archive; fetch it again"


def test_a_picture_beside_classes_is_named(tmp_path: Path) -> None:
    save(write_pictures(tmp_path) / "stray.png", RAMP)
    assert told(tmp_path) == ("data.path: 'HERE' has picture 'stray.png' beside folders of classes; move it into one")


def test_a_damaged_member_of_an_archive_is_named(tmp_path: Path) -> None:
    archive = pack(write_pictures(tmp_path / "p"), "packed")
    content = archive.read_bytes()
    place = content.index(b"p/a/0.png") + 30  # within its packed bytes
    archive.write_bytes(content[:place] + b"XXXX" + content[place + 4 :])
    assert "image 'p/a/0.png' of 'HERE' cannot be read (" in told(archive)


def test_labels_that_do_not_match(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", classes=1)
    write_pictures(tmp_path / "test", classes=2)
    assert "test' has a class 'b', of which there is no training image" in told(tmp_path)


def test_two_training_parts_are_too_many(tmp_path: Path) -> None:
    for name in ("train", "train2"):
        write_pictures(tmp_path / name)
    assert told(tmp_path) == "data.path: 'HERE' holds train, train2; set data.path to the one that is meant"


# ------------------------------------------------------------------ CIFAR-10


def test_cifar10_in_its_binary_version(tmp_path: Path) -> None:
    data = cifar(write_cifar10(tmp_path))
    record = np.frombuffer((tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin").read_bytes()[1:3073], np.uint8)
    assert torch.equal(data.train[0].view(32, 32, 3), torch.from_numpy(record.copy()).view(3, 32, 32).permute(1, 2, 0))
    assert len(data) == 50
    assert data.labels is not None
    assert data.labels[:10].tolist() == list(range(10))
    assert data.held_out is not None
    assert data.held_out.shape == (10, 3072)
    assert data.remark is None
    assert cifar(tmp_path / "cifar-10-batches-bin").fingerprint == data.fingerprint


def test_cifar10_as_torchvision_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    binary = cifar(write_cifar10(tmp_path / "binary"), size=8, levels=16)

    class Source:
        def __init__(self, root: str, train: bool, download: bool) -> None:
            assert (root, download) == (str(tmp_path), False)
            files = sorted((tmp_path / "binary" / "cifar-10-batches-bin").glob("data*" if train else "test*"))
            records = np.concatenate([np.frombuffer(f.read_bytes(), np.uint8).reshape(-1, 3073) for f in files])
            self.data = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            self.targets = records[:, 0].tolist()

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Source)
    data = cifar(tmp_path, size=8, levels=16)
    assert data.fingerprint == binary.fingerprint
    assert torch.equal(data.held_out, binary.held_out)  # type: ignore[arg-type]


def test_a_pickle_that_is_not_the_published_one_is_not_loaded(tmp_path: Path) -> None:
    place = tmp_path / "cifar-10-batches-py"
    place.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        (place / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UserError, match=r"are not the published ones .their MD5 sums differ.; fetch them again"):
        cifar(tmp_path)


def test_a_copy_as_pictures_says_so(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", classes=10, each=2)
    data = cifar(tmp_path, size=8)
    assert data.spec.grid == (8, 8, 3)
    assert data.remark is not None
    assert "do not compare with published ones" in data.remark


def test_wrong_files_of_cifar10_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder '.*nowhere'; set data.path to the folder that holds CIFAR-10, or"):
        cifar(tmp_path / "nowhere")
    file = write_cifar10(tmp_path) / "cifar-10-batches-bin" / "data_batch_3.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    with pytest.raises(UserError, match=r"data_batch_3.bin' has 30725 bytes, not a multiple of 3073 as CIFAR-10"):
        cifar(tmp_path)
    file.write_bytes(content[:3073] + b"\x0c" + content[3074:])
    with pytest.raises(UserError, match=r"image 1 of '.*data_batch_3.bin' has label 12; CIFAR-10 has labels 0 to 9"):
        cifar(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match=r"cannot read '.*data_batch_3.bin': No such file"):
        cifar(tmp_path)
    write_pictures(tmp_path / "p")
    with pytest.raises(UserError, match="has pictures of 2 classes, CIFAR-10 has 10; for others use image_folder"):
        cifar(tmp_path / "p")


def test_a_download_of_cifar10_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", refuse)
    with pytest.raises(UserError, match=r"data.download: could not fetch CIFAR-10 into '.*' .<urlopen error.*by hand"):
        cifar(tmp_path, download=True)


def test_real_copy_of_cifar10() -> None:
    data = cifar(real_data("cifar10"), size=8, levels=16, limit=200, held_out=20)
    assert data.train.shape == (200, 192)
    assert torch.bincount(data.labels).tolist() == [20] * 10  # type: ignore[arg-type]
    assert data.remark is not None


# ---------------------------------------------------------- changes at random


def pictures(count: int = 400) -> torch.Tensor:
    """Images [N, 5, 5, 2] in which every pixel differs from every other."""
    return torch.arange(50).view(1, 5, 5, 2).expand(count, -1, -1, -1)


def test_flips_mirror_about_half() -> None:
    images = flipped(pictures(), torch.Generator().manual_seed(0))
    mirrored = (images == pictures().flip(2)).flatten(1).all(1)
    assert ((images == pictures()).flatten(1).all(1) ^ mirrored).all()
    assert 150 < int(mirrored.sum()) < 250  # five standard deviations


def test_shifts_move_whole_images_and_repeat_the_border() -> None:
    images = shifted(pictures(), 2, torch.Generator().manual_seed(0))
    rows, columns = images[:, 2, 2, 0] // 10, images[:, 2, 2, 0] % 10 // 2
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {(r, c) for r in range(5) for c in range(5)}
    places = torch.arange(5)
    for image, row, column in zip(images, rows, columns, strict=True):
        expected = pictures(1)[0][(places + row - 2).clamp(0, 4)][:, (places + column - 2).clamp(0, 4)]
        assert torch.equal(image, expected)


def test_held_out_images_of_mnist_come_from_its_test_part(tmp_path: Path) -> None:
    write_mnist(tmp_path / "test", np.full((3, 28, 28), 255))
    write_mnist(tmp_path / "all")
    shutil.copy(tmp_path / "test" / "train-images-idx3-ubyte.gz", tmp_path / "all" / "t10k-images-idx3-ubyte.gz")
    settings = {"type": "fashion_mnist", "path": str(tmp_path / "all"), "size": 2, "levels": 2}
    data = DATASETS.build({**settings, "held_out": 2})
    assert data.held_out is not None
    assert data.held_out.tolist() == [[1] * 4] * 2
    assert DATASETS.build({**settings, "held_out": 0}).held_out is None
    write_mnist(tmp_path / "test", np.full((3, 20, 20), 255))
    shutil.copy(tmp_path / "test" / "train-images-idx3-ubyte.gz", tmp_path / "all" / "t10k-images-idx3-ubyte.gz")
    with pytest.raises(UserError, match="has images of 20 x 20 pixels, the training images have 28 x 28"):
        DATASETS.build(settings)
