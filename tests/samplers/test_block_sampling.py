"""Block-autoregressive sampling: exact laws, kept keys and values against reading all anew, and what is counted."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Generator, Tensor

from fewstep.adapters.noise.base import NOISE_INPUTS
from fewstep.adapters.step import StepInput, StepInputConfig
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.exact import exact_denoiser
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES
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
    with pytest.raises(ValueError, match="this one does not"):
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
