"""Conformance of continuous processes: noise, steps back and evidence belong to the same process.

Shapes: N draws, B batch, L tokens, V vocabulary, S numbers of a vector.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from fewstep.predictions.base import Prediction
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import Process
from fewstep.testing.statistics import SIGMAS

_DRAWS = 20_000


def check_continuous(process: Process) -> None:
    """Assert that a process of vectors keeps the contract of `Process`.

    Raises:
        AssertionError: a check fails; the message names it.
    """
    _check_shapes(process)
    _check_ends(process)
    for t, s in ((0.9, 0.6), (0.5, 0.45), (1.0, 0.3)):
        _check_step_back(process, t, s)
    _check_times_by_position(process)
    for t in (0.3, 0.6, 0.9):
        _check_evidence(process, t)
    _check_hold(process)


def certain(process: Process, x0: Tensor, x_t: Tensor) -> Prediction:
    """Prediction with all mass on the clean tokens x0 (ids [B, L])."""
    return TablePrediction(one_hot(x0, process.vocab_size).double().log(), process.to_ids(x_t), process.to_predict(x_t))


def check_clock(process: Process, x0: Tensor, x_t: Tensor) -> None:
    """Assert that a step back from the state x_t follows a prediction's clock."""

    def clock(t: Tensor) -> Tensor:
        return t[:, None] ** torch.linspace(0.5, 2, x0.shape[1], dtype=t.dtype)

    ends, steps = [torch.full((len(x0),), t, dtype=torch.float64) for t in (0.8, 0.3)], list[Tensor]()
    for bring in (True, False):
        prediction = certain(process, x0, x_t)
        prediction.clock = clock if bring else None
        times = ends if bring else [clock(t) for t in ends]
        steps.append(process.step_back(x_t, prediction, *times, generator=Generator().manual_seed(8)))
    assert torch.equal(*steps), "step_back does not follow the prediction's clock; begin it with prediction.on_clock"


def _times(t: float) -> Tensor:
    return torch.full((_DRAWS,), t, dtype=torch.float64)


def _tokens(process: Process) -> Tensor:
    """Ids [N, V] with symbol i at position i."""
    return torch.arange(process.vocab_size).repeat(_DRAWS, 1)


def _assert_same_moments(a: Tensor, b: Tensor, label: str) -> None:
    """Assert that means, squares and products of neighbours of a and b (both [N, L, S]) agree within chance."""
    for name, shift in (("mean", None), ("mean square", 0), ("product of neighbours", 1)):
        values = [x.double() if shift is None else x.double() * x.double().roll(shift, -1) for x in (a, b)]
        gap = (values[0].mean(0) - values[1].mean(0)).abs()
        error = ((values[0].var(0) + values[1].var(0)) / len(a)).sqrt()
        assert bool((gap <= SIGMAS * error + 1e-6).all()), f"{label}: {name} differs by {float(gap.max()):.4f}"


def _check_shapes(process: Process) -> None:
    x0, by_token = torch.randint(process.vocab_size, (2, 5)), torch.rand(2, 5).clamp(0.1, 0.9)
    prior = process.prior((2, 5), device="cpu", generator=None)
    assert prior.shape == (2, 5, process.num_states), f"the prior has shape {tuple(prior.shape)}, not [B, L, S]"
    for t in (by_token, by_token[:, 0]):
        out = process.corrupt(x0, t, generator=None)
        back = process.step_back(out.x_t, certain(process, x0, out.x_t), t, t / 2, generator=None)
        for name, state in (("prior", prior), ("corrupt", out.x_t), ("step_back", back)):
            assert state.shape == prior.shape, f"{name} gives {tuple(state.shape)} for times of shape {tuple(t.shape)}"
            assert state.is_floating_point(), f"{name} must give vectors of floats"
            assert state.isfinite().all(), f"{name} must give finite numbers"
        assert process.evidence(out.x_t, t).shape == (2, 5, process.vocab_size), "evidence is [B, L, V]"
        assert out.noised.shape == process.to_predict(out.x_t).shape == (2, 5)
        assert out.noised.dtype == process.to_predict(out.x_t).dtype == torch.bool
        ids = process.to_ids(out.x_t)
        assert (ids.shape, ids.dtype) == ((2, 5), torch.long), "to_ids must give ids [B, L]"
        assert int(ids.max()) < process.vocab_size


