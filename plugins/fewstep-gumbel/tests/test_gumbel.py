"""Objective, network and sampler against enumeration, on coins and on a Markov source."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from exact_teacher import ExactStudent, ExactTeacher
from fewstep_gumbel import GumbelDistillation, HeldNoise, drawn_by
from fewstep_gumbel.condition import noise_of
from torch import Generator, Tensor, nn

from fewstep import OBJECTIVES, PROCESSES, SAMPLERS, load_recipe
from fewstep.core.errors import RecipeError, UserError
from fewstep.denoisers.base import Denoiser
from fewstep.objectives.base import Batch, StepContext
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import Process
from fewstep.runs.folder import RunDir
from fewstep.runtime.streams import Randomness, SampleStreams
from fewstep.testing import (
    Coins,
    Markov,
    all_sequences,
    assert_same_distribution,
    check_objective,
    check_sampler,
    exact_distribution,
    loss_of,
    step_context,
    total_variation,
)
from fewstep.training.launch import fit

RECIPES = Path(__file__).parents[1] / "recipes"
SMALL = ("train.steps=4", "train.log_every=1", "train.device=cpu", "watch.times=0", "data.size=256")
BLOCKS = {"backbone.type": "block_transformer", "backbone.block_size": 1, "sampler": "block_ancestral"}
COINS = exact_distribution(Coins(Coins.Config(odds=0.7, size=1000)))
MASKED = PROCESSES.build("masked", vocab_size=2)


def test_the_objective_keeps_its_contract() -> None:
    check_objective("gumbel", teacher=BLOCKS)


def test_the_sampler_keeps_its_contract() -> None:
    check_sampler("held_noise")
    check_sampler({"type": "held_noise", "noise": "fresh", "inner": "confidence"})


class Table(Denoiser):
    """A row of logits for each state of two coins, place, and side that the noise of the first coin is on."""

    def __init__(self, process: Process, distribution: Tensor) -> None:
        super().__init__(process, 2)
        self.first = distribution.sum(1).log()
        self.logits = nn.Parameter(torch.randn(9, 2, 2, 2, generator=Generator().manual_seed(3), dtype=torch.float64))

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        noise = noise_of(cond)
        assert noise is not None
        side = drawn_by(self.first, noise[:, 0])
        rows = self.logits[x_t[:, 0] * 3 + x_t[:, 1], side]
        return TablePrediction(rows.log_softmax(-1), x_t, self.process.to_predict(x_t))


def enumerated_gradient(table: Table, objective: GumbelDistillation, levels: int) -> Tensor:
    """Gradient of the expected loss: all texts, all masks, and times of a batch; noise is on the side of the text."""
    logits = table.logits.detach().clone().requires_grad_(True)
    times = objective.times(levels, _times(levels))
    alpha = table.process.schedule.alpha(times.double())
    total = torch.zeros((), dtype=torch.float64)
    for x, p in zip(all_sequences(2, 2), COINS.flatten(), strict=True):
        for shown in all_sequences(2, 2):
            z = torch.where(shown == 1, x, 2)
            chance = torch.where(shown[:, None] == 1, alpha, 1 - alpha).prod(0).mean()
            rows = logits[z[0] * 3 + z[1], x[0]].log_softmax(-1)
            nll = -rows.gather(1, x[:, None])[:, 0] * (shown == 0)
            total = total + p * chance * nll.mean()
    return torch.autograd.grad(total, logits)[0]


def _times(count: int) -> StepContext:
    """Times in the middle of `count` even parts of [0, 1]."""

    class Even(StepContext):
        def sample_time(self, count: int, *, antithetic: bool = False) -> Tensor:
            return (torch.arange(count, dtype=torch.float64) + 0.5) / count

    return Even({}, MASKED, {}, torch.device("cpu"))


def test_gradient_is_that_of_enumeration() -> None:
    objective, table, teacher = GumbelDistillation(), Table(MASKED, COINS), ExactTeacher(MASKED, COINS)
    data = Coins(Coins.Config(odds=0.7, size=1000)).train.long()
    draws = []
    for seed in range(60):
        loss = loss_of(objective, MASKED, {"teacher": teacher, "student": table}, data, seed=seed).loss
        draws.append(torch.autograd.grad(loss, table.logits)[0])
    gradients = torch.stack(draws)
    error = gradients.std(0) / len(draws) ** 0.5
    gap = (gradients.mean(0) - enumerated_gradient(table, objective, 4000)).abs()
    assert (gap <= 4.5 * error + 1e-9).all()
    assert gradients.mean(0).abs().max() > 0.01


def markov() -> tuple[Markov, Process]:
    source = Markov(Markov.Config(vocab_size=3, length=4, successors=2, smoothing=0.2, size=2000))
    return source, PROCESSES.build("masked", vocab_size=3)


def test_the_teachers_own_map_is_the_fixed_point() -> None:
    source, process = markov()
    law = exact_distribution(source)
    roles = {"teacher": ExactTeacher(process, law), "student": ExactStudent(process, law)}
    assert float(loss_of(GumbelDistillation(), process, roles, source.train.long()).loss) < 1e-9


@pytest.mark.parametrize("steps", [1, 3])
def test_it_draws_the_source_in_any_number_of_steps(steps: int) -> None:
    source, process = markov()
    law, count = exact_distribution(source), 8000
    samples = HeldNoise().sample(ExactStudent(process, law), count, steps=steps, generator=Generator().manual_seed(0))
    assert samples.nfe == steps
    places = 3 ** torch.arange(3, -1, -1)
    assert_same_distribution(torch.bincount((samples.x * places).sum(1), minlength=81), law.flatten(), "samples")


def test_one_step_gets_coins_right_and_independent_coins_do_not() -> None:
    student = ExactStudent(MASKED, COINS)
    samples = HeldNoise().sample(student, 8000, steps=1, generator=Generator().manual_seed(0))
    assert total_variation(samples.x, COINS) < 0.02
    marginal = torch.outer(COINS.sum(1), COINS.sum(0))
    assert float((marginal - COINS).abs().sum() / 2) == pytest.approx(2 * 0.7 * 0.3)


def test_noise_is_held_and_scaled() -> None:
    for temperature in (1.0, 0.5):
        student = ExactStudent(MASKED, COINS)
        sampler = SAMPLERS.build({"type": "held_noise", "noise_temperature": temperature})
        sampler.sample(student, 5, steps=4, generator=SampleStreams(0, range(5)))
        assert len(student.asked) == 4
        assert all(torch.equal(a, b) for a, b in pairwise(student.asked))
        if temperature == 1.0:
            whole = student.asked[0]
    torch.testing.assert_close(student.asked[0], 0.5 * whole)


def test_a_student_sees_the_noise_of_masks_alone(tmp_path: Path) -> None:
    teacher = RunDir.create("teacher", tmp_path / "teacher")
    fit(load_recipe(RECIPES / "gumbel-coins-teacher.yaml", SMALL), teacher, echo=lambda line: None)
    loaded = load_recipe(RECIPES / "gumbel-coins.yaml", SMALL, teacher=str(teacher.path))
    trained = fit(loaded, RunDir.create("student", tmp_path / "student"), echo=lambda line: None)
    from fewstep.runs.models import open_model

    network = open_model(tmp_path / "student").network
    assert trained is not None
    assert isinstance(network, Denoiser)
    x, t = torch.tensor([[0, 2]]), torch.tensor([0.5])
    rows = []
    for place in (None, 0, 1):
        noise = torch.zeros(1, 2, 2)
        if place is not None:
            noise[:, place, 0] = 3.0
        from fewstep_gumbel import with_noise

        rows.append(network(x, t, cond=with_noise(Condition(), noise)).log_probs())
    assert torch.equal(rows[0], rows[1]), "the first coin is shown"
    assert not torch.equal(rows[0], rows[2])
    first = network(x, t, generator=Generator().manual_seed(0)).log_probs()
    assert torch.equal(first, network(x, t, generator=Generator().manual_seed(0)).log_probs())
    assert not torch.equal(first, network(x, t, generator=Generator().manual_seed(1)).log_probs())


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_valid(path: Path) -> None:
    assert load_recipe(path).recipe.name == path.stem


LARGE = "data={type: token_ids, path: x, vocab_size: 50257, length: 1024}"
REFUSED = {
    "no masks": (["process=uniform"], "the noise takes the place of masks, and the uniform process has none"),
    "another sampler": (["sampler=ancestral"], "students of 'gumbel' are made for 'held_noise', not 'ancestral'"),
    "large noise": (
        [LARGE, "evaluate.metrics=[sample_entropy]", "train.batch_size=16"],
        r"objective.max_gigabytes: 16 samples of noise of 1,024 tokens and 50,257 symbols .* raise train.accumulate",
    ),
    "noise of two kinds": (
        ["sampler={type: held_noise, noise: fresh, noise_temperature: 0.5}"],
        "sampler.noise_temperature: fresh noise is the network's own",
    ),
    "labels": (["label_input={}", "data=digits"], "teachers are asked without labels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(RecipeError, match=message):
        load_recipe(RECIPES / "gumbel-markov.yaml", changes)


def test_other_students_refuse_the_sampler() -> None:
    with pytest.raises(RecipeError, match="students of 'denoising' see no Gumbel noise; those of 'gumbel' do"):
        load_recipe("coins-teacher", ["plugins=[fewstep-gumbel]", "sampler=held_noise"])


def test_teachers_must_go_token_by_token() -> None:
    objective = OBJECTIVES.build("gumbel")
    context = step_context(MASKED, {"teacher": Table(MASKED, COINS), "student": Table(MASKED, COINS)})
    with pytest.raises(UserError, match="the teacher is no autoregressive model"):
        objective.setup(context)


def test_noise_that_no_recipe_told_is_refused_when_it_is_made() -> None:
    objective = OBJECTIVES.build({"type": "gumbel", "max_gigabytes": 0.001})
    process = PROCESSES.build("masked", vocab_size=1000)
    batch = Batch(torch.zeros(3, 100, dtype=torch.long))
    with pytest.raises(UserError, match="3 samples of noise of 100 tokens and 1,000 symbols"):
        objective.loss(objective.phases()[0], batch, StepContext({}, process, {}, torch.device("cpu")))
    sampler = SAMPLERS.build({"type": "held_noise", "max_gigabytes": 1e-9})
    with pytest.raises(UserError, match=r"sampler: 8 samples of noise of 2 tokens .* raise sampler\.max_gigabytes"):
        sampler.sample(ExactStudent(MASKED, COINS), 8, steps=1, generator=None)
