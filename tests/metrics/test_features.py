"""Features of images without classes: a classifier that tells turned images apart."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from fewstep import DATASETS, METRICS
from fewstep.metrics.images.features import classifier_for


def arrows(folder: Path) -> Path:
    """Pictures of one class whose bright half is on top."""
    folder.mkdir()
    for number in range(96):
        picture = Image.new("L", (8, 8), number)
        picture.paste(255 - number % 16, (0, 0, 8, 4))
        picture.save(folder / f"{number}.png")
    return folder


def test_images_of_one_class_are_told_apart_by_quarter_turns(tmp_path: Path) -> None:
    path = str(arrows(tmp_path / "one"))
    data = DATASETS.build({"type": "image_folder", "path": path, "size": 8, "levels": 16, "colour": "grey"})
    assert data.labels is not None
    assert int(data.labels.max()) == 0
    images = data.to_images(data.train[:40].long())  # type: ignore[attr-defined]
    classifier = classifier_for(data)
    for turns in range(4):
        assert (classifier.classify(images.rot90(turns, (2, 3))) == turns).float().mean() > 0.9
    distances = []
    for rows in (images, images.rot90(1, (2, 3))):
        metric = METRICS.build("feature_frechet", dataset=data)
        metric.update((rows * 15).round().long().flatten(1))
        distances.append(metric.compute()["feature_frechet"])
    assert distances[0] < 0.1 * distances[1]
    assert torch.isfinite(torch.tensor(distances)).all()
