"""Conformance of samplers: repeatability, clean tokens, fixed prompts, count of evaluations, exactness in the limit."""

from __future__ import annotations

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


def check_sampler(config: Raw, *, steps: int = 128, exact: bool = False) -> None:
    """Assert that a sampler keeps the contract of `Sampler` on an oracle denoiser, for each process that it knows.

    Args:
        steps: number of steps after which the sampler's distribution is exact within the resolution of the test.
        exact: whether its settings make it exact although its class does not declare it.

    Raises:
        AssertionError: a check fails; the message names it.
    """
    source = Markov(Markov.Config(vocab_size=2, length=3, successors=1, smoothing=0.4, size=8))
    sampler = SAMPLERS.build(config)
    for name in _processes(sampler):
        process = PROCESSES.build(name, vocab_size=2)
        _check_contract(sampler, source, process)
        _check_prompt(sampler, source, process)
        _check_streams(sampler, source, process)
        if sampler.traits.exact or exact:
            _check_exact(sampler, source, process, steps)
            _check_exact_prompt(sampler, source, process, steps)


def _processes(sampler: Sampler) -> list[str]:
    """Processes of the sampler's spaces: masked and uniform for ids, all registered ones for vectors."""
    names = ["masked"] if sampler.traits.masks_only else ["masked", "uniform"]
    if "discrete" not in sampler.traits.spaces:
        names = []
    if "continuous" in sampler.traits.spaces:
        names += [entry.name for entry in PROCESSES.entries() if entry.cls.space == "continuous"]
    assert names, f"no process is registered of the spaces {sorted(sampler.traits.spaces)}"
    return names


def _oracle(sampler: Sampler, source: Markov, process: Process) -> Denoiser:
    return exact_denoiser(source, process, block_size=1 if sampler.traits.gives_context else None)


def _usual_steps(sampler: Sampler) -> int:
    return sampler.traits.only_steps or 4


def _draw(sampler: Sampler, source: Markov, process: Process, count: int, steps: int, seed: int) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    return sampler.sample(_oracle(sampler, source, process), count, steps=steps, generator=generator)


def _check_contract(sampler: Sampler, source: Markov, process: Process) -> None:
    for steps in filter(sampler.traits.takes, (1, 2, 5)):
        states: list[StepState] = []
        oracle = _oracle(sampler, source, process)
        generator = torch.Generator().manual_seed(0)
        out = sampler.sample(oracle, 6, steps=steps, generator=generator, on_step=states.append)
        assert out.x.shape == (6, source.spec.length)
        assert out.x.dtype == torch.long
        assert int(out.x.max()) < process.vocab_size, "noise is left in the samples"
        evaluations = oracle.evaluated / 6
        assert out.nfe == evaluations, f"reports {out.nfe} evaluations a sample, the network counted {evaluations}"
        assert states, "on_step was never called"
        assert torch.equal(states[-1].x, out.x), "the last state shown must be the result"
        assert states[-1].s == 0.0
        again = _draw(sampler, source, process, 6, steps, 0)
        assert torch.equal(out.x, again.x), "the same seed must give the same samples"
    usual = _usual_steps(sampler)
    other = _draw(sampler, source, process, 64, usual, 1)
    assert not torch.equal(other.x, _draw(sampler, source, process, 64, usual, 2).x), "seeds must matter"


def _check_prompt(sampler: Sampler, source: Markov, process: Process) -> None:
    """Every state holds the tokens of the prompt."""
    generator = torch.Generator().manual_seed(4)
    prompt = torch.randint(-1, 2, (24, source.spec.length), generator=generator)

    def compare(x: Tensor, where: str) -> None:
        assert bool((x == prompt)[prompt >= 0].all()), f"tokens of the prompt were changed in {where}"

    for steps in filter(sampler.traits.takes, (1, 4)):
        out = sampler.sample(
            _oracle(sampler, source, process),
            len(prompt),
            steps=steps,
            generator=generator,
            cond=Condition(prompt=prompt),
            on_step=lambda state: compare(state.x, f"step {state.index}"),
        )
        compare(out.x, "the result")


def _check_streams(sampler: Sampler, source: Markov, process: Process) -> None:
    """Each sample depends only on its own stream: samples do not depend on the size of batches."""

    def draw(numbers: range) -> Tensor:
        oracle = _oracle(sampler, source, process)
        streams = SampleStreams(5, numbers)
        return sampler.sample(oracle, len(numbers), steps=_usual_steps(sampler), generator=streams).x

    parts = [draw(range(5)), draw(range(5, 6)), draw(range(6, 16))]
    assert torch.equal(draw(range(16)), torch.cat(parts)), "samples depend on the size of the batch"


def _check_exact(sampler: Sampler, source: Markov, process: Process, steps: int) -> None:
    probs = source.ngram_probs(3).flatten()
    samples = _draw(sampler, source, process, 4000, steps, 3).x
    assert int(samples.max()) < process.vocab_size, f"noise is left in the samples of {steps} steps"
    index = samples[:, 0] * 4 + samples[:, 1] * 2 + samples[:, 2]
    assert_same_distribution(torch.bincount(index, minlength=8), probs, f"{process.config.type}, {steps} steps")


def _check_exact_prompt(sampler: Sampler, source: Markov, process: Process, steps: int) -> None:
    """Samples that begin or end with a known token follow the conditional distribution; block by block: that begin."""
    joint, generator = source.ngram_probs(3), torch.Generator().manual_seed(6)
    for place, probs in ((0, joint[1]), (2, joint[..., 1])):
        if place and sampler.traits.gives_context:
            break
        prompt = torch.full((4000, 3), -1)
        prompt[:, place] = 1
        cond = Condition(prompt=prompt)
        oracle = _oracle(sampler, source, process)
        x = sampler.sample(oracle, len(prompt), steps=steps, generator=generator, cond=cond).x
        first, second = (x[:, i] for i in range(3) if i != place)
        label = f"{process.config.type}, {steps} steps, token {place} known"
        assert_same_distribution(torch.bincount(2 * first + second, minlength=4), probs.flatten(), label)
