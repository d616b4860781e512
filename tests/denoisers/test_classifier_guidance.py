"""Classifier-based guidance against Bayes' rule on a joint law of tokens and labels that can be enumerated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from enumerable_denoisers import JointOracle
from torch import Generator, Tensor

import fewstep.denoisers.classifier_guidance as module
import fewstep.predictions.base as prediction_module
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.classifier import NoisedClassifier
from fewstep.denoisers.classifier_guidance import (
    ClassifierGuidedDenoiser,
    ClassifierGuidedPrediction,
    exact_ratios,
    first_order_ratios,
)
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES
from fewstep.samplers.base import SAMPLERS, Samples
from fewstep.testing.statistics import SIGMAS, assert_same_distribution, chi_square_sigmas

V, L, CLASSES = 2, 3, 2
MASKED = PROCESSES.build("masked", vocab_size=V)
JOINT = torch.rand(CLASSES, V**L, generator=Generator().manual_seed(0), dtype=torch.float64) ** 3
JOINT /= JOINT.sum()


class Plain(JointOracle):
    """E[x | z_t], whatever the class."""

    def __init__(self) -> None:
        super().__init__(MASKED, L, JOINT.sum(0))

    def predict(
        self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Generator | None
    ) -> Prediction:
        assert cond.labels is None
        return super().predict(x_t, t, s, cond, generator)


class Bayes(NoisedClassifier):
    """p(y | z_t), exactly."""

    def log_probs(self, x_t: Tensor, t: Tensor) -> Tensor:
        weight = Plain().agreeing(x_t).double() @ JOINT.T
        return (weight / weight.sum(1, keepdim=True)).log()


class Linear(NoisedClassifier):
    """Scores that are linear in one-hot tokens, of which the first order is all there is."""

    def __init__(self, normalised: bool = False) -> None:
        self.normalised = normalised
        self.scores = torch.randn(L, V + 1, CLASSES, generator=Generator().manual_seed(1))

    def log_probs(self, x_t: Tensor, t: Tensor) -> Tensor:
        rows = x_t if x_t.is_floating_point() else torch.nn.functional.one_hot(x_t, V + 1).float()
        scores = torch.einsum("bls,lsc->bc", rows, self.scores)
        return scores.log_softmax(-1) if self.normalised else scores


def draw(model: Denoiser, labels: Tensor | None, sampler: Any = "ancestral", steps: int = 128) -> Samples:
    count = 6000 if labels is None else len(labels)
    built, rng = SAMPLERS.build(sampler), Generator().manual_seed(2)
    return built.sample(model, count, steps=steps, generator=rng, cond=Condition(labels))


def counts(x: Tensor) -> Tensor:
    return torch.bincount((x * V ** torch.arange(L - 1, -1, -1)).sum(1), minlength=V**L)


@pytest.mark.parametrize(
    "sampler", ["ancestral", "cached_ancestral", "first_hitting", {"type": "confidence", "order": "random"}], ids=str
)
def test_the_true_classifier_turns_the_law_into_the_conditional_one(sampler: Any) -> None:
    model = ClassifierGuidedDenoiser(Plain(), Bayes(), weight=1.0, approximate=False)
    labels = torch.arange(12_000) % CLASSES
    out = draw(model, labels, sampler)
    for label in range(CLASSES):
        law = JOINT[label] / JOINT[label].sum()
        assert_same_distribution(counts(out.x[labels == label]), law, f"class {label}")
        assert chi_square_sigmas(counts(out.x[labels == label]), JOINT.sum(0)) > 2 * SIGMAS
    assert out.nfe <= 128


def test_weight_zero_and_no_class_are_plain_sampling() -> None:
    labels = torch.zeros(200, dtype=torch.long)
    plain = draw_same(Plain(), None)
    zero = ClassifierGuidedDenoiser(Plain(), Bayes(), weight=0.0)
    two = ClassifierGuidedDenoiser(Plain(), Bayes(), weight=2.0, approximate=False)
    assert torch.equal(draw_same(zero, labels), plain)
    assert torch.equal(draw_same(two, labels - 1), plain)
    assert not torch.equal(draw_same(two, labels), plain)


def draw_same(model: Denoiser, labels: Tensor | None) -> Tensor:
    rng = Generator().manual_seed(2)
    return SAMPLERS.build("ancestral").sample(model, 200, steps=5, generator=rng, cond=Condition(labels)).x


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_rows_by_hand(weight: float) -> None:
    model = ClassifierGuidedDenoiser(Plain(), Bayes(), weight=weight, approximate=False)
    z, t = torch.tensor([[V, 1, V], [0, V, 0]]), torch.ones(2)
    found = model(z, t, cond=Condition(torch.tensor([1, 0])))
    base = Plain()(z, t)
    for row, place, label in ((0, 0, 1), (0, 2, 1), (1, 1, 0)):
        products = []
        for v in range(V):
            candidate = z[row].clone()
            candidate[place] = v
            chance = Bayes().log_probs(candidate[None], t[:1])[0, label].exp()
            products.append(base.dense_probs()[row, place, v] * chance**weight)
        expected = torch.stack(products) / sum(products)
        torch.testing.assert_close(found.dense_probs()[row, place], expected)
    assert found.dense_probs()[0, 1].tolist() == [0, 1]  # known tokens stay


def test_ratios_are_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    z, t, labels = torch.full((5, L), V), torch.ones(5), torch.arange(5) % CLASSES
    tokens = torch.tensor([0, 4, 7, 14])
    whole = exact_ratios(Bayes(), z, t, labels, tokens, V)
    model = ClassifierGuidedDenoiser(Plain(), Bayes(), weight=2.0, approximate=False)
    rows = model(z, t, cond=Condition(labels)).log_probs()
    monkeypatch.setattr(module, "CANDIDATES", 3)
    monkeypatch.setattr(prediction_module, "CHUNK_ELEMENTS", 2 * V)
    torch.testing.assert_close(exact_ratios(Bayes(), z, t, labels, tokens, V), whole)
    prediction = model(z, t, cond=Condition(labels))
    (found,) = prediction.scan(lambda log_p: (log_p,), prediction.where)
    torch.testing.assert_close(found, rows)
    assert exact_ratios(Bayes(), z, t, labels, tokens[:0], V).shape == (0, V)


def test_to_first_order_linear_scores_are_exact() -> None:
    z = torch.tensor([[V, 1, V], [0, V, V]])
    t, labels = torch.ones(2), torch.tensor([1, 0])
    dense = first_order_ratios(Linear(), z, t, labels, V + 1)
    tokens = torch.arange(2 * L)
    exact = exact_ratios(Linear(), z, t, labels, tokens, V)
    torch.testing.assert_close(dense[..., :V].flatten(0, 1), exact)
    assert not dense.requires_grad
    assert (dense.gather(2, z[..., None]) == 0).all()  # a token set to what it is changes nothing
    near = first_order_ratios(Linear(normalised=True), z, t, labels, V + 1)[..., :V].flatten(0, 1)
    assert not torch.allclose(near, exact_ratios(Linear(normalised=True), z, t, labels, tokens, V))


def test_samplers_take_gradients_within_their_walk() -> None:
    """Samplers compute without gradients; the first order needs one all the same."""
    labels = torch.arange(4000) % CLASSES
    model = ClassifierGuidedDenoiser(Plain(), Linear(normalised=True), weight=4.0)
    x = draw(model, labels, steps=3).x
    score = Linear(normalised=True).log_probs(x, torch.zeros(len(x))).gather(1, labels[:, None]).mean()
    plain = draw(Plain(), None, steps=3).x[: len(labels)]
    before = Linear(normalised=True).log_probs(plain, torch.zeros(len(plain))).gather(1, labels[:, None]).mean()
    assert score > before + 0.1


def test_shaping_comes_after_guidance() -> None:
    model = ClassifierGuidedDenoiser(Plain(), Bayes(), weight=2.0, approximate=False)
    found = model(torch.full((1, L), V), torch.ones(1), cond=Condition(torch.tensor([1])))
    assert isinstance(found, ClassifierGuidedPrediction)
    sharp = found.shaped(lambda log_p: (2 * log_p).log_softmax(-1))
    torch.testing.assert_close(sharp.log_probs(), (2 * found.log_probs()).log_softmax(-1))


def test_what_cannot_be_guided() -> None:
    uniform = Plain()
    uniform.process = PROCESSES.build("uniform", vocab_size=V)
    with pytest.raises(ValueError, match="a process with masks"):
        ClassifierGuidedDenoiser(uniform, Bayes(), weight=1.0)
    with pytest.raises(ValueError, match=r"call it with cond\.labels"):
        ClassifierGuidedDenoiser(Plain(), Bayes(), weight=1.0)(torch.full((1, L), V), torch.ones(1))