def _check_ends(process: Process) -> None:
    """The state at t = 1 is pure noise, and that at t = 0 is nearly the data."""
    x0, rng = _tokens(process), Generator().manual_seed(1)
    state = process.corrupt(x0, _times(0.0), generator=rng).x_t
    assert (process.to_ids(state) == x0).double().mean() > 0.99, "the state at t = 0 does not show the data"
    evidence = process.evidence(state, _times(0.0))
    assert evidence.isfinite().all(), "evidence at t=0 is not finite"
    assert (evidence.argmax(-1) == x0).double().mean() > 0.99, "evidence at t=0 is not that of the data"
    noise = process.prior((_DRAWS, process.vocab_size), device="cpu", generator=rng)
    _assert_same_moments(process.corrupt(x0, _times(1.0), generator=rng).x_t, noise, "corrupt at t=1 and the prior")


def _check_step_back(process: Process, t: float, s: float) -> None:
    """A step from q(z_t | x) with the prediction x ends in q(z_s | x)."""
    x0, rng = _tokens(process), Generator().manual_seed(2)
    x_t = process.corrupt(x0, _times(t), generator=rng).x_t
    x_s = process.corrupt(x0, _times(s), generator=rng).x_t
    back = process.step_back(x_t, certain(process, x0, x_t), _times(t), _times(s), generator=rng)
    _assert_same_moments(back, x_s, f"a step back from {t} to {s} and corrupt at {s}")


def _check_times_by_position(process: Process) -> None:
    """With a time for each position, each position behaves as it does at that time."""
    x0, rng = torch.zeros(_DRAWS, 2, dtype=torch.long), Generator().manual_seed(5)
    t, s = (torch.tensor(times, dtype=torch.float64).expand(_DRAWS, 2) for times in ((0.9, 0.5), (0.6, 0.2)))
    x_t = process.corrupt(x0, t, generator=rng).x_t
    back = process.step_back(x_t, certain(process, x0, x_t), t, s, generator=rng)
    check_clock(process, x0, x_t)
    for place in range(2):
        alone = process.corrupt(x0[:, :1], s[:, place], generator=rng).x_t
        _assert_same_moments(
            back[:, place : place + 1], alone, f"a step back at position {place} with times by position"
        )
        evidence = process.evidence(x_t[:, place : place + 1], t[:, place])
        torch.testing.assert_close(process.evidence(x_t, t)[:, place : place + 1], evidence)


def _check_evidence(process: Process, t: float) -> None:
    """Compare p(x | z_t) from the evidence with frequencies of the symbols, by the ids of states and by p itself."""
    rng = Generator().manual_seed(3)
    x0 = torch.randint(process.vocab_size, (_DRAWS, 1), generator=rng)
    x_t = process.corrupt(x0, _times(t), generator=rng).x_t
    evidence = process.evidence(x_t, _times(t))
    assert bool((evidence >= 0).all() and (evidence.sum(-1) > 0).all()), "evidence must be positive somewhere"
    p = (evidence / evidence.sum(-1, keepdim=True))[:, 0]
    clean, ids = one_hot(x0[:, 0], process.vocab_size).double(), process.to_ids(x_t)[:, 0]
    for symbol in range(process.vocab_size):
        cells = [ids == token for token in range(process.vocab_size)]
        cells += [(p[:, symbol] >= low) & (p[:, symbol] < low + 0.2) for low in (0.0, 0.2, 0.4, 0.6, 0.8)]
        for cell in cells:
            gap = (clean[cell, symbol] - p[cell, symbol]).sum().abs()
            error = (p[cell, symbol] * (1 - p[cell, symbol])).sum().sqrt()
            assert gap <= SIGMAS * error + 1e-3, (
                f"evidence at t={t} is not that of corrupt: off by {gap:.0f} of {cell.sum()}"
            )


def _check_hold(process: Process) -> None:
    """Tokens of the prompt are noised as data are; free tokens do not change."""
    rng = Generator().manual_seed(4)
    prompt = _tokens(process)
    prompt[:, 0] = -1
    x = process.prior((_DRAWS, process.vocab_size), device="cpu", generator=rng)
    held = process.hold(x, prompt, _times(0.4), generator=rng)
    assert torch.equal(held[:, 0], x[:, 0]), "hold changes a free token"
    noised = process.corrupt(prompt.clamp_min(0), _times(0.4), generator=rng).x_t
    _assert_same_moments(held[:, 1:], noised[:, 1:], "hold at t=0.4 and corrupt there")
