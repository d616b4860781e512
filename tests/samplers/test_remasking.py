"""Samplers that go back: remdm, corrector and psi keep the law at every time, and what follows from their formulas.

Statistical tests fail by chance about once in a billion runs (six standard deviations), and their seeds are fixed.
"""

from __future__ import annotations

import itertools
from itertools import pairwise
from typing import Any

import pytest
import torch
from enumerable_denoisers import TimedOracle
from noised_laws import counts, distance, kernel, law_at, level, noised, walked
from pydantic import ValidationError
from torch import Generator, Tensor

from fewstep.core.errors import RecipeError
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import PROCESSES, DiscreteProcess
from fewstep.recipe import load_recipe
from fewstep.runtime.streams import Randomness, SampleStreams
from fewstep.samplers import remdm
from fewstep.samplers.base import SAMPLERS, StepState
from fewstep.samplers.walk import Step, Walk, WalkSampler
from fewstep.testing.statistics import assert_same_distribution, chi_square_sigmas

V = 3
LAW = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)

REMDM: dict[str, dict[str, Any]] = {
    "cap": {"type": "remdm", "eta": 0.1},
    "rescale": {"type": "remdm", "strategy": "rescale", "eta": 0.3},
    "confidence": {"type": "remdm", "strategy": "confidence", "eta": 0.5},
    "forward_backward": {"type": "remdm", "strategy": "forward_backward"},
    "dfm": {"type": "remdm", "strategy": "dfm", "strength": 2.0},
}
OTHERS: dict[str, dict[str, Any]] = {
    "corrector": {"type": "corrector", "corrections": 2, "reach": 0.8},
    "psi": {"type": "psi", "kappa": [0.7]},
}
CASES = [("masked", name) for name in REMDM] + [(p, name) for p in ("masked", "uniform") for name in OTHERS]
CONFIGS = {**REMDM, **OTHERS}


def sampler_of(config: dict[str, Any]) -> WalkSampler:
    sampler = SAMPLERS.build(config)
    assert isinstance(sampler, WalkSampler)
    return sampler


def process_of(name: str, vocab_size: int = V, eps: float = 1e-4) -> DiscreteProcess:
    return PROCESSES.build({"type": name, "schedule": {"type": "linear", "eps": eps}}, vocab_size=vocab_size)


@pytest.mark.parametrize(("name", "case"), CASES)
@pytest.mark.parametrize("times", [[0.9, 0.5], [0.5, 0.1], [0.8, 0.6, 0.35, 0.2]])
def test_one_token_keeps_its_law_in_steps_of_any_length(name: str, case: str, times: list[float]) -> None:
    """z_t from q(z_t), steps with the exact posterior, and z_s has the law q(z_s)."""
    process, rng = process_of(name), Generator().manual_seed(0)
    data = torch.multinomial(LAW, 20_000, replacement=True, generator=rng)[:, None]
    out = walked(sampler_of(CONFIGS[case]), TimedOracle(process, LAW), noised(process, data, times[0], rng), times, rng)
    assert_same_distribution(counts(out, process.num_states), law_at(process, LAW, times[-1]), f"{case}, {name}")


@pytest.mark.parametrize(("name", "case"), [c for c in CASES if c[1] != "confidence"])
def test_independent_tokens_keep_their_joint_law(name: str, case: str) -> None:
    process, rng = process_of(name), Generator().manual_seed(1)
    data = torch.multinomial(LAW, 40_000, replacement=True, generator=rng).view(-1, 2)
    out = walked(
        sampler_of(CONFIGS[case]), TimedOracle(process, LAW), noised(process, data, 0.7, rng), [0.7, 0.5, 0.4], rng
    )
    law = law_at(process, torch.outer(LAW, LAW), 0.4)
    assert_same_distribution(counts(out, process.num_states), law.flatten(), f"{case}, {name}")


SMALL_MOVES: list[tuple[str, dict[str, Any]]] = [
    ("masked", {"type": "remdm", "eta": 0.02}),
    ("masked", {"type": "remdm", "strategy": "rescale", "eta": 0.02}),
    ("masked", {"type": "remdm", "strategy": "forward_backward"}),
    ("masked", {"type": "remdm", "strategy": "dfm", "strength": 4.0}),
    *((name, {"type": "corrector", "corrections": 2}) for name in ("masked", "uniform")),
    *((name, {"type": "psi", "kappa": [0.97]}) for name in ("masked", "uniform")),
]


