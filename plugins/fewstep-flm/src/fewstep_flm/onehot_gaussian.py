"""One-hot vectors in Gaussian noise, the process of flow language models (FLM, arXiv 2602.16813).

This file can also be listed alone as a plugin. Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.fields import From
from fewstep.core.recipe_view import RecipeView
from fewstep.core.sizes import too_large
from fewstep.data.base import DATASETS
from fewstep.predictions.base import Prediction
from fewstep.predictions.positions import everywhere
from fewstep.processes.base import PROCESSES, TINY, Corrupted, Process, ProcessConfig, per_token
from fewstep.runtime.streams import Randomness, normal
from fewstep.schedules.base import SCHEDULES
from fewstep.schedules.gaussian_dual import induced_alpha, ratio_of


@PROCESSES.register("onehot_gaussian")
class OneHotGaussian(Process):
    """z = (1 - g) e + g onehot(x), e ~ N(0, I), and the straight flow from noise to data.

    The largest coordinate of z is x with probability alpha + (1 - alpha) / V at the level g. The schedule's alpha(t)
    sets g by this rule, so that equal steps of alpha recover equal shares of the tokens. A step back is the flow map
    z_s = (1 - g_s) / (1 - g_t) z_t + (1 - (1 - g_s) / (1 - g_t)) p with the probabilities p of the prediction. That is
    an Euler step for p = E[x | z_t], and exact for the mean p of a flow map from t to s.
    """

    space = "continuous"
    greedy_tail = 1

    class Config(ProcessConfig):
        type: Literal["onehot_gaussian"] = "onehot_gaussian"
        schedule: Annotated[ComponentConfig, From("schedules")] = Field(
            {"type": "linear", "eps": 0.0}, validate_default=True
        )
        max_gigabytes: float = Field(
            1.0,
            gt=0,
            description="limit on the states of a batch, 4 B L V bytes; a training needs about ten times as much",
        )

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from self._wrong_ends()
            spec = DATASETS.get(recipe.data.type).cls.outline(recipe.data)
            if spec is None:  # `prior` and `corrupt` refuse what is too large once the data are read
                return
            training = recipe.train.batch_size // recipe.train.accumulate
            for what, remedy, count in (
                ("training", "raise train.accumulate", training),
                ("evaluation", "lower evaluate.batch_size", recipe.evaluate.batch_size),
            ):
                if reason := too_large(count, spec.length, spec.vocab_size, self.max_gigabytes):
                    yield "max_gigabytes", f"{reason} in {what}; {remedy}, or this limit if the device has the memory"

        def _wrong_ends(self) -> Iterator[tuple[str, str]]:
            start, end = SCHEDULES.build(self.schedule).ends
            if (start, end) != (1, 0):
                yield (
                    "schedule",
                    f"alpha goes from {start:g} to {end:g} and not from 1 to 0, where samples begin as pure noise and "
                    "end as data; set schedule to {type: linear, eps: 0}",
                )

    config: Config

    @property
    def num_states(self) -> int:
        return self.vocab_size

    def signal(self, t: Tensor) -> Tensor:
        """g at times t [B] or [B, L]: float64 [B, 1, 1] or [B, L, 1]. At alpha = 1 there is no noise, g = 1."""
        ratio = ratio_of(self.schedule.alpha(t.double()), self.vocab_size)
        return per_token(torch.where(ratio.isinf(), 1.0, ratio / (1 + ratio)))[..., None]

    def time_of_signal(self, g: Tensor) -> Tensor:
        """Time at which the signal is g (float64, any shape): the inverse of `signal`."""
        alpha = induced_alpha(-2 * torch.logit(g.double().flatten()), self.vocab_size).view(g.shape)
        return self.schedule.time_of(alpha)

    def noise_left(self, t: Tensor, s: Tensor) -> Tensor:
        """(1 - g_s) / (1 - g_t), the share of z_t that is left in z_s: float64 [B, 1, 1] or [B, L, 1]."""
        return (1 - self.signal(s)) / (1 - self.signal(t)).clamp_min(TINY)

    def prior(self, shape: tuple[int, int], *, device: torch.device | str, generator: Randomness) -> Tensor:
        """Draw standard normal vectors, float32 [B, L, V].

        Raises:
            UserError: they take more than `max_gigabytes`.
        """
        if reason := too_large(*shape, self.vocab_size, self.config.max_gigabytes):
            raise UserError(f"process: {reason}; take smaller batches, or raise process.max_gigabytes")
        return normal((*shape, self.vocab_size), generator, device=device)

    def corrupt(self, x0: Tensor, t: Tensor, *, generator: Randomness) -> Corrupted:
        """Draw z_t; `x0` is ids [B, L], or probabilities [B, L, V] for soft data. Raises as `prior` does."""
        g = self.signal(t)
        state = self.prior((x0.shape[0], x0.shape[1]), device=x0.device, generator=generator).mul_(1 - g)
        if x0.is_floating_point():
            state += (g * x0).float()
        else:
            state.scatter_add_(-1, x0[..., None], g.float().expand(*x0.shape, 1))
        return Corrupted(state, (g[..., 0] < 1).expand(x0.shape[:2]))

    def step_back(self, x_t: Tensor, prediction: Prediction, t: Tensor, s: Tensor, *, generator: Randomness) -> Tensor:
        t, s = prediction.on_clock(t, s)
        return self.move(x_t, prediction.dense_probs(), t, s)

    def move(self, x_t: Tensor, probs: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The state at s on the straight line from x_t through the mean of x, `probs` [B, L, V]."""
        left = self.noise_left(t, s)
        keep, gain = left.to(x_t.dtype), (1 - left).to(x_t.dtype)
        return torch.addcmul(keep * x_t, gain, probs.to(x_t.dtype))

    def to_predict(self, x_t: Tensor) -> Tensor:
        return everywhere(x_t[..., 0])

    def to_ids(self, x_t: Tensor) -> Tensor:
        return x_t.argmax(-1)

    def hold(self, x_t: Tensor, prompt: Tensor, t: Tensor, *, generator: Randomness) -> Tensor:
        noised = self.corrupt(prompt.clamp_min(0), t, generator=generator).x_t
        return torch.where((prompt >= 0)[..., None], noised, x_t)

    def evidence(self, x_t: Tensor, t: Tensor) -> Tensor:
        g = self.signal(t)
        return (g * x_t.double() / (1 - g).clamp_min(TINY) ** 2).softmax(-1)
