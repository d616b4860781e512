"""Gradient Moment against enumeration, its error bars on fresh data, its sums merged, and its layers."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from test_reference_metrics import V, model
from torch import Generator, Tensor
from torch import distributed as dist

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.evaluation.score import score
from fewstep.likelihood.autoregressive import token_nll
from fewstep.likelihood.references import DenoiserReference
from fewstep.metrics.base import METRICS
from fewstep.metrics.text.gradient_moment import GradientMoment, batch_gradient, gradient_moments, layer_scales
from fewstep.metrics.text.moments import GradientMoments

L = 4


def reference() -> DenoiserReference:
    return DenoiserReference(model(length=L).double(), "this")


def rows(count: int, seed: int) -> Tensor:
    return torch.randint(V, (count, L), generator=Generator().manual_seed(seed))


def test_the_mean_over_all_pairs_is_the_squared_norm() -> None:
    """Four possible samples and four possible data: all 256 outcomes of two pairs, each as likely as the others."""
    judge, ours, theirs = reference(), rows(4, 1), rows(4, 2)
    gradients = [[batch_gradient(judge, row[None]) for row in side] for side in (ours, theirs)]
    values = []
    for a, b, c, d in itertools.product(range(4), repeat=4):
        moments = GradientMoments()
        moments.add(gradients[0][a], gradients[1][b])
        moments.add(gradients[0][c], gradients[1][d])
        values.append(moments.values())
    found = torch.tensor(values, dtype=torch.float64).mean(0)

    weights = list(judge.network.requires_grad_(True).parameters())
    means = []
    for side in (ours, theirs):
        grads = torch.autograd.grad(
            -token_nll(judge.network, side).mean(), weights, allow_unused=True, materialize_grads=True
        )
        means.append(torch.cat([grad.flatten() for grad in grads]))
    exact = [float(vector.square().sum()) for vector in (means[0] - means[1], *means)]
    assert min(exact) > 0.1
    for value, truth in zip(found.tolist(), exact, strict=True):
        assert value == pytest.approx(truth, rel=1e-6)


def test_batches_are_read_in_parts_of_any_size() -> None:
    judge, samples = reference(), rows(10, 3)
    whole, parts = (batch_gradient(judge, samples, batch_size=size) for size in (10, 3))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
    assert not any(weight.requires_grad and weight.grad is not None for weight in judge.network.parameters())


def pairs(count: int = 9) -> list[tuple[Tensor, Tensor]]:
    return [(rows(5, 10 + i), rows(5, 100 + i)) for i in range(count)]


def summary(moments: GradientMoments) -> list[float]:
    return [*moments.values(), moments.standard_error()]


def test_merged_sums_are_those_of_all_pairs() -> None:
    whole = gradient_moments(reference(), pairs())
    first, rest = gradient_moments(reference(), pairs()[:4]), gradient_moments(reference(), pairs()[4:])
    first.merge(rest)
    first.merge(GradientMoments())
    assert summary(first) == pytest.approx(summary(whole), rel=1e-9)
    empty = GradientMoments()
    empty.merge(whole)
    assert summary(empty) == pytest.approx(summary(whole), rel=1e-9)


def _process(rank: int, world: int, meeting: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    torch.save(torch.tensor(summary(gradient_moments(reference(), pairs()))), f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_share_the_pairs(tmp_path: Path) -> None:
    """Nine pairs, two processes: both end with the values that one process finds."""
    mp.spawn(_process, args=(2, str(tmp_path / "meeting"), str(tmp_path)), nprocs=2)
    alone = summary(gradient_moments(reference(), pairs()))
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True).tolist() == pytest.approx(alone, rel=1e-5)


def test_layers_are_counted_in_units_of_their_own_variance() -> None:
    names = ["blocks.0.a", "blocks.0.b", "head.weight", "unused.weight"]
    gradients = [[torch.tensor([x]), torch.tensor([0.0]), torch.tensor([3 * x]), torch.zeros(1)] for x in (1.0, -1.0)]
    scales = layer_scales(names, gradients, samples=10)
    # Variance of a batch of 5 is 2, so that of a sample 10; nine times that for the head.
    assert scales == pytest.approx([10**-0.5, 10**-0.5, 90**-0.5, 0.0])


def test_preconditioned_gradients_do_not_depend_on_the_scale_of_a_layer() -> None:
    """Weights that are stored a tenth as large have gradients ten times as large, and count as before."""
    judge = reference()
    names = [name for name, _ in judge.network.named_parameters()]
    gradients = [batch_gradient(judge, rows(5, seed)) for seed in range(4)]
    factors = [10.0 if "blocks.0" in name else 1.0 for name in names]
    assert {1.0, 10.0} == set(factors)
    larger = [[part * factor for part, factor in zip(g, factors, strict=True)] for g in gradients]
    for before, after in zip(layer_scales(names, gradients, 20), layer_scales(names, larger, 20), strict=True):
        assert after == pytest.approx(before) or after == pytest.approx(before / 10)
    values = []
    for found in (gradients, larger):
        moments, scales = GradientMoments(), layer_scales(names, found, 20)
        scaled = [[part * scale for part, scale in zip(g, scales, strict=True)] for g in found]
        for ours, theirs in zip(scaled[:2], scaled[2:], strict=True):
            moments.add(ours, theirs)
        values.append(moments.values())
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_the_metric_takes_preconditioning(small: Markov) -> None:
    """Random tokens are far off in units of a layer's own variance, and a real sample's value is near zero."""
    found = {}
    for name, samples in (("data", small.draw(400, Generator().manual_seed(1))), ("noise", rows(400, 7))):
        config = {"type": "gradient_moment", "reference": "x", "batches": 20, "precondition": "layers"}
        metric = METRICS.build(config, dataset=small, reference=model(length=L))
        metric.update(samples)
        found[name] = metric.compute()
    assert abs(found["data"]["gradient_moment"]) < 4 * found["data"]["gradient_moment_stderr"]
    assert found["noise"]["gradient_moment"] > 3 * found["noise"]["gradient_moment_stderr"]


@pytest.fixture(scope="module")
def small() -> Markov:
    return Markov(Markov.Config(vocab_size=V, length=L, successors=2, smoothing=0.1, size=512))


@pytest.mark.parametrize("repeats", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_error_bars_hold_for_samples_of_the_data(repeats: int, small: Markov) -> None:
    """Fresh samples and fresh data each time: the truth, zero, lies within two standard errors as often as it should.

    Bounds that 100 repeats leave by chance less than once in a thousand times; 10 repeats only show gross mistakes.
    """
    judge = DenoiserReference(model(length=L), "this")
    generator, scores = Generator().manual_seed(11), []
    for _ in range(repeats):
        drawn = small.draw(2 * 20 * 10, generator).view(20, 2, 10, L)
        moments = gradient_moments(judge, drawn)
        scores.append(moments.values()[0] / moments.standard_error())
    covered = sum(abs(score) < 1.96 for score in scores) / repeats
    assert (0.88 if repeats == 100 else 0.6) <= covered <= 1.0
    assert abs(sum(scores) / repeats) < 3.3 * 1.2 / repeats**0.5, "centred on zero"


def test_samples_of_the_reference_are_warned_of(
    small: Markov, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    same, other = model(length=L), model(length=L, width=8)
    monkeypatch.setattr(GradientMoment, "open_model", lambda *_, **__: _Opened(model(length=L), small))
    wanted = [{"type": "gradient_moment", "reference": "runs/ar", "batches": 4}]
    score(small.train[:40], small, wanted, drawn_from=other)
    score(small.train[:40], small, wanted)
    assert not capsys.readouterr().err
    score(small.train[:40], small, wanted, drawn_from=same)
    assert "warning: gradient_moment: the samples are those of its reference 'runs/ar'" in capsys.readouterr().err


class _Opened:
    def __init__(self, network: NetworkDenoiser, dataset: Markov) -> None:
        self.network, self.dataset = network, dataset