@pytest.fixture(scope="module")
def source() -> Markov:
    return Markov(Markov.Config(vocab_size=2, length=3, successors=1, smoothing=0.4, size=16))


@pytest.mark.parametrize(("name", "config"), SMALL_MOVES)
def test_a_correlated_law_is_kept_by_small_moves(name: str, config: dict[str, Any], source: Markov) -> None:
    """Exact z_t at t = 0.6, 50 steps, and z at 0.4 has the exact joint law."""
    process, rng = process_of(name, vocab_size=2), Generator().manual_seed(2)
    z = noised(process, source.draw(6000, rng), 0.6, rng)
    times = [0.6 - 0.2 * i / 50 for i in range(51)]
    out = walked(sampler_of(config), exact_denoiser(source, process), z, times, rng)
    law = law_at(process, source.ngram_probs(3), 0.4)
    assert_same_distribution(counts(out, process.num_states), law.flatten(), f"{config}, {name}")


def test_a_correlated_law_is_kept_in_the_loop(source: Markov) -> None:
    """60 moves at alpha = 0.9, of which each leaves the law of z at this level as it is."""
    process, rng = process_of("masked", vocab_size=2), Generator().manual_seed(3)
    sampler = sampler_of({"type": "remdm", "strategy": "loop", "eta": 0.02})
    hold = float(process.schedule.time_of(torch.tensor(0.9, dtype=torch.float64)))
    z = noised(process, source.draw(8000, rng), hold, rng)
    out = walked(sampler, exact_denoiser(source, process), z, [0.5 - 0.4 * i / 60 for i in range(61)], rng)
    assert (out != z).double().mean() > 0.1
    law = law_at(process, source.ngram_probs(3), hold)
    assert_same_distribution(counts(out, process.num_states), law.flatten(), "loop")


def test_these_tests_notice_masks_that_are_revealed_too_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    process, rng = process_of("masked"), Generator().manual_seed(0)
    plain = remdm.reveal_chance
    monkeypatch.setattr(remdm, "reveal_chance", lambda sigma, a_t, a_s: plain(torch.zeros_like(sigma), a_t, a_s))
    data = torch.multinomial(LAW, 20_000, replacement=True, generator=rng)[:, None]
    z = noised(process, data, 0.5, rng)
    out = walked(sampler_of(CONFIGS["cap"]), TimedOracle(process, LAW), z, [0.5, 0.1], rng)
    assert chi_square_sigmas(counts(out, V + 1), law_at(process, LAW, 0.1)) > 6


CONVERGING: list[tuple[str, dict[str, Any]]] = [
    *SMALL_MOVES,
    ("masked", {"type": "remdm", "strategy": "loop"}),
    *((name, {"type": "psi", "kappa": [1, 0.95, 1], "switches": [0.55, 0.05]}) for name in ("masked", "uniform")),
]


@pytest.mark.medium
@pytest.mark.parametrize(("name", "config"), CONVERGING)
def test_the_law_converges_with_the_steps(name: str, config: dict[str, Any]) -> None:
    """A correlated source: total variation falls with the steps, down to what exact samples have."""
    source = Markov(Markov.Config(vocab_size=V, length=4, successors=1, smoothing=0.2, size=16))
    oracle, many = exact_denoiser(source, process_of(name)), 4000
    floor = distance(source.draw(many, Generator().manual_seed(0)), source)
    found = []
    for steps in (1, 4, 16, 96):
        out = sampler_of(config).sample(oracle, many, steps=steps, generator=Generator().manual_seed(steps))
        found.append(distance(out.x, source))
    assert found[0] > 5 * floor
    assert all(later < earlier for earlier, later in itertools.pairwise(found)), found
    assert found[-1] < 1.6 * floor, f"{found}, floor {floor}"


def streams(kind: str) -> Randomness:
    return Generator().manual_seed(7) if kind == "generator" else SampleStreams(7, range(50))


