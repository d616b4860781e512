"""The objective: its value and gradient at the reference, its optimum, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fewstep_t3d.agreement import agreement, block_log_probs, redrawn_blocks
from fewstep_t3d.ddo import DirectDiscriminative, fakes
from fewstep_t3d.losses import ddo_loss
from fewstep_t3d.trajectories import roll_out
from torch import Generator, Tensor
from torch.nn.functional import log_softmax

from fewstep import OBJECTIVES, PROCESSES, SAMPLERS
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.core.errors import RecipeError, UserError
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.predictions.condition import Condition
from fewstep.recipe import load_recipe, parse_recipe
from fewstep.runtime.streams import SampleStreams
from fewstep.testing import check_objective
from fewstep.testing.exact import step_context

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
BLOCKS = {"backbone.type": "block_transformer", "backbone.block_size": 3, "sampler": "block"}
ORDER = torch.tensor([[0, 0, 0, 0, 6, 5, 8, 7, 9, 12, 11, 10]]).expand(16, 12)


@pytest.mark.parametrize("changes", [{}, {"order": "earliest", "path_visible": True, "fake_temperature": 1.0}], ids=str)
def test_it_keeps_the_contract(changes: dict[str, Any]) -> None:
    """In the real trainer, with an exact resume across files of the store and across a new reference."""
    check_objective({"type": "ddo", "trajectories": 20, **changes}, processes=("masked",), sections=BLOCKS)


def network(seed: int = 0) -> NetworkDenoiser:
    torch.manual_seed(seed)
    process = PROCESSES.build("masked", vocab_size=5)
    config = {"type": "block_transformer", "width": 16, "depth": 1, "heads": 2, "block_size": 4}
    built = NetworkDenoiser(BACKBONES.build(config, tokens=TokenSpace(6, 5, 12)), process)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return built.eval()


def objective(**settings: Any) -> DirectDiscriminative:
    built = OBJECTIVES.build({"type": "ddo", "shares": [1.0], "random_tokens": 0.0, **settings})
    assert isinstance(built, DirectDiscriminative)
    return built


def gradient(loss: Tensor, student: NetworkDenoiser) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(student.parameters()))])


def test_value_and_gradient_at_the_reference() -> None:
    """L = (1 + a) log 2 + lam L_path, and its gradient (b / 2) (a grad l(fake) - grad l(real)) + lam grad L_path."""
    student, reference, x = network(), network(), torch.randint(5, (16, 12), generator=Generator().manual_seed(1))
    ctx = step_context(student.process, {"student": student, "teacher": reference})
    out = objective(b=0.3, a=0.4, lam=0.2).loss_of(x, ORDER, ctx)

    z, t = x.masked_fill(ORDER > 0, 5), torch.ones(16)
    prediction = student(z, t, cond=Condition(context=x))
    fake = fakes(prediction, prediction.where, 0.0, None)
    real, made = (prediction.nll(ids)[:, 4:].mean() for ids in (x, fake))
    assert float(out.loss.detach()) == pytest.approx(1.4 * math.log(2) + 0.2 * float(real.detach()), rel=1e-6)
    expected = gradient(0.15 * (real - 0.4 * made) + 0.2 * real, student)
    assert torch.allclose(gradient(out.loss, student), expected, rtol=1e-4, atol=1e-7)


def test_without_ratios_the_reference_is_not_asked() -> None:
    student, reference = network(), network(1)
    ctx = step_context(student.process, {"student": student, "teacher": reference})
    x = torch.randint(5, (16, 12), generator=Generator().manual_seed(1))
    assert float(objective(ddo=0.0, lam=1.0).loss_of(x, ORDER, ctx).loss.detach()) > 0
    assert reference.nfe == 0


def slope(real: Tensor, reference: Tensor, student: Tensor, b: float, a: float) -> float:
    """Norm of the loss's gradient with respect to logits of the student's distribution."""
    logits = student.clone().requires_grad_()
    loss = sequence_loss(real, reference, log_softmax(logits, 0), b, a)
    (gradient,) = torch.autograd.grad(loss, logits)
    return float(gradient.norm())


def sequence_loss(real: Tensor, reference: Tensor, student: Tensor, b: float, a: float) -> Tensor:
    """Expected loss of distributions over sequences: real ones from `real`, fakes drawn from the reference."""
    zeros = torch.zeros_like(student)
    positive = ddo_loss(student, reference, zeros, zeros, b=b, a=0.0)
    both = ddo_loss(student, reference, student, reference, b=b, a=a)
    return (real.exp() * positive + reference.exp() * (both - positive)).sum()


def test_the_optimum_amplifies_ratios() -> None:
    """Two tokens, V 3. The loss is convex in log(p / p_ref). Its optimum is p_ref (p_real / (a p_ref))^(1/b)
    for the weight a at which that sums to 1. For other a the normalised form is not: the sum is a constraint."""
    rng, b = Generator().manual_seed(0), 0.5
    real, reference = (log_softmax(torch.randn(9, generator=rng, dtype=torch.float64), 0) for _ in range(2))
    a = float((reference + (real - reference) / b).logsumexp(0).mul(b).exp())
    amplified = reference + (real - reference - math.log(a)) / b
    assert float(amplified.logsumexp(0)) == pytest.approx(0, abs=1e-12)
    assert slope(real, reference, amplified, b, a) < 1e-12
    best = float(sequence_loss(real, reference, amplified, b, a))
    for _ in range(200):
        other = log_softmax(amplified + 0.1 * torch.randn(9, generator=rng, dtype=torch.float64), 0)
        assert float(sequence_loss(real, reference, other, b, a)) > best
    entropies = [float(-(p.exp() * p).sum()) for p in (real, amplified)]
    assert entropies[1] < entropies[0] - 0.1, "mode seeking"
    assert slope(real, reference, amplified, b, 0.5 * a) > 1e-3


def test_a_greedy_fake_is_pushed_down() -> None:
    """One sequence is both real and fake: with a < 1 it rises and with a > 1 it falls."""
    for a, sign in ((0.5, -1), (2.0, 1)):
        log_p = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
        reference = log_p.detach()
        ddo_loss(log_p, reference, log_p, reference, b=0.1, a=a).sum().backward()
        assert log_p.grad is not None
        assert math.copysign(1, float(log_p.grad)) == sign


@pytest.mark.parametrize(
    ("seed", "same", "one_step", "four_steps"), [(0, 2, -6.6, -4.4), (1, 3, -5.9, -4.4), (2, 1, -13.6, -4.5)]
)
def test_one_greedy_step_of_the_exact_teacher_is_no_roll_out(
    seed: int, same: int, one_step: float, four_steps: float
) -> None:
    """Markov sources (V 8, blocks of 4): blocks that agree, of 8 prefixes, and mean log p of a block."""
    source = Markov(Markov.Config(vocab_size=8, length=8, size=8, source_seed=seed))
    oracle = exact_denoiser(source, PROCESSES.build("masked", vocab_size=8), block_size=4)
    greedy = SAMPLERS.build({"type": "block", "inner": "confidence", "temperature": 1e-6})
    prompt = torch.arange(8)[:, None].repeat(1, 8)
    prompt[:, 4:] = -1
    x, _ = roll_out(greedy, oracle, prompt, steps=4, generator=SampleStreams(0, range(8)))
    y = redrawn_blocks(greedy, oracle, x, steps=1, first=1)
    assert int(agreement(x, y, 4, 1).sum()) == same
    assert float(block_log_probs(source, y, x, 4, 1).mean()) == pytest.approx(one_step, abs=0.06)
    assert float(block_log_probs(source, x, x, 4, 1).mean()) == pytest.approx(four_steps, abs=0.06)


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_the_recipes_are_valid(path: Path) -> None:
    assert load_recipe(path).recipe.name == path.stem


def _recipe(**sections: Any) -> dict[str, Any]:
    return {
        "name": "x",
        "data": {"type": "markov", "length": 8},
        "process": "masked",
        "backbone": {"type": "block_transformer", "width": 16, "depth": 1, "heads": 2, "block_size": 4},
        "objective": "ddo",
        "sampler": "block",
        "teacher": {"run": "t"},
        "train": {"steps": 1},
        **sections,
    }


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"backbone": "transformer", "sampler": "ancestral"}, "backbone 'transformer' has no blocks to roll out"),
        ({"process": "uniform"}, "the uniform process has no masks"),
        ({"sampler": "confidence"}, "gives it none; samplers for it: block"),
        ({"objective": {"type": "ddo", "rollout": "confidence"}}, "'confidence' does not go block by block"),
        ({"objective": {"type": "ddo", "prompt": 3}}, "3 tokens are no whole number of blocks of 4"),
        ({"objective": {"type": "ddo", "prompt": 8}}, "leaves nothing of a sample of 8"),
        ({"objective": {"type": "ddo", "ddo": 0, "lam": 0}}, "nothing to learn"),
        ({"objective": {"type": "ddo", "shares": [0.0]}}, "shares above 0"),
        ({"supervision": {"type": "sparse"}}, "no sum over tokens"),
        ({"noise_input": {"type": "gaussian"}}, "has no role that takes it"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(sections: dict[str, Any], message: str) -> None:
    assert parse_recipe(_recipe()).objective.type == "ddo"
    with pytest.raises(RecipeError, match=message):
        parse_recipe(_recipe(**sections))


def test_a_teacher_of_other_blocks_is_refused(tmp_path: Path) -> None:
    student, source = network(), Markov(Markov.Config(vocab_size=5, length=12, size=8))
    whole = exact_denoiser(source, student.process)
    ctx = step_context(student.process, {"student": student, "teacher": whole})
    with pytest.raises(UserError, match="teacher: has blocks of None tokens, and the student of 4"):
        objective().setup(ctx)
