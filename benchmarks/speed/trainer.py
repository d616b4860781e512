"""A step of the trainer over a bare step, and a plain transformer's step over ours.

A bare step is forward pass, cross entropy at the masks, backward pass and a fused AdamW, with the same backbone. The
plain transformer is written out below, without anything that a diffusion model adds: no time, no rotary positions.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator

import torch
from games import Size, game, network
from rows import Row, interleaved, paired
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.data.base import DATASETS
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import OBJECTIVES
from fewstep.processes.base import PROCESSES
from fewstep.recipe.models import TrainerSettings
from fewstep.runs.folder import RunDir
from fewstep.training.assemble import Parts
from fewstep.training.trainer import Trainer

SIZES = (Size(256, 256, 4, 256, 4), Size(64, 128, 16, 128, 4), Size(256, 64, 16, 64, 2))
QUICK = SIZES[-1:]
TRAINER_GOAL, PLAIN_GOAL = 1.05, 0.98
PLAIN_SIZES = (Size(256, 256, 4, 256, 4), Size(50_257, 256, 1, 512, 4))
MANY = 1_000_000


class Bare:
    """What every training does at least, on a batch with half of its tokens masked."""

    def __init__(self, model: nn.Module, size: Size) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randint(size.vocab, (size.batch, size.length), generator=generator)
        self.masked = torch.rand(self.x.shape, generator=generator) < 0.5
        self.z = self.x.masked_fill(self.masked, size.vocab)
        self.t = torch.full((size.batch,), 0.5)

    def logits(self) -> Tensor:
        """[N, V] at the masks."""
        assert isinstance(self.model, NetworkDenoiser)
        hidden = self.model.backbone(self.z, self.t)
        return self.model.backbone.head(hidden[self.masked])

    def step(self) -> float:
        """Seconds of processor time."""
        begin = time.process_time()
        F.cross_entropy(self.logits(), self.x[self.masked]).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.process_time() - begin


class Plain(Bare):
    """The same of a transformer of `torch.nn`'s parts."""

    def logits(self) -> Tensor:
        out: Tensor = self.model(self.z, self.masked)
        return out


class Block(nn.Module):
    """Attention and MLP, each after a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.first, self.second = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.second(x))


class PlainTransformer(nn.Module):
    """Token and position embeddings, blocks, and a head at the masks."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(size.vocab + 1, size.width), nn.Embedding(size.length, size.width)
        self.blocks = nn.Sequential(*(Block(size.width, max(1, size.width // 64)) for _ in range(size.depth)))
        self.norm, self.head = nn.LayerNorm(size.width), nn.Linear(size.width, size.vocab)

    def forward(self, z: Tensor, masked: Tensor) -> Tensor:
        x = self.blocks(self.tokens(z) + self.places.weight)
        out: Tensor = self.head(self.norm(x[masked]))
        return out


def trainer(size: Size, model: NetworkDenoiser, folder: str) -> Trainer:
    """A trainer of random tokens before its first step."""
    data = DATASETS.build({"type": "token_ids", "vocab_size": size.vocab, "length": size.length, "random": 256})
    settings = TrainerSettings(
        train={"steps": MANY, "batch_size": size.batch, "log_every": MANY, "device": "cpu"},  # type: ignore[arg-type]
        watch={"times": 0},  # type: ignore[arg-type]
    )
    parts = Parts(data, model.process, OBJECTIVES.build("denoising"), {"student": model})
    training = Trainer(parts, settings, RunDir.create("speed", tempfile.mkdtemp(dir=folder)), echo=lambda line: None)
    training.objective.setup(training.ctx)
    training._diagnoses = lambda: False  # type: ignore[method-assign]  # measurements for a log line come every tenth
    return training


def trained(training: Trainer) -> float:
    """Seconds of processor time of a trainer's step."""
    begin = time.process_time()
    training._step()
    return time.process_time() - begin


def measure(quick: bool) -> Iterator[Row]:
    """Ratios of steps; tiny ones are repeated, since one takes some milliseconds."""
    process = {"type": "masked"}
    with tempfile.TemporaryDirectory() as folder:
        for size in QUICK if quick else SIZES:
            states = PROCESSES.build(process, vocab_size=size.vocab)
            training, bare = trainer(size, network(size, states), folder), Bare(network(size, states), size)
            repeats = max(1, 8192 // (size.width * size.length // 16))
            seconds = interleaved(
                {
                    "trainer": lambda training=training, n=repeats: sum(trained(training) for _ in range(n)),
                    "bare": lambda bare=bare, n=repeats: sum(bare.step() for _ in range(n)),
                },
                7 if quick else 15,
            )
            ratios = paired(seconds["trainer"], seconds["bare"])
            yield Row.of("trainer", f"trainer / bare step, denoising, masked, {size}", ratios, goal=TRAINER_GOAL)
    for size in PLAIN_SIZES[:1] if quick else PLAIN_SIZES:
        plain = Plain(PlainTransformer(size), size)
        ours = {name: game({"type": "denoising"}, "masked", size, backbone=name) for name in ("transformer", "dit")}
        calls = {"plain": plain.step, **{name: player.iteration for name, player in ours.items()}}
        seconds = interleaved(calls, 3 if quick else 7)
        for name in ours:
            ratios = paired(seconds["plain"], seconds[name])
            what = f"plain transformer / {name}, denoising step, masked, {size}"
            yield Row.of("trainer", what, ratios, goal=PLAIN_GOAL, more_is_better=True)