@pytest.mark.parametrize("name", ["masked", "uniform"])
@pytest.mark.parametrize("kind", ["generator", "streams"])
@pytest.mark.parametrize(
    "config", [{"type": "psi", "kappa": [1.0]}, {"type": "corrector", "corrections": 0}], ids=["psi", "corrector"]
)
def test_without_corrections_they_are_ancestral(name: str, kind: str, config: Any, source: Markov) -> None:
    oracle = exact_denoiser(source, process_of(name, vocab_size=2))
    a, b = (
        SAMPLERS.build(c).sample(oracle, 50, steps=9, generator=streams(kind)).x
        for c in (config, {"type": "ancestral"})
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.3])
def test_remdm_is_psi(sigma: float) -> None:
    """kappa = 1 - sigma / (1 - alpha_s): both draw from one row, in every state."""
    process, t, s = process_of("masked"), 0.8, 0.5
    alpha_t, alpha_s = level(process.schedule, t), level(process.schedule, s)
    kappa = 1 - sigma / (1 - alpha_s)
    reveal = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
    assert kappa * (alpha_s - alpha_t) / (1 - alpha_t) + (1 - kappa) * alpha_s == pytest.approx(reveal)
    configs: dict[str, dict[str, Any]] = {
        "remdm": {"type": "remdm", "eta": sigma},
        "psi": {"type": "psi", "kappa": [kappa]},
    }
    for z in range(V + 1):
        clean = reveal * LAW if z == V else torch.eye(V, dtype=torch.float64)[z] * (1 - sigma)
        row = torch.cat((clean, 1 - clean.sum()[None]))
        for which, config in configs.items():
            start = torch.full((20_000, 1), z)
            out = walked(sampler_of(config), TimedOracle(process, LAW), start, [t, s], Generator().manual_seed(z))
            assert_same_distribution(counts(out, V + 1), row, f"{which} from {z}, sigma {sigma}")


@pytest.mark.parametrize("kappa", [0.0, 0.6])
def test_psi_rows_of_the_uniform_process(kappa: float) -> None:
    """kappa q(z_s | z_t) + (1 - kappa) [alpha_s p + (1 - alpha_s) / V], from every state."""
    process, t, s = process_of("uniform"), 0.8, 0.5
    oracle, many = TimedOracle(process, LAW), 20_000
    for z in range(V):
        start = torch.full((many, 1), z)
        p = LAW * kernel(process, level(process.schedule, t))[:, z]
        p = p / p.sum()
        times = [torch.tensor([value], dtype=torch.float64) for value in (t, s)]
        back = sum(
            p[x] * process.posterior_probs(torch.tensor([[x]]), torch.tensor([[z]]), *times)[0, 0] for x in range(V)
        )
        row = kappa * back + (1 - kappa) * p @ kernel(process, level(process.schedule, s))
        out = walked(sampler_of({"type": "psi", "kappa": [kappa]}), oracle, start, [t, s], Generator().manual_seed(z))
        assert_same_distribution(counts(out, V), row, f"psi from {z}")


def test_phases_of_kappa() -> None:
    psi: Any = sampler_of({"type": "psi", "kappa": [1, 0.9, 0.5], "switches": [0.55, 0.05]})
    assert [psi.kappa(t) for t in (1.0, 0.56, 0.55, 0.06, 0.05, 0.01)] == [1.0, 1.0, 0.9, 0.9, 0.5, 0.5]


