"""Gradient Moment on known cases: data, damaged data, and a model that is sampled with less and less diversity.

    fewstep train text-ar --run-dir runs/ar --set train.steps=800 --set train.batch_size=32
    fewstep train text-ar --run-dir runs/ar-small --set train.steps=600 --set train.batch_size=32 \\
        --set backbone.width=64 --set seed=1
    python benchmarks/gradient_moment.py --reference runs/ar --generator runs/ar-small --out gradient-moment.md

writes a table, and a plot beside it. Every case has `--rows` rows, compared with `--rows` rows of data. Both are drawn
with replacement from the held-out data, or from all data if none are held out.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Generator, Tensor

from fewstep.likelihood.references import DenoiserReference
from fewstep.metrics.text.gradient_moment import gradient_moments
from fewstep.metrics.text.sample_entropy import row_entropy
from fewstep.runs.environment import describe_environment
from fewstep.runs.models import TrainedModel, open_model
from fewstep.runtime.progress import Narrator
from fewstep.samplers.base import SAMPLERS
from fewstep.sampling.draw import draw

TOP_P = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
HEATS = (1.0, 0.7, 0.5, 0.3)
BATCHES = 20


@dataclass(frozen=True)
class Row:
    """A case and its values. The entropy is that of the tokens within a row, in nats."""

    case: str
    moment: float
    error: float
    perplexity: float
    entropy: float


class Bench:
    """Rows of data, and the reference model that scores other rows."""

    def __init__(self, reference: TrainedModel, rows: int) -> None:
        self.reference = DenoiserReference(reference.denoiser, "the reference")
        held_out = reference.dataset.held_out
        self.pool = reference.dataset.train if held_out is None else held_out
        self.vocab, self.rows = reference.dataset.spec.vocab_size, rows

    def data(self, seed: int, rows: int | None = None) -> Tensor:
        """Rows of data, LongTensor [rows, L], each drawn independently."""
        places = torch.randint(len(self.pool), (rows or self.rows,), generator=Generator().manual_seed(seed))
        return self.pool[places].long()

    def moment(self, samples: Tensor, real: Tensor) -> tuple[float, float]:
        """Value and standard error."""
        moments = gradient_moments(self.reference, zip(samples.chunk(BATCHES), real.chunk(BATCHES), strict=True))
        return moments.values()[0], moments.standard_error()

    def row(self, case: str, samples: Tensor) -> Row:
        """Score samples."""
        with torch.no_grad():
            batches = self.reference.encode(samples).split(100)
            nll = sum(float(self.reference.nll(batch).double().sum()) for batch in batches)
        entropy = float(row_entropy(samples, self.vocab).mean())
        row = Row(case, *self.moment(samples, self.data(1)), math.exp(nll / samples.numel()), entropy)
        print(f"{case}: {row.moment:.4f} +- {row.error:.4f}", flush=True)
        return row

    def calibration(self, repeats: int) -> tuple[float, float]:
        """Data against data, `repeats` times: share of 95 % intervals that contain 0 (the truth), and mean score."""
        narrator, scores = Narrator("repeats"), []
        for index in range(repeats):
            value, error = self.moment(*self.data(1000 + index, 8 * BATCHES).chunk(2))
            scores.append(value / error)
            narrator(index + 1, repeats)
        return sum(abs(score) < 1.96 for score in scores) / repeats, sum(scores) / repeats


def samples_of(model: TrainedModel, rows: int, **settings: float) -> Tensor:
    """Rows drawn token by token, LongTensor [rows, L]."""
    sampler = SAMPLERS.build({"type": "block_ancestral", **settings})
    return draw(sampler, model.denoiser, rows, steps=1, seed=0, batch_size=200).tokens


def cases(bench: Bench, generator: TrainedModel, reference: TrainedModel) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Names of cases, and functions that make their rows."""
    fresh = bench.data(2)
    order = torch.rand(fresh.shape, generator=Generator().manual_seed(3)).argsort(1)
    yield "data", lambda: fresh
    yield "one row of data, repeated", lambda: fresh[:1].expand_as(fresh).contiguous()
    yield "data, each row shuffled", lambda: fresh.gather(1, order)
    for level in TOP_P:
        yield f"generator, top-p {level}", lambda level=level: samples_of(generator, len(fresh), top_p=level)
    for heat in HEATS:
        yield f"reference itself, temperature {heat}", lambda h=heat: samples_of(reference, len(fresh), temperature=h)


def table(rows: list[Row], calibration: tuple[float, float], repeats: int, options: argparse.Namespace) -> str:
    """The table as Markdown."""
    about = describe_environment()
    lines = [
        "# Gradient Moment on known cases",
        "",
        f"`python benchmarks/gradient_moment.py --reference {options.reference} --generator {options.generator} "
        f"--rows {options.rows}`, {about['hardware']}, commit {about['commit']}; "
        "[the script](../../gradient_moment.py) has the commands that train the two.",
        "",
        "| rows | gradient moment | perplexity | entropy of a row |",
        "|---|---:|---:|---:|",
    ]
    lines += [f"| {r.case} | {r.moment:.4f} ± {r.error:.4f} | {r.perplexity:.2f} | {r.entropy:.2f} |" for r in rows]
    share, mean = calibration
    return "\n".join(
        [
            *lines,
            "",
            f"Data against data, {repeats} times with {4 * BATCHES} rows a side: {share:.0%} of the 95 % intervals "
            f"(two-sided, 1.96 standard errors) contained 0, the true value; the mean of value / standard error was "
            f"{mean:.2f}.",
            "",
        ]
    )


def picture(rows: list[Row], file: Path) -> None:
    """Plot of moment and perplexity of the generator over top-p."""
    swept = rows[3 : 3 + len(TOP_P)]
    figure, left = plt.subplots(figsize=(6, 3.6), layout="constrained")
    left.errorbar(TOP_P, [r.moment for r in swept], yerr=[2 * r.error for r in swept], marker="o", capsize=3)
    left.set(xlabel="top-p", ylabel="Gradient Moment, two standard errors", ylim=(0, None))
    left.yaxis.label.set_color("C0")
    right = left.twinx()
    right.plot(TOP_P, [r.perplexity for r in swept], color="C1", marker="s", linestyle="--")
    right.set(ylabel="perplexity under the reference")
    right.yaxis.label.set_color("C1")
    figure.savefig(file, dpi=110)


def main() -> None:
    """Measure, and write table and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, help="run of an autoregressive model")
    parser.add_argument("--generator", required=True, help="run of another model of the same data, to sample")
    parser.add_argument("--rows", type=int, default=1000, help="rows of a case")
    parser.add_argument("--repeats", type=int, default=100, help="repeats of data against data")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write; the plot goes beside it")
    options = parser.parse_args()
    reference, generator = open_model(options.reference), open_model(options.generator)
    bench = Bench(reference, options.rows)
    rows = [bench.row(case, make()) for case, make in cases(bench, generator, reference)]
    text = table(rows, bench.calibration(options.repeats), options.repeats, options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    picture(rows, options.out.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
