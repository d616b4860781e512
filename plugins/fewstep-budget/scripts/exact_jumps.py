"""Distance to a Markov source by sampler and steps, with the exact network of the uniform process; no training.

python plugins/fewstep-budget/scripts/exact_jumps.py
"""

from __future__ import annotations

from fewstep_budget import CumulativeSampler

from fewstep import METRICS, PROCESSES, SAMPLERS
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import Sampler
from fewstep.testing import Markov, exact_denoiser

STEPS = (1, 2, 4, 8, 16, 32)
SAMPLES = 4000


def main() -> None:
    """Print 4-gram distance and negative log-likelihood a token, a row for each sampler."""
    source = Markov(Markov.Config(vocab_size=8, length=16))
    denoiser = exact_denoiser(source, PROCESSES.build("uniform", vocab_size=8))
    samplers: dict[str, Sampler] = {"ancestral": SAMPLERS.build("ancestral"), "flow": SAMPLERS.build("flow")}
    for name, sampler in {**samplers, "cumulative": CumulativeSampler()}.items():
        values = []
        for steps in STEPS:
            samples = sampler.sample(denoiser, SAMPLES, steps=steps, generator=SampleStreams(0, range(SAMPLES))).x
            row = {}
            for key in ("ngram_distance", "exact_nll"):
                metric = METRICS.build(key, dataset=source)
                metric.update(samples)
                row.update(metric.compute())
            values.append(f"{steps}: {row['ngram_tv']:.3f} {row['exact_nll']:.3f}")
        print(f"{name}  {'  '.join(values)}", flush=True)


if __name__ == "__main__":
    main()
