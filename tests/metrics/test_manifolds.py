"""Precision, recall, density and coverage of points whose manifolds can be seen by eye."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.data.images.digits import Digits
from fewstep.metrics.base import METRICS
from fewstep.metrics.images.manifolds import coverage, density, precision, radii


def line(*places: float) -> Tensor:
    return torch.tensor(places)[:, None]


REAL = line(0, 1, 3, 7)


def test_radii_reach_to_the_kth_neighbour() -> None:
    assert radii(REAL, 1).tolist() == [1, 1, 2, 4]
    assert radii(REAL, 2).tolist() == [3, 2, 3, 6]
    with pytest.raises(ValueError, match="4 points have no 4-th nearest neighbour"):
        radii(REAL, 4)


def test_values_by_hand() -> None:
    """With k = 1 the real balls are [-1, 1], [0, 2], [1, 5] and [3, 11].

    Of the samples 0.5, 4, 20 and 21 two are in balls, each of them in two, and all four balls hold one. The samples'
    own balls are [-3, 4], [0.5, 7.5], [19, 21] and [20, 22], so all real points lie in one.
    """
    samples = line(0.5, 4, 20, 21)
    assert precision(samples, REAL, 1) == 2 / 4
    assert density(samples, REAL, 1) == pytest.approx(4 / 4)
    assert coverage(samples, REAL, 1) == 1
    assert precision(REAL, samples, 1) == 1


def test_a_collapse_keeps_precision_and_loses_the_rest() -> None:
    samples = line(0.5, 0.5, 0.5, 0.5)
    assert precision(samples, REAL, 1) == 1
    assert precision(REAL, samples, 1) == 0
    assert coverage(samples, REAL, 1) == 2 / 4
    assert density(samples, REAL, 1) == 2


def test_an_outlier_raises_recall_and_not_coverage() -> None:
    """One sample far off has a ball over all real points (Naeem et al. 2020, figure 3)."""
    samples = line(-50, 50)
    assert precision(REAL, samples, 1) == 1
    assert precision(samples, REAL, 1) == 0
    assert coverage(samples, REAL, 1) == 0


def test_density_of_a_set_in_itself_is_one_plus_its_own_ball() -> None:
    """Each point is in its own ball, and in those of k others on average; ties aside."""
    points = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    assert density(points, points, 5) == pytest.approx(6 / 5)
    assert coverage(points, points, 5) == 1


@pytest.mark.parametrize("k", [1, 3, 5])
def test_values_are_those_of_prdc(k: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The package of Naeem et al.; samples that overlap with the data in part, and are fewer."""
    prdc = pytest.importorskip("prdc", reason="prdc comes with the extra `test`")
    generator = torch.Generator().manual_seed(k)
    real = torch.randn(300, 4, generator=generator, dtype=torch.float64)
    samples = 0.7 * torch.randn(200, 4, generator=generator, dtype=torch.float64) + 0.8
    theirs = prdc.compute_prdc(real_features=real.numpy(), fake_features=samples.numpy(), nearest_k=k)
    ours = {
        "precision": precision(samples, real, k),
        "recall": precision(real, samples, k),
        "density": density(samples, real, k),
        "coverage": coverage(samples, real, k),
    }
    assert ours == pytest.approx(theirs, rel=1e-12)
    assert all(0.05 < value < 0.99 for name, value in ours.items() if name != "density"), "no value is trivial"
    capsys.readouterr()  # it prints the sizes


def test_metrics_of_digits() -> None:
    """Training samples score high; one digit over and over is precise and covers nothing; noise is neither."""
    digits = Digits()
    noise = torch.randint(16, (200, 64), generator=torch.Generator().manual_seed(0))
    found = {}
    for name, samples in (("data", digits.train[:200]), ("one", digits.train[:1].expand(200, 64)), ("noise", noise)):
        found[name] = {}
        for metric_name in ("precision_recall", "density_coverage"):
            metric = METRICS.build(metric_name, dataset=digits)
            metric.update(samples)
            found[name].update(metric.compute())
    assert found["data"]["precision"] > 0.8
    assert found["data"]["recall"] > 0.6
    assert found["data"]["coverage"] > 0.8
    assert found["one"]["recall"] < 0.05 > found["one"]["coverage"]
    assert found["noise"]["precision"] < 0.2 > found["noise"]["coverage"]


def test_too_few_samples() -> None:
    metric = METRICS.build("precision_recall", dataset=Digits())
    metric.update(Digits().train[:3])
    with pytest.raises(
        UserError, match=r"3 samples and 3 real ones are too few for neighbours up to number 3; draw more"
    ):
        metric.compute()
