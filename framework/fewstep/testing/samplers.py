"""Conformance of samplers: repeatability, clean tokens, fixed prompts, count of evaluations, exactness in the limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.core.registry import Raw
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.exact import exact_denoiser
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES, Process
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import SAMPLERS, Sampler, Samples, StepState
from fewstep.testing.statistics import assert_same_distribution

MakesOracle = Callable[[Markov, Process], Denoiser]
"""An exact denoiser of a source and a process."""


def check_sampler(
    config: Raw,
    *,
    steps: int = 128,
    exact: bool = False,
    processes: Sequence[str] | None = None,
    oracle: MakesOracle | None = None,
) -> None:
    """Assert that a sampler keeps the contract of `Sampler` on an oracle denoiser, for each process that it knows.

    Args:
        steps: number of steps after which the sampler's distribution is exact within the resolution of the test.
        exact: whether its settings make it exact although its class does not declare it.
        processes: names of its processes, if it knows fewer than all of its spaces.
        oracle: makes the denoiser, for samplers that need more of one than predictions; None is `exact_denoiser`.

    Raises:
        AssertionError: a check fails; the message names it.
    """
    source = Markov(Markov.Config(vocab_size=2, length=3, successors=1, smoothing=0.4, size=8))
    sampler = SAMPLERS.build(config)
    for name in processes or _processes(sampler):
        case = _Case(sampler, source, PROCESSES.build(name, vocab_size=2), oracle)
        _check_contract(case)
        _check_prompt(case)
        _check_streams(case)
        if sampler.traits.exact or exact:
            _check_exact(case, steps)
            _check_exact_prompt(case, steps)


def _processes(sampler: Sampler) -> list[str]:
    """Processes of the sampler's spaces: masked and uniform for ids, all registered ones for vectors."""
    names = ["masked"] if sampler.traits.masks_only else ["masked", "uniform"]
    if "discrete" not in sampler.traits.spaces:
        names = []
    if "continuous" in sampler.traits.spaces:
        names += [entry.name for entry in PROCESSES.entries() if entry.cls.space == "continuous"]
    assert names, f"no process is registered of the spaces {sorted(sampler.traits.spaces)}"
    return names


@dataclass(frozen=True)
class _Case:
    """A sampler on a source, with a process and whatever makes the denoiser."""

    sampler: Sampler
    source: Markov
    process: Process
    makes: MakesOracle | None

    def oracle(self) -> Denoiser:
        if self.makes is not None:
            return self.makes(self.source, self.process)
        return exact_denoiser(self.source, self.process, block_size=1 if self.sampler.traits.gives_context else None)

    @property
    def usual_steps(self) -> int:
        return self.sampler.traits.only_steps or 4

    def draw(self, count: int, steps: int, seed: int) -> Samples:
        generator = torch.Generator().manual_seed(seed)
        return self.sampler.sample(self.oracle(), count, steps=steps, generator=generator)


def _check_contract(case: _Case) -> None:
    for steps in filter(case.sampler.traits.takes, (1, 2, 5)):
        states: list[StepState] = []
        oracle = case.oracle()
        generator = torch.Generator().manual_seed(0)
        out = case.sampler.sample(oracle, 6, steps=steps, generator=generator, on_step=states.append)
        assert out.x.shape == (6, case.source.spec.length)
        assert out.x.dtype == torch.long
        assert int(out.x.max()) < case.process.vocab_size, "noise is left in the samples"
        evaluations = oracle.evaluated / 6
        assert out.nfe == evaluations, f"reports {out.nfe} evaluations a sample, the network counted {evaluations}"
        assert states, "on_step was never called"
        assert torch.equal(states[-1].x, out.x), "the last state shown must be the result"
        assert states[-1].s == 0.0
        again = case.draw(6, steps, 0)
        assert torch.equal(out.x, again.x), "the same seed must give the same samples"
    usual = case.usual_steps
    other = case.draw(64, usual, 1)
    assert not torch.equal(other.x, case.draw(64, usual, 2).x), "seeds must matter"


def _check_prompt(case: _Case) -> None:
    """Every state holds the tokens of the prompt."""
    generator = torch.Generator().manual_seed(4)
    prompt = torch.randint(-1, 2, (24, case.source.spec.length), generator=generator)

    def compare(x: Tensor, where: str) -> None:
        assert bool((x == prompt)[prompt >= 0].all()), f"tokens of the prompt were changed in {where}"

    for steps in filter(case.sampler.traits.takes, (1, 4)):
        out = case.sampler.sample(
            case.oracle(),
            len(prompt),
            steps=steps,
            generator=generator,
            cond=Condition(prompt=prompt),
            on_step=lambda state: compare(state.x, f"step {state.index}"),
        )
        compare(out.x, "the result")


def _check_streams(case: _Case) -> None:
    """Each sample depends only on its own stream: samples do not depend on the size of batches."""

    def draw(numbers: range) -> Tensor:
        oracle = case.oracle()
        streams = SampleStreams(5, numbers)
        return case.sampler.sample(oracle, len(numbers), steps=case.usual_steps, generator=streams).x

    parts = [draw(range(5)), draw(range(5, 6)), draw(range(6, 16))]
    assert torch.equal(draw(range(16)), torch.cat(parts)), "samples depend on the size of the batch"


def _check_exact(case: _Case, steps: int) -> None:
    probs = case.source.ngram_probs(3).flatten()
    samples = case.draw(4000, steps, 3).x
    assert int(samples.max()) < case.process.vocab_size, f"noise is left in the samples of {steps} steps"
    index = samples[:, 0] * 4 + samples[:, 1] * 2 + samples[:, 2]
    assert_same_distribution(torch.bincount(index, minlength=8), probs, f"{case.process.config.type}, {steps} steps")


def _check_exact_prompt(case: _Case, steps: int) -> None:
    """Samples that begin or end with a known token follow the conditional distribution; block by block: that begin."""
    joint, generator = case.source.ngram_probs(3), torch.Generator().manual_seed(6)
    for place, probs in ((0, joint[1]), (2, joint[..., 1])):
        if place and case.sampler.traits.gives_context:
            break
        prompt = torch.full((4000, 3), -1)
        prompt[:, place] = 1
        cond = Condition(prompt=prompt)
        oracle = case.oracle()
        x = case.sampler.sample(oracle, len(prompt), steps=steps, generator=generator, cond=cond).x
        first, second = (x[:, i] for i in range(3) if i != place)
        label = f"{case.process.config.type}, {steps} steps, token {place} known"
        assert_same_distribution(torch.bincount(2 * first + second, minlength=4), probs.flatten(), label)
