"""FID against a second computation, and what is told where a package or the weights are missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fid_network import SmallNetwork, use_small_network
from local_data import write_pictures
from torch import Tensor

from fewstep.bench.running.plan import make_plan
from fewstep.bench.suites.loading import load_suite
from fewstep.core.errors import RecipeError, UserError
from fewstep.data.base import Dataset
from fewstep.data.images.digits import Digits
from fewstep.data.images.image_folder import ImageFolder
from fewstep.data.synthetic.markov import Markov
from fewstep.metrics.base import METRICS, ToScore
from fewstep.metrics.images import fid

DIGITS = Digits(Digits.Config())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_network(monkeypatch)


def value(samples: Tensor, dataset: Dataset = DIGITS, **settings: object) -> float:
    metric = METRICS.build({"type": "fid", **settings}, dataset=dataset)
    metric.update(samples)
    return metric.compute()["fid"]


def noised(share: float) -> Tensor:
    """Digits of which a share of the pixels is drawn anew."""
    generator = torch.Generator().manual_seed(0)
    tokens = DIGITS.train.clone()
    where = torch.rand(tokens.shape, generator=generator) < share
    return torch.where(where, torch.randint(16, tokens.shape, generator=generator), tokens)


def plain_fid(tokens: Tensor) -> float:
    """The definition in numpy and scipy, with a square root of the product of covariances as a matrix."""
    linalg = pytest.importorskip("scipy.linalg", reason="scipy is not installed")
    sides = []
    for rows in (tokens, DIGITS.train):
        grey = np.rint(rows.numpy().reshape(-1, 1, 8, 8) * 255.0 / 15).astype(np.uint8)
        features = SmallNetwork()(torch.from_numpy(np.repeat(grey, 3, 1))).numpy().astype(np.float64)
        sides.append((features.mean(0), np.cov(features, rowvar=False)))
    (m, a), (n, b) = sides
    return float(((m - n) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.trace(linalg.sqrtm(a @ b)).real)


def test_it_is_what_the_definition_says(small: None) -> None:
    samples = noised(0.3)[:500]
    assert value(samples) == pytest.approx(plain_fid(samples), rel=1e-4)


def test_the_training_images_score_zero_and_noise_scores_more(small: None) -> None:
    found = [value(noised(share)) for share in (0, 0.1, 0.3, 1.0)]
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert 1e-5 < found[1] < found[2] < found[3]


def test_the_size_of_batches_does_not_matter(small: None) -> None:
    samples = noised(0.3)[:300]
    assert value(samples, batch_size=7) == pytest.approx(value(samples, batch_size=300), rel=1e-4)


def test_training_images_are_seen_once_a_process(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    first = value(noised(0.3))
    monkeypatch.setattr(fid, "inception", None)  # is not asked again
    assert value(DIGITS.train) == pytest.approx(0, abs=1e-6), "nothing is left of the samples before"
    assert value(noised(0.3)) == pytest.approx(first, rel=1e-6)


def test_one_image_has_no_covariance(small: None) -> None:
    with pytest.raises(UserError, match="fid: one image has no covariance; draw at least two"):
        value(DIGITS.train[:1])


def test_pictures_are_bytes_in_three_channels(tmp_path: Path) -> None:
    """Grey levels are spread over all bytes and repeated; colours are as they were in the files."""
    tokens = DIGITS.train[:5]
    parts = list(fid.pictures(DIGITS, tokens, 2))
    assert [len(part) for part in parts] == [2, 2, 1]
    grey = torch.cat(parts)
    assert (grey.dtype, grey.shape) == (torch.uint8, (5, 3, 8, 8))
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert torch.equal(grey[:, 1].flatten(1).long(), (tokens * 255 / 15).round().long())
    assert int(grey.max()) == 255
    colour = ImageFolder(ImageFolder.Config(path=str(write_pictures(tmp_path)), size=8, held_out=0))
    (images,) = fid.pictures(colour, colour.train[:], 100)
    assert {tuple(image[:, 0, 0].tolist()) for image in images} == {
        (20 * number, 30 * index, 200) for number in range(2) for index in range(4)
    }


class RecordedDistance:
    """The place of torchmetrics' distance: it records the images of each side."""

    device = "cpu"

    def __init__(self) -> None:
        self.sides: dict[bool, list[Tensor]] = {True: [], False: []}

    def update(self, images: Tensor, real: bool) -> None:
        self.sides[real].append(images)

    def reset(self) -> None:
        self.sides[False].clear()

    def compute(self) -> float:
        return 0.0


