"""Every registered sampler keeps its contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.exact import exact_denoiser
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import PROCESSES, Process
from fewstep.samplers.base import SAMPLERS
from fewstep.testing import check_sampler


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_sampler_conforms(name: str) -> None:
    check_sampler(name)


@pytest.mark.parametrize(
    "config",
    [
        {"type": "confidence", "order": "random"},
        {"type": "confidence", "order": "margin"},
        {"type": "entropy_bounded", "budget": 0.0},
        {"type": "semi_autoregressive", "block_size": 2, "inner": "ancestral"},
        "block",
        {"type": "semi_autoregressive", "block_size": 1, "inner": "entropy_bounded"},
        {"type": "semi_autoregressive", "block_size": 2, "inner": "first_hitting"},
        {"type": "semi_autoregressive", "block_size": 2, "inner": {"type": "confidence", "order": "entropy"}},
    ],
    ids=str,
)
def test_settings_make_it_exact(config: Any) -> None:
    check_sampler(config, exact=True)


@pytest.mark.parametrize(
    "config",
    [
        {"type": "confidence", "choice_temperature": 4.5, "temperature": 0.7, "greedy_tail": 1},
        {"type": "entropy_bounded", "budget": 2.0},
        {"type": "semi_autoregressive", "block_size": 2},
    ],
    ids=str,
)
def test_settings_keep_the_contract(config: Any) -> None:
    check_sampler(config)


def test_a_sampler_is_checked_on_the_denoiser_that_it_needs() -> None:
    processes: list[str] = []

    def oracle(source: Markov, process: Process) -> Denoiser:
        processes.append(process.config.type)
        return exact_denoiser(source, process)

    check_sampler("confidence", processes=("masked",), oracle=oracle)
    assert set(processes) == {"masked"}


def test_plugged_posteriors_are_the_law_of_models_trained_on_them() -> None:
    """One token, a prediction that depends on the state alone: both laws of two steps, multiplied out."""
    process = PROCESSES.build("uniform", vocab_size=3)
    table = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7], [0.05, 0.9, 0.05]], dtype=torch.float64)

    class Constant(Denoiser):
        device = torch.device("cpu")  # type: ignore[assignment]

        def predict(
            self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Generator | None
        ) -> Prediction:
            return TablePrediction(table.log()[x_t], x_t, torch.ones_like(x_t, dtype=torch.bool))

    states, laws = torch.arange(3)[:, None], []
    for kind in ("plugged", "drawn"):
        law = torch.full((3,), 1 / 3, dtype=torch.float64)
        for t, s in ((1.0, 0.5), (0.5, 0.0)):
            times = [torch.full((3,), value, dtype=torch.float64) for value in (t, s)]
            if kind == "plugged":
                rows = process.posterior_probs(table[:, None], states, *times)[:, 0]
            else:
                given = [process.posterior_probs(torch.full((3, 1), x), states, *times)[:, 0] for x in range(3)]
                rows = sum(table[:, x, None] * given[x] for x in range(3))  # type: ignore[assignment]
            law = law @ rows
        sampler = SAMPLERS.build({"type": "ancestral", "posterior": kind})
        drawn = sampler.sample(Constant(process, 1), 60_000, steps=2, generator=Generator().manual_seed(0)).x
        share = torch.bincount(drawn[:, 0], minlength=3).double() / len(drawn)
        torch.testing.assert_close(share, law, atol=0.01, rtol=0)
        laws.append(law)
    assert (laws[0] - laws[1]).abs().max() > 0.03
