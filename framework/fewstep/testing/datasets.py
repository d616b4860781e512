"""Conformance of datasets: shapes, ranges, repeatability, and views of samples."""

from __future__ import annotations

import torch

from fewstep.core.registry import Raw
from fewstep.data.base import DATASETS, Dataset, Pictures
from fewstep.data.codec import codec_problem
from fewstep.data.images.base import ImageDataset
from fewstep.runs.models import build_component
from fewstep.runtime.streams import SampleStreams


def _check_labels(dataset: Dataset) -> None:
    labels = dataset.labels
    assert (labels is not None) == dataset.labelled, "`labelled` must say whether there are labels"
    if labels is not None:
        assert labels.dtype == torch.long, "labels must be a LongTensor"
        assert labels.shape == (len(dataset),), "one label for each sample"
        assert int(labels.min()) >= 0, "negative label"


def _check_augmentation(dataset: Dataset) -> None:
    tokens = dataset.train[:8].long()
    changed, again = (dataset.augment(tokens, SampleStreams(0, range(len(tokens)))) for _ in range(2))
    assert torch.equal(changed, again), "augmentation must draw from its `generator` argument only"
    assert changed.shape == tokens.shape, f"augmentation makes {tuple(changed.shape)} of {tuple(tokens.shape)}"
    assert changed.dtype == torch.long, "augmented tokens must be a LongTensor"
    assert int(changed.min()) >= 0, "augmentation makes a negative token"
    assert int(changed.max()) < dataset.spec.vocab_size, "augmentation makes a token beyond the vocabulary"
    assert dataset.augments or torch.equal(changed, tokens), "`augments` must say whether samples are changed"


def check_dataset(config: Raw) -> None:
    """Assert that a dataset keeps the contract of `Dataset`.

    Raises:
        AssertionError: a check fails; the message names it.
    """
    dataset = build_component(DATASETS, config)
    spec, train = dataset.spec, dataset.train[:]
    assert train.dtype in (torch.long, torch.uint8), "training tokens must be whole numbers of 64 bits, or bytes"
    assert train.shape == (len(dataset), spec.length), (
        f"train is {tuple(train.shape)}, the spec says length {spec.length}"
    )
    assert len(dataset) > 0, "no training samples"
    assert int(train.min()) >= 0, "negative token"
    assert int(train.max()) < spec.vocab_size, f"token {int(train.max())} in a vocabulary of {spec.vocab_size}"
    assert build_component(DATASETS, config).fingerprint == dataset.fingerprint, (
        "the same config must give the same data"
    )
    _check_labels(dataset)
    _check_augmentation(dataset)

    samples = train[:3].long()
    texts = dataset.to_text(samples)
    assert len(texts) == 3, "to_text must return one text for each sample"
    assert all(isinstance(text, str) and text for text in texts), "to_text must return text"
    symbols = dataset.symbols()
    assert len(symbols) == spec.vocab_size, "symbols must name each token of the vocabulary"
    assert all(isinstance(symbol, str) for symbol in symbols), "symbols are text"
    for name, view in dataset.views().items():
        content = view.draw(samples) if isinstance(view, Pictures) else view.write(samples)
        assert len(content) == 3, f"view '{name}' must show each sample"
    assert isinstance(dataset, ImageDataset) == (dataset.kind == "image"), "image data derive from ImageDataset"
    if isinstance(dataset, ImageDataset):
        images = dataset.to_images(samples)
        assert spec.grid is not None
        height, width, channels = spec.grid
        assert height * width * channels == spec.length, "the grid must hold exactly the tokens of a sample"
        sides = images.shape[2] // height, images.shape[3] // width
        assert images.shape == (3, images.shape[1], height * sides[0], width * sides[1]), (
            f"images are {tuple(images.shape)}, and tokens must stand for whole numbers of pixels"
        )
        originals = dataset.originals(slice(3))
        assert originals.shape == images.shape, "images before and after they were tokens must have one size"
        assert float(images.min()) >= 0, "pixels lie in [0, 1]"
        assert float(images.max()) <= 1, "pixels lie in [0, 1]"
    problem = codec_problem(dataset)
    assert problem is None, problem
