"""Forward-mode derivatives of real networks against reverse mode, and that they stay lazy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.denoisers.base import NOTHING
from fewstep.denoisers.derivative import Derivative, directional_derivative
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.predictions import base as module
from fewstep.predictions.base import rowwise
from fewstep.predictions.condition import Condition
from fewstep.predictions.draws import expectation
from fewstep.processes.base import PROCESSES
from fewstep.testing.backbones import predicting

V, L = 5, 6


def denoiser(backbone: str = "transformer", *, process: str = "masked", timed: bool = True) -> NetworkDenoiser:
    """Every parameter away from zero."""
    torch.manual_seed(0)
    built = PROCESSES.build(process, vocab_size=V)
    tokens = TokenSpace(built.num_states, V, L, (2, 3, 1))
    small = {"type": backbone, "width": 16, "depth": 3, "heads": 2, "time_conditioned": timed}
    settings = {key: value for key, value in small.items() if key in BACKBONES.get(backbone).cls.Config.model_fields}
    if BACKBONES.get(backbone).cls.uses_context:
        settings["block_size"] = 3
    network = BACKBONES.build(settings, tokens=tokens)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return NetworkDenoiser(network, built).eval()


def inputs(network: NetworkDenoiser) -> tuple[Tensor, Tensor]:
    return torch.randint(network.process.num_states, (4, L)), torch.rand(4)


def derivative(
    network: NetworkDenoiser, direction: dict[str, Tensor], z: Tensor, t: Tensor, cond: Condition = NOTHING
) -> Derivative:
    """As in training: the network is frozen."""
    network.requires_grad_(False)
    return directional_derivative(network, direction, z, t, cond)


@pytest.mark.parametrize("timed", [True, False], ids=["timed", "untimed"])
@pytest.mark.parametrize("process", ["masked", "uniform"])
@pytest.mark.parametrize("backbone", predicting())
def test_forward_mode_agrees_with_reverse_mode(backbone: str, process: str, timed: bool) -> None:
    """<u, J nu> = <J^T u, nu>, for random u and nu."""
    network = denoiser(backbone, process=process, timed=timed)
    (z, t), parameters = inputs(network), dict(network.named_parameters())
    cond = Condition(context=torch.randint(V, z.shape)) if network.backbone.uses_context else Condition()
    rows = network(z, t, cond=cond).log_probs()
    direction, weights = {name: torch.randn_like(p) for name, p in parameters.items()}, torch.randn_like(rows)
    gradients = torch.autograd.grad((rows * weights).sum(), list(parameters.values()))
    expected = sum((g * direction[name]).sum() for g, name in zip(gradients, parameters, strict=True))
    found = derivative(network, direction, z, t, cond)
    assert torch.equal(found.where, network.process.to_predict(z))
    assert not found.log_probs().requires_grad
    torch.testing.assert_close((found.log_probs() * weights).sum(), expected, rtol=1e-3, atol=1e-3)


def test_rows_in_chunks_equal_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the backward pass, which computes them anew."""
    network, student = denoiser(), denoiser()
    z, t = inputs(network)
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    results = []
    for elements in (1 << 25, 3 * V):
        monkeypatch.setattr(module, "CHUNK_ELEMENTS", elements)
        change = derivative(network, direction, z, t)
        value = rowwise(lambda p, d: expectation(p, d), [student(z, t), change], where=change.where)
        results.append([value.detach(), *torch.autograd.grad(value.sum(), list(student.parameters()))])
    torch.testing.assert_close(results[0], results[1])


def test_runs_under_autocast() -> None:
    network = denoiser()
    z, t = inputs(network)
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    exact = derivative(network, direction, z, t).log_probs()
    with torch.autocast("cpu", torch.bfloat16):
        rough = derivative(network, direction, z, t).log_probs()
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() < 0.05 * exact.norm()


def test_a_derivative_is_not_shaped() -> None:
    network = denoiser()
    direction = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    with pytest.raises(TypeError, match="a derivative is not shaped"):
        derivative(network, direction, *inputs(network)).shaped(torch.exp)