class CoarseDigits(Digits):
    """Digits whose tokens lose detail, as those of an image tokenizer do."""

    def to_images(self, samples: Tensor) -> Tensor:
        return super().to_images(samples).round()

    def originals(self, rows: slice | Tensor, *, held_out: bool = False) -> Tensor:
        return super().to_images(self.train[rows])


def test_samples_are_compared_with_images_before_tokenization(monkeypatch: pytest.MonkeyPatch) -> None:
    distance = RecordedDistance()
    monkeypatch.setattr(fid, "inception", lambda weights: distance)
    monkeypatch.setattr(fid, "_missing", lambda: None)
    fid._with_training_images.cache_clear()
    dataset = CoarseDigits(Digits.Config())
    value(dataset.train[:3], dataset)
    fid._with_training_images.cache_clear()
    real, samples = (torch.cat(distance.sides[side])[:, 0] for side in (True, False))
    exact = (dataset.train * 255 / 15).round().byte().view(-1, 8, 8)
    assert torch.equal(real, exact), "training images before they became tokens"
    assert set(samples.unique().tolist()) == {0, 255}, "samples are what tokens are decoded to"


def test_it_needs_images() -> None:
    assert fid.Fid.Config().refuses(ToScore(Markov)) == "it needs images"
    assert fid.Fid.Config().refuses(ToScore(Digits)) is None


SUITE = """\
name: s
title: S
seeds: [0]
samples: 8
metrics: [fid]
headline: fid
cases: [{name: teacher, recipe: digits-teacher, steps: [2]}]
"""


def test_a_missing_extra_is_named_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    advice = r"it needs torchmetrics and torch-fidelity \(.*torch_fidelity.*\): pip install 'fewstep\[fid\]'$"
    with pytest.raises(UserError, match=f"^fid: {advice}"):
        METRICS.build("fid", dataset=DIGITS)
    with pytest.raises(UserError, match=f"^fid: {advice}"):
        fid.inception(None)
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE)
    with pytest.raises(RecipeError, match=rf"suite.yaml:5: metrics\[0\]: metric 'fid' is not available here: {advice}"):
        make_plan(load_suite(str(suite)), tmp_path)


def test_weights_that_are_not_there_are_told_at_once(small: None) -> None:
    with pytest.raises(UserError, match=r"^fid: weights: there is no file 'nowhere.pth'; leave `weights` out"):
        METRICS.build({"type": "fid", "weights": "nowhere.pth"}, dataset=DIGITS)


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody listens at port 9; nothing is left behind that a second try would take for the weights."""
    origin = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="pip install 'fewstep[fid]'")
    monkeypatch.setattr(origin, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights-6726825d.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    message = (
        r"^fid: Inception's weights cannot be downloaded \(.*refused.*\); without a network get "
        r"http://127.0.0.1:9/weights-6726825d.pth elsewhere and name the file with `weights: FILE`$"
    )
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            fid.inception(None)


def test_a_file_that_holds_no_weights(tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity", reason="pip install 'fewstep[fid]'")
    text, code, other = tmp_path / "text.pth", tmp_path / "code.pth", tmp_path / "other.pth"
    text.write_text("no weights")
    torch.save({"run": Path}, code)
    torch.save({"a": torch.zeros(3)}, other)
    for file in (text, code):
        with pytest.raises(UserError, match=rf"^fid: weights: '{file}' holds no weights of a network \("):
            fid.inception(str(file))
    with pytest.raises(UserError, match=rf"^fid: weights: '{other}' does not fit torch-fidelity's Inception \("):
        fid.inception(str(other))


@pytest.mark.slow
def test_weights_from_a_file_are_read_by_inception(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With random weights in the file: the features are those of torch-fidelity's own network, resizing included."""
    pytest.importorskip("torchmetrics", reason="pip install 'fewstep[fid]'")
    origin = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="pip install 'fewstep[fid]'")
    file = tmp_path / "weights.pth"
    fields = {"name": "inception-v3-compat", "features_list": ["2048"]}
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(origin, "load_state_dict_from_url", lambda url, progress: {})
        patch.setattr(origin.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        theirs = origin.FeatureExtractorInceptionV3(**fields)
    torch.save(theirs.state_dict(), file)
    distance = fid.inception(str(file))
    assert "is not torch-fidelity's file of weights" in capsys.readouterr().err
    (images,) = fid.pictures(DIGITS, DIGITS.train[:4], 4)
    with torch.no_grad():
        found = distance.inception(images.to(distance.device)).cpu()
        assert torch.allclose(found, theirs(images)[0], rtol=1e-3, atol=1e-5)
    assert found.shape == (4, 2048)
    assert float(found.std()) > 0
    for real in (True, False):
        distance.update(images.to(distance.device), real=real)
    assert float(distance.compute()) == pytest.approx(0, abs=1e-3), "fewer images than features do no harm"
