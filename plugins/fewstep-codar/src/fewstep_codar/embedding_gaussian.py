"""Embeddings in Gaussian noise: the process of diffusion in a continuous space of tokens.

Shapes: B batch, L tokens, V vocabulary, D numbers of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Generator, Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.fields import From
from fewstep.core.recipe_view import RecipeView
from fewstep.core.references import Ref
from fewstep.predictions.base import Prediction
from fewstep.predictions.positions import everywhere
from fewstep.processes.base import PROCESSES, TINY, Corrupted, Process, ProcessConfig, per_token
from fewstep.runtime.streams import Randomness, normal
from fewstep.schedules.base import SCHEDULES
from fewstep_codar.prediction import VectorPrediction


@PROCESSES.register("embedding_gaussian")
class EmbeddingGaussian(Process):
    """z = a e(x) + s n, n ~ N(0, I), with a frozen table of embeddings e(x) of norm sqrt(D).

    It preserves variance: a^2 + s^2 = 1, and a^2 is the schedule's alpha(t). The default schedule is a = cos(pi t / 2).
    A step back is that of deterministic DDIM, z_s = a_s m + (s_s / s_t) (z_t - a_t m), with the mean m of the embedding
    by the prediction. The likeliest symbol of a state is that of the nearest embedding.
    """

    space = "continuous"
    greedy_tail = 1

    class Config(ProcessConfig):
        type: Literal["embedding_gaussian"] = "embedding_gaussian"
        schedule: Annotated[ComponentConfig, From("schedules")] = Field(
            {"type": "cosine_squared", "eps": 0.0}, validate_default=True
        )
        shift: float = Field(
            0.0, ge=-20, le=20, description="added to the log of a^2 / s^2 at every time; below 0 for more noise"
        )
        dim: int = Field(16, ge=2, le=65536, description="numbers of an embedding")
        table_seed: int = Field(0, ge=0, description="seed of the random embeddings")
        table: Annotated[str | None, Ref("file")] = Field(
            None, description="safetensors file with one embedding a symbol, [V, D]; null for random ones"
        )
        predicts: Literal["x0", "v"] = Field(
            "x0", description="what networks of vectors give: the clean embedding, or v = a n - s e"
        )

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            start, end = SCHEDULES.build(self.schedule).ends
            if (start, end) != (1, 0):
                yield (
                    "schedule",
                    f"alpha goes from {start:g} to {end:g} and not from 1 to 0, where samples begin as pure noise and "
                    "end as data; set schedule to {type: cosine_squared, eps: 0}",
                )
            if self.table is not None and not Path(self.table).is_file():
                yield "table", f"no file '{self.table}'; write it with scripts/write_table.py, or set it to null"

    config: Config

    def __init__(self, config: Config, *, vocab_size: int) -> None:
        super().__init__(config, vocab_size=vocab_size)
        rows = _random_rows(vocab_size, config) if config.table is None else _stored_rows(vocab_size, config)
        self._rows = rows * (config.dim**0.5 / rows.norm(dim=1, keepdim=True))

    @property
    def num_states(self) -> int:
        return self.config.dim

    def rows(self, device: torch.device | str) -> Tensor:
        """The table on a device, float32 [V, D]; it stays where it was asked for last."""
        if self._rows.device != torch.device(device):
            self._rows = self._rows.to(device)
        return self._rows

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a and s at times t [B] or [B, L]: float64 [B, 1, 1] or [B, L, 1]."""
        t = per_token(t.double())[..., None]
        signal, noise = self.schedule.alpha(t) * math.exp(self.config.shift), self.schedule.noise(t)
        return (signal / (signal + noise)).sqrt(), (noise / (signal + noise)).sqrt()

    def embed(self, x0: Tensor) -> Tensor:
        """Embeddings of ids [B, L], or mean embeddings of probabilities [B, L, V]: float32 [B, L, D]."""
        rows = self.rows(x0.device)
        return x0.to(rows.dtype) @ rows if x0.is_floating_point() else rows[x0]

    def nearest(self, vectors: Tensor) -> Tensor:
        """Ids [B, L] of the embeddings nearest to vectors [B, L, D]; all have the same norm."""
        return (vectors.float() @ self.rows(vectors.device).T).argmax(-1)

    def clean(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean embeddings that a network's output [B, L, D] for x_t stands for (`predicts`)."""
        if self.config.predicts == "x0":
            return output
        a, s = (level.to(output.dtype) for level in self.levels(t))
        return a * x_t - s * output

    def mean(self, prediction: Prediction) -> Tensor:
        """The mean embedding by a prediction, [B, L, D]: its own vectors, or those of its probabilities."""
        if isinstance(prediction, VectorPrediction):
            return prediction.vectors
        probs = prediction.dense_probs()
        return probs @ self.rows(probs.device).to(probs.dtype)

    def prior(self, shape: tuple[int, int], *, device: torch.device | str, generator: Randomness) -> Tensor:
        return normal((*shape, self.num_states), generator, device=device)

    def corrupt(self, x0: Tensor, t: Tensor, *, generator: Randomness) -> Corrupted:
        """Draw z_t; `x0` is ids [B, L], or probabilities [B, L, V] for soft data."""
        a, s = self.levels(t)
        noise = self.prior((x0.shape[0], x0.shape[1]), device=x0.device, generator=generator)
        state = a.float() * self.embed(x0) + s.float() * noise
        return Corrupted(state, (s[..., 0] > 0).expand(x0.shape[:2]))

    def step_back(self, x_t: Tensor, prediction: Prediction, t: Tensor, s: Tensor, *, generator: Randomness) -> Tensor:
        (a_t, s_t), (a_s, s_s) = map(self.levels, prediction.on_clock(t, s))
        left = s_s / s_t.clamp_min(TINY)
        mean = self.mean(prediction).to(x_t.dtype)
        return left.to(x_t.dtype) * x_t + (a_s - left * a_t).to(x_t.dtype) * mean

    def to_predict(self, x_t: Tensor) -> Tensor:
        return everywhere(x_t[..., 0])

    def to_ids(self, x_t: Tensor) -> Tensor:
        return self.nearest(x_t)

    def hold(self, x_t: Tensor, prompt: Tensor, t: Tensor, *, generator: Randomness) -> Tensor:
        noised = self.corrupt(prompt.clamp_min(0), t, generator=generator).x_t
        return torch.where((prompt >= 0)[..., None], noised.to(x_t.dtype), x_t)

    def evidence(self, x_t: Tensor, t: Tensor) -> Tensor:
        a, s = self.levels(t)
        return (a * (x_t.double() @ self.rows(x_t.device).double().T) / (s**2).clamp_min(TINY)).softmax(-1)


def embedding_process(process: Process) -> EmbeddingGaussian:
    """The process, checked to be one of embeddings.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(process, EmbeddingGaussian):
        raise ValueError(f"this needs the process embedding_gaussian, not {process.config.type}")
    return process


def _random_rows(vocab_size: int, config: EmbeddingGaussian.Config) -> Tensor:
    return torch.randn(vocab_size, config.dim, generator=Generator().manual_seed(config.table_seed))


def _stored_rows(vocab_size: int, config: EmbeddingGaussian.Config) -> Tensor:
    """The embeddings of the file that the settings name.

    Raises:
        UserError: it cannot be read, or holds no table of these sizes without rows of zeros.
    """
    assert config.table is not None
    try:
        tensors = load_file(config.table)
    except (OSError, SafetensorError) as error:
        raise UserError(f"process.table: '{config.table}' cannot be read ({error}); write it again") from None
    if len(tensors) != 1:
        raise UserError(f"process.table: '{config.table}' holds {len(tensors)} tensors and not one table")
    (rows,) = tensors.values()
    if rows.shape != (vocab_size, config.dim):
        raise UserError(
            f"process.table: '{config.table}' holds a table of {' x '.join(map(str, rows.shape))} numbers, and the "
            f"data have {vocab_size} symbols; set process.dim to the second number, or name another file"
        )
    rows = rows.float()
    if not bool((rows.norm(dim=1) > 0).all() & rows.isfinite().all()):
        raise UserError(f"process.table: '{config.table}' has an embedding that is zero or not finite")
    return rows