def test_corrections_see_what_is_given(source: Markov, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a correction noises again is not what is given."""
    oracle, given = (
        exact_denoiser(source, process_of("uniform", vocab_size=2)),
        torch.tensor([[0, -1, 1]]).repeat(20, 1),
    )
    real = oracle.predict

    def predict(x_t: Tensor, *rest: Any) -> Any:
        assert bool((x_t == given)[given >= 0].all())
        return real(x_t, *rest)

    monkeypatch.setattr(oracle, "predict", predict)
    rng, cond = Generator().manual_seed(0), Condition(prompt=given)
    SAMPLERS.build({"type": "corrector", "corrections": 2}).sample(oracle, 20, steps=4, generator=rng, cond=cond)


def test_corrections_are_counted(source: Markov) -> None:
    oracle = exact_denoiser(source, process_of("uniform", vocab_size=2))
    config = {"type": "corrector", "corrections": 3}
    out = SAMPLERS.build(config).sample(oracle, 5, steps=4, generator=Generator().manual_seed(0))
    assert out.nfe == oracle.nfe == 16


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"strategy": "cap", "eta": 0.01}, 0.01),
        ({"strategy": "cap", "eta": 0.9}, 0.8),
        ({"strategy": "rescale", "eta": 0.01}, 0.008),
        ({"strategy": "confidence", "eta": 0.01}, 0.008),
        ({"strategy": "loop", "eta": 0.01}, 0.01),
        ({"strategy": "forward_backward"}, 0.2),
        ({"strategy": "dfm", "strength": 1}, 0.25**0.25 * 0.2),
        ({"strategy": "dfm", "strength": 10}, 0.8),
    ],
)
def test_sigma(settings: dict[str, Any], expected: float) -> None:
    """A step from t = 0.5 in which alpha rises from 0.5 to 0.6, so that sigma is at most 0.4 / 0.5."""
    sampler: Any = sampler_of({"type": "remdm", **settings})
    before, after = (torch.tensor([[value]], dtype=torch.float64) for value in (0.5, 0.6))
    assert float(sampler.sigma(0.5, before, after)) == pytest.approx(expected)
    least = remdm.reveal_chance(torch.zeros_like(before), before, after)
    assert float(least) == pytest.approx(0.2)
    most = remdm.reveal_chance(remdm.largest_sigma(before, after), before, after)
    assert float(most) == pytest.approx(1.0)


def test_the_loop_holds_alpha() -> None:
    """A linear schedule has the alpha of the paper's loop; sigma is 0 outside."""
    process = process_of("masked", eps=0.0)
    sampler: Any = sampler_of({"type": "remdm", "strategy": "loop", "eta": 0.02})
    for t in (1.0, 0.7, 0.56):
        assert level(process.schedule, sampler.loop_time(process, t)) == pytest.approx(0.9 * (1 - t) / 0.45)
    for t in (0.55, 0.3, 0.05):
        assert level(process.schedule, sampler.loop_time(process, t)) == pytest.approx(0.9)
    for t in (0.04, 0.01, 0.0):
        assert level(process.schedule, sampler.loop_time(process, t)) == pytest.approx(1 - 0.1 * t / 0.05)
    half = torch.tensor([[0.9]], dtype=torch.float64)
    assert [float(sampler.sigma(t, half, half)) for t in (0.6, 0.55, 0.06, 0.05)] == [0.0, 0.02, 0.02, 0.0]


def test_masks_come_back_in_the_loop_alone(source: Markov) -> None:
    sampler = sampler_of({"type": "remdm", "strategy": "loop", "eta": 0.1})
    states: list[StepState] = []
    oracle, rng = exact_denoiser(source, process_of("masked", vocab_size=2)), Generator().manual_seed(0)
    sampler.sample(oracle, 200, steps=40, generator=rng, on_step=states.append)
    came_back = [state.t for before, state in itertools.pairwise(states) if ((before.x < 2) & (state.x == 2)).any()]
    assert len(came_back) > 15
    assert all(0.05 < t <= 0.55 for t in came_back)


def test_confidence_shares_sigma_out() -> None:
    """A softmax over what was drawn and is not given; masks are revealed for the mean."""
    drawn_with = torch.tensor([[0.9, 0.1, 0.3, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    clean = torch.tensor([[True, True, False, False], [False] * 4])
    got = remdm.by_confidence(torch.full((2, 4), 0.2, dtype=torch.float64), drawn_with, clean)
    soft = torch.tensor([-0.9, -0.1], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(got[0, :2], 0.2 * soft)
    torch.testing.assert_close(got[0, 2:], torch.full((2,), 0.1, dtype=torch.float64))
    assert bool(got[1].isfinite().all())


def test_confidence_remembers_what_tokens_were_drawn_with() -> None:
    process, x = process_of("masked"), torch.tensor([[V, V, 0], [1, V, V]])
    table = torch.rand(2, 3, V, generator=Generator().manual_seed(0), dtype=torch.float64)
    table = table / table.sum(-1, keepdim=True)
    prediction = TablePrediction(table.log(), x, process.to_predict(x))
    walk = Walk(TimedOracle(process, LAW), None, Condition(), None)
    walk.memory["drawn_with"] = torch.full((2, 3), 0.5, dtype=torch.float64)
    revealed = torch.tensor([[True, False, False], [False, True, False]])
    remdm.remember(walk, prediction, torch.tensor([[2, V, 0], [1, 0, V]]), revealed)
    expected = torch.tensor([[float(table[0, 0, 2]), 0.5, 0.5], [0.5, float(table[1, 1, 0]), 0.5]], dtype=torch.float64)
    torch.testing.assert_close(walk.memory["drawn_with"], expected)


@pytest.mark.parametrize("strategy", ["cap", "confidence"])
def test_given_tokens_are_not_counted(strategy: str, monkeypatch: pytest.MonkeyPatch, source: Markov) -> None:
    """Neither remasked nor part of what confidence normalises over, and each free token is masked again at times."""
    process, seen = process_of("masked", vocab_size=2), []
    given = torch.tensor([[0, -1, 1]]).repeat(400, 1)
    real = remdm.by_confidence

    def spy(sigma: Tensor, drawn_with: Tensor, clean: Tensor) -> Tensor:
        seen.append(clean)
        return real(sigma, drawn_with, clean)

    monkeypatch.setattr(remdm, "by_confidence", spy)
    sampler = sampler_of({"type": "remdm", "strategy": strategy, "eta": 0.9})
    states: list[StepState] = []
    cond = Condition(prompt=given)
    out = sampler.sample(
        exact_denoiser(source, process),
        400,
        steps=8,
        generator=Generator().manual_seed(0),
        cond=cond,
        on_step=states.append,
    )
    assert bool((out.x == given)[given >= 0].all())
    pairs = itertools.pairwise([state.x for state in states])
    assert any(bool(((a[:, 1] < 2) & (b[:, 1] == 2)).any()) for a, b in pairs)
    assert all(not clean[:, [0, 2]].any() for clean in seen)
    assert bool(seen) == (strategy == "confidence")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"type": "remdm", "t_on": 0.3, "t_off": 0.4}, r"the loop ends at t_off, which must lie below t_on \(0.3\)"),
        ({"type": "remdm", "t_on": 0.04}, "which must lie below t_on"),
        ({"type": "remdm", "strategy": "capped"}, "did you mean 'cap'"),
        ({"type": "remdm", "eta": 1.5}, "less than or equal to 1"),
        ({"type": "psi", "kappa": [1.2]}, "each share must lie between 0 and 1"),
        ({"type": "psi", "kappa": [1, 0.9]}, "2 phases of kappa take 1 times between them, not 0"),
        ({"type": "psi", "kappa": [1, 0.9, 1], "switches": [0.1, 0.5]}, "times must fall"),
        ({"type": "corrector", "reach": 0}, "greater than 0"),
    ],
)
def test_settings_that_make_no_sense(config: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        SAMPLERS.parse(config)


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["sampler={type: remdm, t_on: 0.7}"], "--set:1: sampler.t_on: strategy 'cap' does not read it; loop would"),
        (
            ["process=uniform", "sampler=remdm"],
            "--set:2: sampler.type: 'remdm' fills in masks, and the uniform",
        ),
    ],
)
def test_settings_that_do_not_fit_the_recipe(sets: list[str], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("smoke-teacher", sets)
    assert any(str(problem).startswith(told) for problem in caught.value.problems), str(caught.value)


def test_a_loop_may_be_one_step(source: Markov) -> None:
    """The last step of all reveals everything, wherever the loop is."""
    sampler, process = sampler_of({"type": "remdm", "strategy": "loop"}), process_of("masked", vocab_size=2)
    walk = Walk(exact_denoiser(source, process), sampler.config, Condition(), Generator().manual_seed(0))
    x = sampler.step(walk, walk.start(8, 3), Step(0, 1, 1.0, 0.0))
    assert bool((x < 2).all())


@pytest.mark.parametrize(
    ("strategy", "tokens"),
    [("cap", 3.9), ("rescale", 3.7), ("confidence", 40), ("loop", 9.2), ("forward_backward", 15.6), ("dfm", 93)],
)
def test_each_strategy_masks_tokens_again_by_default(strategy: str, tokens: float) -> None:
    """Tokens masked again in a sample of 16, in 64 steps; by confidence it was .36 with the eta of cap."""
    process = PROCESSES.build("masked", vocab_size=V)
    source = Markov(Markov.Config(vocab_size=V, length=16, successors=2))
    states = [torch.full((400, 16), V)]
    sampler_of({"type": "remdm", "strategy": strategy}).sample(
        exact_denoiser(source, process),
        400,
        steps=64,
        generator=Generator().manual_seed(0),
        on_step=lambda state: states.append(state.x),
    )
    again = sum(int(((before != V) & (after == V)).sum()) for before, after in pairwise(states)) / 400
    assert again == pytest.approx(tokens, rel=0.1)


def test_saved_recipes_with_the_one_eta_of_old_are_valid() -> None:
    """It stands in them also for strategies that do not read it, and is kept where they do."""
    for strategy in ("dfm", "forward_backward", "confidence"):
        section = f"sampler={{type: remdm, strategy: {strategy}, eta: 0.008}}"
        assert load_recipe("markov-teacher", [section]).recipe.sampler.eta == 0.008  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match="does not read it"):
        load_recipe("markov-teacher", ["sampler={type: remdm, strategy: dfm, eta: 0.02}"])
