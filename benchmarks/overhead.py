"""What a step of each sampler costs beyond the network: `python benchmarks/overhead.py --out FILE` writes a table.

For each sampler: time of a sampling step, over that of the backbone's bare forward pass (trunk, and head at every
token) on the same batch. Networks are untrained, since time does not depend on what they know. A predictor that asks
for part of the batch is charged for that part. Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.denoiser import NetworkDenoiser
from fewstep.processes.base import PROCESSES
from fewstep.randomness import SampleStreams
from fewstep.samplers.base import SAMPLERS, Sampler
from fewstep.training.rundir import describe_environment

NEEDS_SETTINGS = {"semi_autoregressive": {"block_size": 32}}


@dataclass(frozen=True)
class Size:
    """A network, and the batch that it is timed on."""

    vocab: int
    length: int
    batch: int
    width: int
    depth: int
    heads: int
    steps: int
    repeats: int


SIZES = (Size(256, 256, 4, 256, 6, 4, steps=16, repeats=3), Size(50_257, 128, 1, 768, 12, 12, steps=6, repeats=1))


def network(size: Size, process: str) -> NetworkDenoiser:
    """An untrained denoiser."""
    law = PROCESSES.build(process, vocab_size=size.vocab)
    config = {"type": "transformer", "width": size.width, "depth": size.depth, "heads": size.heads}
    tokens = TokenSpace(law.num_states, size.vocab, size.length)
    return NetworkDenoiser(BACKBONES.build(config, tokens=tokens), law).eval()


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median time of a call, after one to warm up; waits for a GPU."""
    call()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


@torch.no_grad()
def bare(model: NetworkDenoiser, size: Size) -> float:
    """Seconds of a forward pass: trunk, and logits of every token."""
    x = model.process.prior((size.batch, size.length), device=model.device, generator=None)
    t = torch.full((size.batch,), 0.5, device=model.device)
    return seconds(lambda: model.backbone.head(model.backbone(x, t)), repeats=9)


def sampled(model: NetworkDenoiser, sampler: Sampler, size: Size) -> tuple[float, float]:
    """Seconds for each evaluation of the whole batch, and evaluations that a sample took."""
    nfe = 0.0

    def draw() -> None:
        nonlocal nfe
        streams = SampleStreams(0, range(size.batch))
        nfe = sampler.sample(model, size.batch, steps=sampler.only_steps or size.steps, generator=streams).nfe

    return seconds(draw, size.repeats) / nfe, nfe


def rows(size: Size) -> list[tuple[str, str, float, float]]:
    """Process, sampler, NFE and ratio."""
    found = []
    for process in ("masked", "uniform"):
        model = network(size, process)
        alone = bare(model, size)
        for name in SAMPLERS.names():
            kind = SAMPLERS.get(name).cls
            if kind.gives_context or (kind.masks_only and process != "masked"):
                continue
            sampler = SAMPLERS.build({"type": name, **NEEDS_SETTINGS.get(name, {})})
            each, nfe = sampled(model, sampler, size)
            found.append((process, name, nfe, each / alone))
            print(f"V {size.vocab}  {process}  {name}: NFE {nfe:g}, {each / alone:.2f}", flush=True)
        found.append((process, "(bare forward pass)", 1.0, 1.0))
        print(f"V {size.vocab}  {process}: bare forward pass {alone * 1e3:.1f} ms", flush=True)
    return found


def report(tables: dict[Size, list[tuple[str, str, float, float]]]) -> str:
    """Everything as Markdown."""
    about = describe_environment()
    lines = [
        "# Time of a sampling step over the time of a bare forward pass",
        "",
        f"`python benchmarks/overhead.py`, {about['hardware']}, {torch.get_num_threads()} threads, commit "
        f"{about['commit']}. Below 1: the head is computed only at tokens that are drawn.",
    ]
    for size, table in tables.items():
        lines += [
            "",
            f"## V {size.vocab:,}: L {size.length}, B {size.batch}, width {size.width}, {size.depth} blocks",
            "",
        ]
        lines += ["| process | sampler | NFE | ratio |", "|---|---|---:|---:|"]
        lines += [f"| {process} | `{name}` | {nfe:g} | {ratio:.2f} |" for process, name, nfe, ratio in table]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    text = report({size: rows(size) for size in SIZES})
    if out := parser.parse_args().out:
        out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
