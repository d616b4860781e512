"""Gradient Moment on known cases: what it says of data, broken data, and a model sampled with less and less variety.

    fewstep train text-ar --run-dir runs/ar --set train.steps=800 --set train.batch_size=32
    fewstep train text-ar --run-dir runs/ar-small --set train.steps=600 --set train.batch_size=32 \\
        --set backbone.width=64 --set seed=1
    python benchmarks/gradient_moment.py --reference runs/ar --generator runs/ar-small --out gradient-moment.md

writes a table and, beside it, a picture. Every case has as many rows as `--rows`, against as many rows of data; both
are drawn with replacement from the data that the reference was not trained on, or from all where none was held out.
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
    """A case and what was found of it; entropy in nats, of the tokens within a row."""

    case: str
    moment: float
    error: float
    perplexity: float
    entropy: float


class Bench:
    """Rows of data, and a judge of other rows."""

    def __init__(self, reference: TrainedModel, rows: int) -> None:
        self.judge = DenoiserReference(reference.denoiser, "the reference")
        held_out = reference.dataset.held_out
        self.pool = reference.dataset.train if held_out is None else held_out
        self.vocab, self.rows = reference.dataset.spec.vocab_size, rows

    def data(self, seed: int, rows: int | None = None) -> Tensor:
        """Rows of data, LongTensor [rows, L], each drawn independently."""
        places = torch.randint(len(self.pool), (rows or self.rows,), generator=Generator().manual_seed(seed))
        return self.pool[places].long()

    def moment(self, samples: Tensor, real: Tensor) -> tuple[float, float]:
        """Value and standard error."""
        found = gradient_moments(self.judge, zip(samples.chunk(BATCHES), real.chunk(BATCHES), strict=True))
        return found.values()[0], found.standard_error()

    def row(self, case: str, samples: Tensor) -> Row:
        """Judge samples."""
        with torch.no_grad():
            nll = sum(float(self.judge.nll(part).double().sum()) for part in self.judge.encode(samples).split(100))
        entropy = float(row_entropy(samples, self.vocab).mean())
        found = Row(case, *self.moment(samples, self.data(1)), math.exp(nll / samples.numel()), entropy)
        print(f"{case}: {found.moment:.4f} +- {found.error:.4f}", flush=True)
        return found

    def calibration(self, repeats: int) -> tuple[float, float]:
        """Data against data, `repeats` times: share of 95 % intervals that hold the truth, 0, and the mean score."""
        shown, scores = Narrator("repeats"), []
        for index in range(repeats):
            value, error = self.moment(*self.data(1000 + index, 8 * BATCHES).chunk(2))
            scores.append(value / error)
            shown(index + 1, repeats)
        return sum(abs(score) < 1.96 for score in scores) / repeats, sum(scores) / repeats


def samples_of(model: TrainedModel, rows: int, **settings: float) -> Tensor:
    """Rows drawn token by token, LongTensor [rows, L]."""
    sampler = SAMPLERS.build({"type": "block_ancestral", **settings})
    return draw(sampler, model.denoiser, rows, steps=1, seed=0, batch_size=200)[0]


def cases(bench: Bench, generator: TrainedModel, reference: TrainedModel) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Names of cases, and what makes their rows."""
    fresh = bench.data(2)
    order = torch.rand(fresh.shape, generator=Generator().manual_seed(3)).argsort(1)
    yield "data", lambda: fresh
    yield "one row of data, again and again", lambda: fresh[:1].expand_as(fresh).contiguous()
    yield "data, each row shuffled", lambda: fresh.gather(1, order)
    for level in TOP_P:
        yield f"generator, top-p {level}", lambda level=level: samples_of(generator, len(fresh), top_p=level)
    for heat in HEATS:
        yield f"reference itself, temperature {heat}", lambda h=heat: samples_of(reference, len(fresh), temperature=h)


def table(rows: list[Row], covered: tuple[float, float], repeats: int, asked: argparse.Namespace) -> str:
    """Everything as Markdown."""
    about = describe_environment()
    lines = [
        "# Gradient Moment on known cases",
        "",
        f"`python benchmarks/gradient_moment.py --reference {asked.reference} --generator {asked.generator} "
        f"--rows {asked.rows}`, {about['hardware']}, commit {about['commit']}; how the two were trained stands in "
        "[the script](../../gradient_moment.py).",
        "",
        "| rows | gradient moment | perplexity | entropy of a row |",
        "|---|---:|---:|---:|",
    ]
    lines += [f"| {r.case} | {r.moment:.4f} ± {r.error:.4f} | {r.perplexity:.2f} | {r.entropy:.2f} |" for r in rows]
    share, mean = covered
    return "\n".join(
        [
            *lines,
            "",
            f"Data against data, {repeats} times with {4 * BATCHES} rows a side: {share:.0%} of the 95 % intervals "
            f"(two-sided, 1.96 standard errors) held the truth, 0; the mean of value / standard error was {mean:.2f}.",
            "",
        ]
    )


def picture(rows: list[Row], file: Path) -> None:
    """Moment and perplexity of the generator over top-p."""
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
    """Measure, and write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, help="run of an autoregressive model")
    parser.add_argument("--generator", required=True, help="run of another one of the same data, to be sampled")
    parser.add_argument("--rows", type=int, default=1000, help="samples a case")
    parser.add_argument("--repeats", type=int, default=100, help="of data against data")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write; the picture goes beside it")
    asked = parser.parse_args()
    reference, generator = open_model(asked.reference), open_model(asked.generator)
    bench = Bench(reference, asked.rows)
    rows = [bench.row(case, make()) for case, make in cases(bench, generator, reference)]
    text = table(rows, bench.calibration(asked.repeats), asked.repeats, asked)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(text)
    picture(rows, asked.out.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
