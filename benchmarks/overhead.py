"""Cost of a sampler's step beyond the network: `python benchmarks/overhead.py --out FILE` writes a table.

For each sampler: time of a sampling step divided by the time of the backbone's forward pass (trunk, and head at every
token) on the same batch. Networks are untrained, since time does not depend on the weights. An evaluation of part of
the batch counts as that part. Shapes: B batch, L tokens, V vocabulary.
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
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.processes.base import PROCESSES
from fewstep.runs.environment import describe_environment
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import SAMPLERS, Sampler

NEEDS_SETTINGS = {"semi_autoregressive": {"block_size": 32}}


@dataclass(frozen=True)
class Size:
    """Sizes of a network and of its batch."""

    vocab: int
    length: int
    batch: int
    width: int
    depth: int
    heads: int
    steps: int
    repeats: int


SIZES = (Size(256, 256, 4, 256, 6, 4, steps=16, repeats=3), Size(50_257, 128, 1, 768, 12, 12, steps=6, repeats=3))


def network(size: Size, process: str) -> NetworkDenoiser:
    """An untrained denoiser."""
    noising = PROCESSES.build(process, vocab_size=size.vocab)
    config = {"type": "transformer", "width": size.width, "depth": size.depth, "heads": size.heads}
    tokens = TokenSpace(noising.num_states, size.vocab, size.length)
    return NetworkDenoiser(BACKBONES.build(config, tokens=tokens), noising).eval()


def seconds(call: Callable[[], object]) -> float:
    """Time of a call, with its work on a GPU."""
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def ratio(model: NetworkDenoiser, sampler: Sampler, size: Size) -> tuple[float, float]:
    """Median ratio of a sampler's time per evaluation to the time of a forward pass (trunk, and logits of every
    token), and the NFE of a sample.

    Each draw is compared with forward passes immediately before and after it, since the speed of a machine drifts.
    """
    x = model.process.prior((size.batch, size.length), device=model.device, generator=None)
    t = torch.full((size.batch,), 0.5, device=model.device)
    nfe, ratios = 0.0, []

    def forward() -> None:
        model.backbone.head(model.backbone(x, t))

    def draw() -> None:
        nonlocal nfe
        streams = SampleStreams(0, range(size.batch))
        nfe = sampler.sample(model, size.batch, steps=sampler.traits.only_steps or size.steps, generator=streams).nfe

    forward()
    draw()
    for _ in range(size.repeats):
        before = [seconds(forward) for _ in range(3)]
        sampling = seconds(draw)
        after = [seconds(forward) for _ in range(3)]
        ratios.append(sampling / nfe / statistics.median(before + after))
    return statistics.median(ratios), nfe


def rows(size: Size) -> list[tuple[str, str, float, float]]:
    """Process, sampler, NFE and ratio."""
    table = []
    for process in ("masked", "uniform"):
        model = network(size, process)
        for name in SAMPLERS.names():
            kind = SAMPLERS.get(name).cls
            if kind.traits.gives_context or (kind.traits.masks_only and process != "masked"):
                continue
            value, nfe = ratio(model, SAMPLERS.build({"type": name, **NEEDS_SETTINGS.get(name, {})}), size)
            table.append((process, name, nfe, value))
            print(f"V {size.vocab}  {process}  {name}: NFE {nfe:g}, {value:.2f}", flush=True)
    return table


def report(tables: dict[Size, list[tuple[str, str, float, float]]]) -> str:
    """The tables as Markdown."""
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
