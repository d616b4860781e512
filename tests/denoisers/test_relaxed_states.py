"""Networks at relaxed states of a process of ids: rows of probabilities in the place of tokens."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import one_hot

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.predictions.evidence import Output
from fewstep.processes.base import PROCESSES

V, L = 5, 4


def network(process_name: str, output: Output = "x_mean") -> NetworkDenoiser:
    process = PROCESSES.build(process_name, vocab_size=V)
    torch.manual_seed(0)
    tokens = TokenSpace(process.num_states, V, L)
    backbone = BACKBONES.build({"type": "transformer", "width": 16, "depth": 1, "heads": 2}, tokens=tokens)
    denoiser = NetworkDenoiser(backbone, process)
    denoiser.output = output
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return denoiser


@pytest.mark.parametrize(
    ("process", "output"), [("masked", "x_mean"), ("uniform", "x_mean"), ("uniform", "leave_one_out")]
)
def test_one_hot_rows_are_their_ids(process: str, output: Output) -> None:
    denoiser = network(process, output)
    ids = torch.randint(denoiser.process.num_states, (3, L), generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.2, 0.5, 0.9])
    hard = denoiser(ids, t)
    soft = denoiser(one_hot(ids, denoiser.process.num_states).float(), t)
    assert torch.equal(soft.known, ids)
    assert torch.equal(soft.where, hard.where)
    torch.testing.assert_close(soft.log_probs(), hard.log_probs(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("output", ["x_mean", "leave_one_out"])
def test_gradients_flow_into_the_state(output: Output) -> None:
    denoiser = network("uniform", output)
    denoiser.requires_grad_(False)
    rows = torch.randn(3, L, V, generator=torch.Generator().manual_seed(2)).softmax(-1).requires_grad_()
    prediction = denoiser(rows, torch.full((3,), 0.5))
    value = prediction.output.log_probs().square().sum()
    (gradient,) = torch.autograd.grad(value, rows)
    assert (gradient.abs().sum(-1) > 0).all()
    ids = rows.argmax(-1)
    assert torch.equal(prediction.known, ids)
    assert bool(prediction.where.all())
