"""Networks, samplers, recipes and conformance of what the plugin registers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from exact_orders import Ordered, masked, pair_source
from fewstep_orders.bounds import order_bound
from fewstep_orders.exponents import ExponentClock, Family, velocity
from fewstep_orders.keys_and_checks import KeysAndChecks
from test_gradient import FAMILY, network
from torch import Generator, Tensor

from fewstep import DATASETS, METRICS, PROCESSES, SAMPLERS
from fewstep.core.errors import RecipeError, UserError
from fewstep.denoisers.exact import exact_denoiser
from fewstep.metrics.base import DrawnFrom
from fewstep.predictions.base import Prediction
from fewstep.processes.base import discrete
from fewstep.recipe import load_recipe, parse_recipe
from fewstep.runtime.streams import SampleStreams
from fewstep.testing import check_dataset, check_metric, check_objective
from fewstep.testing.statistics import SIGMAS, assert_same_distribution

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
SOURCE = {"type": "keys_and_checks", "vocab_size": 4, "keys": 3, "size": 64, "held_out": 64}


@pytest.mark.parametrize("config", ["learned_order", {"type": "fixed_order", "exponents": [0.2, 1, 0.5, 1.3, 2, 0.4]}])
def test_the_objectives_keep_the_contract(config: Any) -> None:
    check_objective(config, processes=("masked",), steps=4)


def test_data_and_metrics_keep_the_contract() -> None:
    check_dataset(SOURCE)
    for metric in ("broken_checks", "order_separation", {"type": "order_bound", "steps": 8, "evaluations": 2}):
        check_metric(metric, data={"type": "keys_and_checks", "size": 512, "held_out": 64})


def test_the_source_is_keys_and_what_follows_from_them() -> None:
    source = DATASETS.build({"type": "keys_and_checks", "size": 20_000})
    assert isinstance(source, KeysAndChecks)
    keys, checks = source.split(source.train[:])
    assert torch.equal(source.table[keys[:, 7], keys[:, 0]], checks[:, 7])
    counts = torch.bincount(keys[:, 2] * 8 + keys[:, 3], minlength=64)
    assert_same_distribution(counts, torch.full((64,), 1 / 64).double(), "keys")
    assert torch.equal(source.log_likelihood(source.train[:9]), torch.full((9,), -source.entropy).double())
    assert int(source.is_key.sum()) == 8
    wrong = source.train[:2].clone()
    wrong[:, source.places[-1]] += 1
    wrong %= 8
    assert bool((source.log_likelihood(wrong) == -torch.inf).all())
    assert [line.count("!") for line in source.to_text(wrong)] == [1, 1]
    broken = METRICS.build("broken_checks", dataset=source)
    broken.update(wrong)
    assert broken.compute()["broken_checks"] == 1 / 8


def test_exponents_have_their_mean_and_range() -> None:
    """The ends of the range need one position against all others; halves of the positions reach half as far."""
    scores = torch.full((3, 16), -40.0)
    scores[0, 5], scores[1], scores[1, 5], scores[2, :8] = 40.0, 40.0, -40.0, 40.0
    e = FAMILY.exponents(scores)
    assert torch.allclose(e.mean(1), torch.full((3,), 0.7))
    assert torch.allclose(e[:, 5], torch.tensor([0.7 + 0.65 * 15 / 16, 0.7 - 0.65 * 15 / 16, 0.7 + 0.65 / 2]))
    assert torch.allclose(e[2, 8:], torch.full((8,), 0.7 - 0.65 / 2))


def test_no_spread_is_the_schedule_polynomial() -> None:
    """States and exponents are identical, rates to rounding."""
    polynomial = {"type": "masked", "schedule": {"type": "polynomial", "exponent": 0.7, "eps": 1e-4}}
    theirs, ours = discrete(PROCESSES.build(polynomial, vocab_size=4)), masked(4, 1e-4)
    exponents = network(Family(0.7, 0.0)).forward_exponents(torch.zeros(400, 6, dtype=torch.long))
    assert torch.equal(exponents, torch.full((400, 6), 0.7, dtype=torch.float64))
    rng = Generator().manual_seed(1)
    x, t = torch.randint(4, (400, 6), generator=rng), torch.rand(400, generator=rng, dtype=torch.float64)
    states = [
        process.corrupt(x, times, generator=Generator().manual_seed(2)).x_t
        for process, times in ((theirs, t), (ours, ExponentClock(exponents)(t)))
    ]
    assert torch.equal(*states)
    rates = velocity(ours.schedule, exponents, t)
    assert torch.allclose(rates, theirs.schedule.elbo_weight(t)[:, None].expand(400, 6), rtol=1e-12)


def test_a_step_reveals_by_the_clock_of_the_reverse_head() -> None:
    student, count = network(FAMILY), 20_000
    z = student.process.prior((1, 6), device="cpu", generator=None)
    with torch.no_grad():
        clock = student(z, torch.ones(1)).clock
    assert isinstance(clock, ExponentClock)
    e = clock.exponents[0].double()
    assert float(e.std()) > 0.01
    shown: dict[float, Tensor] = {}
    SAMPLERS.build("ancestral").sample(
        student,
        count,
        steps=2,
        generator=Generator().manual_seed(1),
        on_step=lambda state: shown.update({state.s: state.x}),
    )
    revealed, expected = (shown[0.5] != 4).double().mean(0), 1 - _noise(0.5, e) / _noise(1.0, e)
    assert bool(((revealed - expected).abs() < SIGMAS * (expected * (1 - expected) / count).sqrt()).all())


def _noise(t: float, e: Tensor) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64) ** e


def test_a_clock_that_reads_the_state_draws_from_the_exact_distribution() -> None:
    source = pair_source(3)

    def later_when_one_is_seen(z: Tensor) -> Tensor:
        seen = (z == 1).sum(1, keepdim=True)
        return 0.3 + 1.5 / (1 + seen + torch.arange(3, dtype=torch.float64))

    oracle = Ordered(exact_denoiser(source, masked(2)), later_when_one_is_seen)
    x = SAMPLERS.build("ancestral").sample(oracle, 4000, steps=128, generator=Generator().manual_seed(2)).x
    index = x[:, 0] * 4 + x[:, 1] * 2 + x[:, 2]
    assert_same_distribution(torch.bincount(index, minlength=8), source.ngram_probs(3).flatten(), "a clock of states")


def test_separation_counts_keys_before_checks() -> None:
    source = DATASETS.build(SOURCE)
    metric = METRICS.build("order_separation", dataset=source)
    assert isinstance(source, KeysAndChecks)
    student = network(Family(fixed=tuple(torch.where(source.is_key, 1.3, 0.2).tolist())))
    assert metric.measure(DrawnFrom(student, None)) == {"forward_auc": 1.0, "reverse_auc": 1.0}  # type: ignore[arg-type]
    student = network(Family(fixed=tuple(torch.where(source.is_key, 0.2, 1.3).tolist())))
    assert metric.measure(DrawnFrom(student, None)) == {"forward_auc": 0.0, "reverse_auc": 0.0}  # type: ignore[arg-type]


def test_the_bound_of_a_network_reads_its_forward_head() -> None:
    student, x = network(FAMILY), torch.randint(4, (64, 6), generator=Generator().manual_seed(0))
    out = order_bound(student, x, [1.0, 0.75, 0.5, 0.25, 0.0], SampleStreams(0, range(64)))
    assert float(out.mismatch.mean()) > 0
    assert bool((out.nats > out.mismatch).all())


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_the_recipes_are_valid(path: Path) -> None:
    assert load_recipe(path).recipe.name == path.stem


def _recipe(**sections: Any) -> dict[str, Any]:
    return {
        "name": "x",
        "data": {"type": "markov", "length": 6},
        "process": "masked",
        "backbone": {"type": "transformer", "width": 16, "depth": 1, "heads": 2},
        "objective": "learned_order",
        "train": {"steps": 1},
        **sections,
    }


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"process": "uniform"}, "process 'uniform' has no masks"),
        ({"sampler": "first_hitting"}, "decide which positions turn clean first"),
        ({"output": "leave_one_out"}, "have a clock of their own"),
        ({"backbone": {"type": "block_transformer", "block_size": 2}, "sampler": "block_ancestral"}, "block by block"),
        ({"objective": {"type": "learned_order", "spread": 0.7}}, "must be below mean_exponent"),
        ({"objective": {"type": "fixed_order", "exponents": [1, 2]}}, "2 exponents for samples of 6 tokens"),
        ({"objective": {"type": "fixed_order", "exponents": [0, 2]}}, "greater than 0"),
        ({"supervision": {"type": "sparse"}}, "no sum over tokens"),
        ({"evaluate": {"metrics": ["broken_checks"]}}, "scores keys_and_checks only"),
    ],
)
def test_what_cannot_work_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(_recipe(**sections))


def test_a_wrong_number_of_exponents_is_refused_where_the_data_say_it_late() -> None:
    with pytest.raises(UserError, match="5 exponents for samples of 6 tokens"):
        network(Family(fixed=(1.0,) * 5))


def test_shaping_keeps_the_clock_of_a_network() -> None:
    student = network(FAMILY)
    prediction: Prediction = student(torch.full((2, 6), 4), torch.ones(2))
    assert prediction.shaped(lambda rows: rows).clock is prediction.clock
