"""A network with a noise input is a mixture: it is averaged over latents where its mean counts, or refused."""

from __future__ import annotations

import pytest
import torch
from enumerable_denoisers import V
from short_runs import Train
from torch import Generator, Tensor

from fewstep.core.errors import UserError
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.latents import LatentAverage
from fewstep.likelihood.autoregressive import check_autoregressive
from fewstep.objectives.base import OBJECTIVES
from fewstep.predictions.base import Prediction, rowwise
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.predictions.shaping import temperature
from fewstep.processes.base import PROCESSES
from fewstep.recipe import load_recipe
from fewstep.runtime.streams import Randomness, SampleStreams, uniform
from fewstep.training.assemble import assemble

COMPONENTS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], dtype=torch.float64)


class Coin(Denoiser):
    """The same of two rows at all tokens of a sample, by a fair coin."""

    device = torch.device("cpu")  # type: ignore[assignment]
    has_latent = True  # type: ignore[assignment]

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        coin = (uniform((len(x_t),), generator, device="cpu") < 0.5).long()
        table = COMPONENTS[coin].log()[:, None].expand(*x_t.shape, V)
        return TablePrediction(table, x_t, self.process.to_predict(x_t))


def coin(length: int = 2) -> Coin:
    return Coin(PROCESSES.build("masked", vocab_size=V), length)


def test_the_average_is_the_mixture_and_no_component() -> None:
    """10,000 latents: the mean is known within .003."""
    states = torch.tensor([[V, 0], [V, V]])
    average = LatentAverage(coin(), 10_000)
    assert not average.has_latent
    prediction = average(states, torch.ones(2), generator=Generator().manual_seed(0))
    assert torch.equal(prediction.where, states == V)
    rows = prediction.log_probs().exp()
    torch.testing.assert_close(rows, torch.tensor([[0.4, 0.2, 0.4]]).double().expand(3, V), atol=0.015, rtol=0)
    torch.testing.assert_close(rows.sum(1), torch.ones(3, dtype=torch.float64))
    assert torch.equal(prediction.dense_probs()[0, 1], torch.tensor([1.0, 0, 0], dtype=torch.float64))
    sharp = prediction.shaped(temperature(0.5)).log_probs().exp()
    torch.testing.assert_close(sharp, rows.square() / rows.square().sum(1, keepdim=True))


def test_rows_of_an_average_are_those_of_its_components_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    states = torch.full((5, 3), V)
    average = LatentAverage(coin(3), 4)
    whole = average(states, torch.ones(5), generator=Generator().manual_seed(1))
    values = rowwise(lambda p: p[:, 0], [whole], where=whole.where)
    torch.testing.assert_close(values[whole.where], whole.log_probs()[:, 0])
    monkeypatch.setattr("fewstep.predictions.base.CHUNK_ELEMENTS", 5 * V)
    assert whole.chunk_rows() == 1
    torch.testing.assert_close(rowwise(lambda p: p[:, 0], [whole], where=whole.where), values)


def test_each_sample_has_latents_of_its_own_stream() -> None:
    average, states = LatentAverage(coin(), 3), torch.full((4, 2), V)
    whole = average(states, torch.ones(4), generator=SampleStreams(0, range(4))).dense_probs()
    part = average(states[:1], torch.ones(1), generator=SampleStreams(0, range(2, 3))).dense_probs()
    torch.testing.assert_close(part[0], whole[2])


def test_a_mixture_is_no_autoregressive_reference() -> None:
    denoiser = Coin(PROCESSES.build("masked", vocab_size=V), 2, block_size=1)
    with pytest.raises(UserError, match="has a noise input"):
        check_autoregressive(denoiser, "the reference")


SHORT = ("train.steps=2", "train.batch_size=8", "train.log_every=1", "data.size=64", "backbone.width=32")


def test_teachers_with_a_noise_input_are_averaged_drawn_from_or_refused(train: Train) -> None:
    first = train("markov-teacher", "first", *SHORT)
    mixture = train("markov-dmmd", "mixture", *SHORT, teacher=first)
    recipes = {
        "markov-dmmd": LatentAverage,
        "markov-di4c": None,
        "markov-sdtt": UserError,
        "markov-consistency": UserError,
        "markov-dmmd-instant": UserError,
    }
    for name, outcome in recipes.items():
        loaded = load_recipe(name, [*SHORT, "teacher.latents=5"], teacher=str(mixture.path))
        if outcome is UserError:
            with pytest.raises(UserError, match="has a noise input, so one prediction of it is a random component"):
                assemble(loaded.recipe)
            continue
        teacher = assemble(loaded.recipe).roles["teacher"]
        assert isinstance(teacher, Denoiser)
        assert isinstance(teacher, LatentAverage) == (outcome is LatentAverage)
        if isinstance(teacher, LatentAverage):
            assert teacher.latents == 5
        else:
            assert teacher.has_latent
    train("markov-dmmd", "second", *SHORT, teacher=mixture)
    train("markov-di4c", "second-di4c", *SHORT, teacher=mixture)


def test_every_objective_says_how_it_reads_such_a_teacher() -> None:
    readings = {
        entry.name: entry.cls.roles["teacher"].latents for entry in OBJECTIVES.entries() if "teacher" in entry.cls.roles
    }
    refreshed = [
        e.name for e in OBJECTIVES.entries() if e.cls.roles.get("teacher") and e.cls.roles["teacher"].refreshed
    ]
    assert {name for name in refreshed if readings[name] != "refuse"} == set(), "the student has no noise input"
    assert readings["di4c"] == readings["rectified"] == "draw"
    assert readings["dmmd"] == readings["dimo"] == readings["didi"] == "average"
