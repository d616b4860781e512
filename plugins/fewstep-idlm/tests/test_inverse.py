"""The Gaussian form of IDLM: contract, the gap as a KL divergence, where it rests, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fewstep_idlm.relaxed import bound_of, gap, levels_at, relaxed_state
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from fewstep import OBJECTIVES, PROCESSES
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.core.errors import RecipeError, UserError
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import Batch, StepContext
from fewstep.recipe import load_recipe
from fewstep.testing.objectives import check_objective

RECIPES = Path(__file__).parents[1] / "recipes"
V, L = 3, 2
WIDE = (-9.0, 14.0)
"""gamma from alpha = 1 to alpha < .001 at three symbols: all that the bound collects."""


def rows(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, V, generator=Generator().manual_seed(seed), dtype=torch.float64).log_softmax(-1)


def leave_one_out(law: Tensor, z: Tensor, alpha: Tensor) -> Tensor:
    """Exact rows log p(x_i | the other token of z) of two tokens, float64 [N, 2, V]; `law` [V, V], `alpha` [N]."""
    evidence = alpha[:, None, None] * one_hot(z, V) + (1 - alpha[:, None, None]) / V
    first, second = evidence[:, 1] @ law.T, evidence[:, 0] @ law
    exact = torch.stack((first, second), 1)
    return (exact / exact.sum(-1, keepdim=True)).log()


@pytest.mark.parametrize("hard", [True, False])
def test_the_gap_is_the_kl_of_student_and_data(hard: bool) -> None:
    """Three symbols, two tokens, T -> 0: the integral over gamma by quadrature, all states by enumeration.

    The identity needs z ~ Cat(alpha p + (1 - alpha) / V). Hard tokens p have it on the Gaussian path, soft ones do not
    (next test), so for these z is drawn from it here.
    """
    generator = Generator().manual_seed(3)
    data = torch.rand(V, V, generator=generator, dtype=torch.float64) + 0.1
    data /= data.sum()
    p = rows(4, 2, seed=1).exp()  # four outputs of a student, equally likely
    if hard:
        p = one_hot(torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0]]), V).double()
    samples = torch.einsum("na,nb->ab", p[:, 0], p[:, 1]) / len(p)
    samples = (samples + 1e-9) / (samples + 1e-9).sum()
    u = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    levels = levels_at(u, WIDE, V)
    states = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    node, output, state = torch.cartesian_prod(*map(torch.arange, (len(u), len(p), len(states)))).unbind(1)
    alpha, z = levels.alpha[node], states[state]
    chance = alpha[:, None, None] * p[output] + (1 - alpha[:, None, None]) / V
    weights = chance.gather(2, z[..., None])[..., 0].prod(1) / (len(u) * len(p)) * levels.speed[node]
    signal = (alpha * V / (1 - alpha).clamp_min(1e-30))[:, None].expand(z.shape).flatten()
    soft, teacher, fake = (
        x.flatten(0, 1)
        for x in (p.clamp_min(1e-300).log()[output], leave_one_out(data, z, alpha), leave_one_out(samples, z, alpha))
    )
    value = float((gap(soft, teacher, fake, z.flatten(), signal).view(z.shape).sum(1) * weights).sum())
    kl = float((samples * (samples / data).log()).sum())
    assert kl > 0.05
    assert value == pytest.approx(kl, abs=1e-3)
    # The gap is a difference of two bounds, none of which is negative.
    bounds = [bound_of(soft, other, z.flatten(), signal).view(z.shape).sum(1) for other in (teacher, fake)]
    assert min(map(float, (bounds[0].min(), bounds[1].min()))) > -1e-9
    assert float(((bounds[0] - bounds[1]) * weights).sum()) == pytest.approx(value, abs=1e-8)


def test_the_path_of_soft_tokens_is_not_that_of_the_uniform_process() -> None:
    """At little noise the largest coordinate of a p + s e is the mode of p; the uniform process would draw from p."""
    p = torch.tensor([0.6, 0.4, 0.0]).expand(20_000, 1, V)
    levels = levels_at(torch.zeros(1), (-9.0, 0.0), V)
    _, z = relaxed_state(p, levels, 0.1, generator=Generator().manual_seed(0))
    assert float((z == 0).double().mean()) > 0.99
    hard = one_hot(torch.zeros(20_000, 1, dtype=torch.long), V).float()
    levels = levels_at(torch.full((1,), 0.5), (-1.0, 3.0), V)
    _, z = relaxed_state(hard, levels, 0.1, generator=Generator().manual_seed(0))
    alpha = float(levels.alpha[0])
    assert float((z == 0).double().mean()) == pytest.approx(alpha + (1 - alpha) / V, abs=0.015)


def network(seed: int, output: str) -> NetworkDenoiser:
    torch.manual_seed(seed)
    process = PROCESSES.build("uniform", vocab_size=V)
    tokens = TokenSpace(V, V, L)
    settings = {"type": "transformer", "width": 16, "depth": 1, "heads": 2, "time_conditioned": True}
    denoiser = NetworkDenoiser(BACKBONES.build(settings, tokens=tokens), process)
    denoiser.output = output  # type: ignore[assignment]
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return denoiser


def student_gradient(fake: int, output: str = "leave_one_out", **changes: object) -> tuple[float, Tensor]:
    """Loss and gradient of the student's phase, with the teacher of seed 1 and the fake network of seed `fake`."""
    objective = OBJECTIVES.build({"type": "inverse", "gamma": (-3.0, 6.0), **changes})
    roles = {"teacher": network(1, output), "student": network(2, output), "auxiliary": network(fake, output)}
    for name in ("teacher", "auxiliary"):
        roles[name].requires_grad_(False)
    streams = {name: Generator().manual_seed(seed) for seed, name in enumerate(("time", "noise", "sample"))}
    ctx = StepContext(dict(roles), roles["student"].process, streams, torch.device("cpu"))
    data = torch.randint(V, (32, L), generator=Generator().manual_seed(9))
    _, phase = objective.phases()
    loss = objective.loss(phase, Batch(data), ctx).loss
    parameters = list(roles["student"].parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return float(loss.detach()), torch.cat([g.flatten() for g in gradients if g is not None])


@pytest.mark.parametrize("output", ["leave_one_out", "x_mean"])
@pytest.mark.parametrize("times", ["same", "independent"])
def test_loss_and_gradient_are_0_if_the_fake_network_is_the_teacher(output: str, times: str) -> None:
    loss, gradient = student_gradient(1, output, times=times)
    assert loss == 0
    assert float(gradient.abs().max()) < 1e-7
    loss, gradient = student_gradient(3, output, times=times)
    assert loss != 0
    assert float(gradient.abs().max()) > 1e-3


def test_gradients_reach_the_student_through_the_state() -> None:
    value, both = student_gradient(3)
    same, alone = student_gradient(3, through_state=False)
    assert value == pytest.approx(same, rel=1e-6), "the loss is the same"
    assert float((both - alone).norm()) > 0.05 * float(alone.norm())


def test_the_gradient_through_the_state_is_that_of_the_loss() -> None:
    """A step along the gradient lowers the loss on the same draws by its square, times the step."""
    value, gradient = student_gradient(3)
    objective = OBJECTIVES.build({"type": "inverse", "gamma": (-3.0, 6.0)})
    roles = {"teacher": network(1, "leave_one_out"), "student": network(2, "leave_one_out")}
    roles["auxiliary"] = network(3, "leave_one_out")
    step, start = 1e-3, 0
    with torch.no_grad():
        for parameter in roles["student"].parameters():
            part = gradient[start : start + parameter.numel()].view(parameter.shape)
            parameter.sub_(step * part / gradient.norm())
            start += parameter.numel()
    assert start == len(gradient)
    streams = {name: Generator().manual_seed(seed) for seed, name in enumerate(("time", "noise", "sample"))}
    ctx = StepContext(dict(roles), roles["student"].process, streams, torch.device("cpu"))
    data = torch.randint(V, (32, L), generator=Generator().manual_seed(9))
    after = float(objective.loss(objective.phases()[1], Batch(data), ctx).loss)
    assert (value - after) / step == pytest.approx(float(gradient.norm()), rel=0.1)


@pytest.mark.parametrize("config", ["inverse", {"type": "inverse", "times": "independent", "aux_steps": 2}])
def test_it_keeps_the_contract(config: object) -> None:
    check_objective(config, processes=("uniform",))


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_valid(recipe: Path) -> None:
    assert load_recipe(recipe).recipe.name == recipe.stem


def test_what_does_not_fit_is_refused() -> None:
    recipe = RECIPES / "idlm-duo-markov.yaml"
    with pytest.raises(RecipeError, match="'inverse' is for the uniform process, not masked; with masks `dmmd`"):
        load_recipe(recipe, ["process=masked", "output=x_mean"])
    images = "data={type: mnist, path: nowhere}"
    dense = r"16,384 relaxed states of 784 tokens and 16 symbols are dense vectors of .*; raise train\.accumulate"
    with pytest.raises(RecipeError, match=dense):
        load_recipe(RECIPES / "idlm-duo-digits.yaml", [images, "train.batch_size=16384"])
    objective = OBJECTIVES.build("inverse")
    process = PROCESSES.build("uniform", vocab_size=50_257)
    ctx = StepContext({}, process, {}, torch.device("cpu"))
    with pytest.raises(
        UserError, match=r"objective: 64 relaxed states .* above the limit of 0\.55 GB; raise train\.accumulate"
    ):
        objective.loss(objective.phases()[0], Batch(torch.zeros(64, 1024, dtype=torch.long)), ctx)
