"""A source with a coarse natural order: keys, and checks that follow from two keys.

Shapes: N samples, K keys, L = 2 K tokens, V symbols.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.recipe_view import RecipeView
from fewstep.data.base import DATASETS, MAX_MADE, Codec, Dataset, DataSpec


@DATASETS.register("keys_and_checks")
class KeysAndChecks(Dataset):
    """K independent uniform keys u_i and K checks d_i = h(u_i, u_{i+1}) with a random table h, at mixed places.

    The places are drawn once. Given the keys every check is certain; a key that must be guessed from checks takes a
    search. A network therefore pays for checks that are revealed before their keys, and an order of generation saves
    that. The entropy is K ln V.
    """

    class Config(ComponentConfig):
        type: Literal["keys_and_checks"] = "keys_and_checks"
        vocab_size: int = Field(8, ge=2, le=1024, description="symbols of keys and checks")
        keys: int = Field(8, ge=2, description="keys of a sample, and checks")
        source_seed: int = Field(0, ge=0, description="seed of the table, the places and the samples")
        size: int = Field(65536, gt=0, description="training samples")
        held_out: int = Field(4096, gt=0, description="samples that are never trained on")

        @property
        def length(self) -> int:
            """Tokens of a sample."""
            return 2 * self.keys

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if (self.size + self.held_out) * self.length > MAX_MADE:
                yield "size", f"{self.size:,} samples of these tokens are too much to make; take fewer"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.spec = DataSpec(vocab_size=c.vocab_size, length=c.length)
        generator = self._draw_rules()
        self.train = self.draw(c.size, generator)
        self.held_out = self.draw(c.held_out, generator)

    def _draw_rules(self) -> Generator:
        """Draw table and places; returns the generator that the samples are drawn from."""
        c, generator = self.config, Generator().manual_seed(self.config.source_seed)
        self.table = torch.randint(c.vocab_size, (c.vocab_size, c.vocab_size), generator=generator)
        self.places = torch.randperm(c.length, generator=generator)
        return generator

    def restore(self, codec: Codec) -> None:
        self._draw_rules()

    @property
    def is_key(self) -> Tensor:
        """Whether a place holds a key (BoolTensor [L])."""
        return self.places.argsort() < self.config.keys

    def split(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and checks [N, K] of samples [N, L]."""
        keys, checks = samples[:, self.places.to(samples.device)].chunk(2, 1)
        return keys, checks

    def checks_of(self, keys: Tensor) -> Tensor:
        """The checks [N, K] that follow from keys [N, K]."""
        return self.table.to(keys.device)[keys, keys.roll(-1, 1)]

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Exact samples (LongTensor [count, L])."""
        keys = torch.randint(self.config.vocab_size, (count, self.config.keys), generator=generator)
        return torch.cat((keys, self.checks_of(keys)), 1)[:, self.places.argsort()]

    def log_likelihood(self, samples: Tensor) -> Tensor:
        """log q(x) in nats (float64 [N]): -K ln V, or -inf where a check is wrong."""
        keys, checks = self.split(samples)
        right = (self.checks_of(keys) == checks).all(1)
        return torch.where(right, -self.entropy, -torch.inf).double()

    @property
    def entropy(self) -> float:
        """Entropy of a sample in nats, K ln V."""
        return self.config.keys * math.log(self.config.vocab_size)

    def to_text(self, samples: Tensor) -> list[str]:
        """Keys, then checks; a wrong check has a `!`."""
        keys, checks = self.split(samples)
        right = self.checks_of(keys) == checks
        lines = []
        for own, marks, good in zip(keys.tolist(), checks.tolist(), right.tolist(), strict=True):
            shown = (f"{mark}{'' if fits else '!'}" for mark, fits in zip(marks, good, strict=True))
            lines.append(f"{' '.join(map(str, own))} | {' '.join(shown)}")
        return lines
