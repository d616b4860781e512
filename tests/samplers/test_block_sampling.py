"""Block-autoregressive sampling: exact laws, kept keys and values against reading all anew, and what is counted."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Generator, Tensor

from fewstep.adapters.noise.base import NOISE_INPUTS
from fewstep.adapters.step import StepInput, StepInputConfig
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.core.errors import RecipeError
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.exact import exact_denoiser
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES
from fewstep.recipe import parse_recipe
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import SAMPLERS, StepState
from fewstep.testing.statistics import assert_same_distribution

V, L = 3, 4


@pytest.fixture(scope="module")
def source() -> Markov:
    return Markov(Markov.Config(vocab_size=V, length=L, successors=2, smoothing=0.1, size=2048))


def assert_source_law(x: Tensor, source: Markov, what: str) -> None:
    every = torch.tensor(list(itertools.product(range(V), repeat=L)))
    index = (x * V ** torch.arange(L - 1, -1, -1)).sum(1)
    assert_same_distribution(torch.bincount(index, minlength=V**L), source.log_likelihood(every).exp(), what)


@pytest.mark.parametrize("name", ["masked", "uniform"])
@pytest.mark.parametrize(("size", "steps"), [(1, 1), (2, 100), (4, 100)])
def test_exact_predictions_give_the_exact_law(name: str, size: int, steps: int, source: Markov) -> None:
    """Blocks of one token need one step: that is autoregressive sampling, exact for any number of steps."""
    oracle = exact_denoiser(source, PROCESSES.build(name, vocab_size=V), block_size=size)
    out = SAMPLERS.build("block_ancestral").sample(oracle, 6000, steps=steps, generator=Generator().manual_seed(1))
    assert_source_law(out.x, source, f"{name}, blocks of {size}")


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_blocks_by_ancestral_steps_are_those_of_block_ancestral(process: str) -> None:
    """With shared settings, a setting of the inner sampler, and a prompt that ends within a block."""
    shared = {"temperature": 0.8, "grid": "cosine", "greedy_tail": 1}
    inner = {"posterior": "plugged"}
    prompt = torch.full((4, 12), -1)
    prompt[:, :4] = 1
    model = network(NetworkDenoiser, process)
    drawn = [
        SAMPLERS.build(config).sample(
            model, 4, steps=3, generator=SampleStreams(3, range(4)), cond=Condition(prompt=prompt)
        )
        for config in (
            {"type": "block_ancestral", **shared, **inner},
            {"type": "block", **shared, "inner": {"type": "ancestral", **inner}},
        )
    ]
    assert torch.equal(drawn[0].x, drawn[1].x)
    assert (drawn[0].nfe, drawn[0].passes) == (drawn[1].nfe, drawn[1].passes)


@pytest.mark.parametrize(
    "inner",
    [
        "cached_ancestral",
        "first_hitting",
        "flow",
        "corrector",
        {"type": "entropy_bounded", "budget": 0.0},
        {"type": "confidence", "order": "margin"},
    ],
    ids=str,
)
def test_exact_samplers_are_exact_in_blocks(inner: Any, source: Markov) -> None:
    oracle = exact_denoiser(source, PROCESSES.build("masked", vocab_size=V), block_size=2)
    sampler = SAMPLERS.build({"type": "block", "inner": inner})
    assert_source_law(
        sampler.sample(oracle, 6000, steps=64, generator=Generator().manual_seed(1)).x, source, str(inner)
    )


def test_blocks_that_a_prompt_fills_are_read_and_not_drawn() -> None:
    """Two blocks of three are given: confidence evaluates the third alone, in three of the ten steps."""
    states: list[StepState] = []
    model, sampler = network(NetworkDenoiser, "masked"), SAMPLERS.build({"type": "block", "inner": "confidence"})
    prompt = torch.randint(V, (2, 12), generator=Generator().manual_seed(0))
    prompt[:, 6:9] = -1
    out = sampler.sample(
        model,
        2,
        steps=10,
        generator=Generator().manual_seed(0),
        cond=Condition(prompt=prompt),
        on_step=states.append,
    )
    assert out.nfe == 3 + 3
    assert [state.index for state in states] == list(range(40))
    shown = [int((state.x[0, 6:9] != V).sum()) for state in states]
    assert shown == [0] * 20 + [1, 2] + [3] * 18
    assert torch.equal(out.x[prompt >= 0], prompt[prompt >= 0])


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ("block_ancestral", "'block_ancestral' cannot draw a block of a larger sample"),
        ("block", "'block' cannot draw a block of a larger sample"),
        ("semi_autoregressive", "'semi_autoregressive' cannot draw a block of a larger sample"),
        ("one_step", "'one_step' cannot draw a block of a larger sample"),
        ({"type": "hybrid", "closer": {"run": "r"}}, "'hybrid' asks a second network, which has read no blocks"),
        ({"type": "confidence", "temperature": 0.5}, "set temperature beside inner, not in it"),
    ],
    ids=str,
)
def test_inner_samplers_that_draw_no_blocks(inner: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SAMPLERS.build({"type": "block", "inner": inner})


def test_recipes_see_what_the_inner_sampler_of_blocks_cannot() -> None:
    recipe: dict[str, Any] = {
        "name": "r",
        "data": "markov",
        "process": "masked",
        "backbone": "block_transformer",
        "objective": "denoising",
        "train": {"steps": 1},
    }
    assert parse_recipe({**recipe, "sampler": "block"}).sampler.type == "block"
    for changes, message in (
        ({"sampler": {"type": "block", "inner": "confidence"}, "process": "uniform"}, "the uniform process has none"),
        ({"sampler": {"type": "block", "inner": "first_hitting", "grid": "cosine"}}, "the times of first_hitting"),
        ({"sampler": "block", "backbone": "transformer"}, "backbone 'transformer' has no blocks"),
        ({"sampler": "confidence"}, "samplers for it: block, block_ancestral"),
    ):
        with pytest.raises(RecipeError, match=message):
            parse_recipe({**recipe, **changes})


class Unkept(NetworkDenoiser):
    """Keeps nothing: each block is predicted from a pass over all noised and all clean tokens."""

    def read(self, prefix: object, block: object) -> object:  # type: ignore[override]
        return Denoiser.read(self, prefix, block)  # type: ignore[arg-type]

    def predict(
        self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Generator | None
    ) -> Prediction:
        assert cond.prefix is not None
        first, size = cond.prefix.length, x_t.shape[1]
        rest = torch.zeros(len(x_t), self.length - first - size, dtype=torch.long)
        whole = torch.cat((cond.prefix.ids, x_t, rest), 1)
        context = torch.cat((cond.prefix.ids, x_t % self.process.vocab_size, rest), 1)
        found = super().predict(whole, t, s, Condition(context=context), generator)
        here = slice(first, first + size)
        cut = type(found).__new__(type(found))
        cut.__dict__ = {**found.__dict__, "_hidden": found._hidden[:, here], "known": x_t}  # type: ignore[attr-defined]
        cut.where = self.process.to_predict(x_t)
        return cut


def network(kind: type[NetworkDenoiser], process: str) -> NetworkDenoiser:
    torch.manual_seed(0)
    law = PROCESSES.build(process, vocab_size=V)
    tokens = TokenSpace(law.num_states, V, 12)
    config = {"type": "block_transformer", "width": 16, "depth": 2, "heads": 2, "block_size": 3}
    backbone = BACKBONES.build({**config, "time_conditioned": True}, tokens=tokens)
    noise = NOISE_INPUTS.build({"type": "gaussian", "inject": "every_block"}, tokens=tokens, width=16, sites=2)
    model = kind(backbone, law, noise, StepInput(StepInputConfig(), 16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_what_is_kept_changes_nothing(process: str) -> None:
    """With both adapters: the predictions agree to 1e-5, and so the samples are the same."""
    kept, anew = network(NetworkDenoiser, process), network(Unkept, process)
    seen: list[list[Tensor]] = []
    samples = []
    for model in (kept, anew):
        rows: list[Tensor] = []
        true = model.predict

        def spy(*args: object, true: object = true, rows: list[Tensor] = rows) -> Prediction:
            found: Prediction = true(*args)  # type: ignore[operator]
            rows.append(found.dense_probs())
            return found

        model.predict = spy  # type: ignore[method-assign]
        sampler = SAMPLERS.build("block_ancestral")
        samples.append(sampler.sample(model, 5, steps=3, generator=Generator().manual_seed(2)).x)
        seen.append(rows)
    assert len(seen[0]) == 12
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert torch.equal(*samples)


def test_every_pass_over_a_block_is_counted_and_every_step_shown() -> None:
    states: list[StepState] = []
    model, sampler = network(NetworkDenoiser, "masked"), SAMPLERS.build("block_ancestral")
    out = sampler.sample(model, 2, steps=5, generator=Generator().manual_seed(0), on_step=states.append)
    assert out.nfe == 4 * 5 + 3
    assert out.passes == out.nfe / 4, "an evaluation computes one of four blocks"
    assert [state.index for state in states] == list(range(20))
    assert [state.s for state in states[4::5]] == [0.0] * 4
    assert torch.equal(states[9].x[:, :6], out.x[:, :6])
    assert (states[9].x[:, 6:] == V).all()
    assert torch.equal(states[-1].x, out.x)


def test_a_denoiser_without_blocks_is_refused(source: Markov) -> None:
    whole = exact_denoiser(source, PROCESSES.build("masked", vocab_size=V))
    with pytest.raises(ValueError, match="the denoiser predicts whole samples"):
        SAMPLERS.build("block_ancestral").sample(whole, 1, steps=1, generator=Generator())
    plain = BACKBONES.build({"type": "transformer", "width": 16, "heads": 2}, tokens=TokenSpace(4, 3, 4))
    with pytest.raises(ValueError, match="backbone transformer has no blocks"):
        NetworkDenoiser(plain, PROCESSES.build("masked", vocab_size=V)).read(None, torch.zeros(1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="call it with a prefix"):
        SAMPLERS.build("ancestral").sample(
            exact_denoiser(source, whole.process, block_size=2), 1, steps=1, generator=Generator()
        )


@pytest.mark.medium
def test_blocks_of_one_token_learn_the_transitions(source: Markov) -> None:
    """Trained autoregressively on the source, in seconds: its rows are those of the transition matrix."""
    torch.manual_seed(0)
    process = PROCESSES.build("masked", vocab_size=V)
    config = {"type": "block_transformer", "width": 32, "depth": 1, "heads": 2, "block_size": 1}
    model = NetworkDenoiser(BACKBONES.build(config, tokens=TokenSpace(V + 1, V, L)), process)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    masks = torch.full((256, L), process.mask_id)
    for step in range(200):
        x0 = source.train[256 * (step % 8) : 256 * (step % 8 + 1)]
        optimizer.zero_grad()
        model(masks, torch.ones(256), cond=Condition(context=x0)).nll(x0).mean().backward()
        optimizer.step()
    x0 = source.train[:256]
    with torch.no_grad():
        rows = model(masks, torch.ones(256), cond=Condition(context=x0)).dense_probs().double()
    wanted = torch.cat((source.initial.expand(256, 1, V), source.transition[x0[:, :-1]]), 1)
    assert (rows - wanted).abs().sum(-1).mean() / 2 < 0.04
