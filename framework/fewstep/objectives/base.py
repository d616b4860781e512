"""Objectives: losses over roles. Teacher training and distillation share this interface.

An objective names its roles and phases and computes a loss. Optimisers, precision, averaging, checkpoints
and logging belong to the trainer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fewstep.core.component import Component, ComponentConfig
from fewstep.core.registry import Registry
from fewstep.data.base import Dataset
from fewstep.data.padding import implied_padding, text_mask
from fewstep.denoisers.base import NOTHING, Denoiser, Network
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.predictions.condition import Condition
from fewstep.predictions.evidence import Output
from fewstep.processes.base import Process
from fewstep.runtime.ranks import ALONE, Ranks
from fewstep.runtime.streams import Randomness, selected, spread, uniform


@dataclass(frozen=True)
class RoleSpec:
    """Part of one network in a training.

    Args:
        trained: whether any phase updates it.
        starts_from: role whose weights it starts from ("teacher"), or None for a fresh initialisation.
        adapters: whether the recipe's `noise_input` and `step_input` are attached to it; `label_input` always is.
        step_input: whether `step_input` is, and no `noise_input`.
        refreshed: whether the objective replaces its weights during a training.
        latents: reading of a teacher with a noise input, whose prediction is a random component of a mixture. "average"
            hands over the mean of `teacher.latents` components (`LatentAverage`), "draw" the network itself, and
            "refuse" refuses it.
        needed_by: setting of the objective without which there is no such role; None: it is always there.
        network: class of the network, which builds it. What sampling needs lives in the student's: a second head or a
            decoder is trained, averaged, exported and resumed with it.
    """

    trained: bool = True
    starts_from: str | None = None
    adapters: bool = False
    step_input: bool = False
    refreshed: bool = False
    latents: Literal["average", "draw", "refuse"] = "average"
    needed_by: str | None = None
    network: type[Network] = NetworkDenoiser

    def needed(self, config: ComponentConfig) -> bool:
        """Whether an objective with these settings has the role."""
        return self.needed_by is None or getattr(config, self.needed_by) is not None


@dataclass(frozen=True)
class Phase:
    """One kind of optimiser step: the roles in `train` are updated `repeat` times before the next phase.

    It takes its turns from the share `after` of the training on, and no longer from the share `until` on; each step
    must have a phase. Over a share `ramp` of the training, from the phase's first step, the rates of the roles in
    `ramped` rise from 0.
    """

    name: str
    train: tuple[str, ...]
    repeat: int = 1
    after: float = 0.0
    until: float = 1.0
    ramp: float = 0.0
    ramped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Clean tokens `x0` (LongTensor [B, L]) and their conditions.

    Args:
        text: BoolTensor [B, L], tokens of the texts up to their ends, where samples are padded; None if all tokens are.
        implied: BoolTensor [B, L], padding that follows from clean tokens that the network sees, at no cost; None for
            none.
        supervised: BoolTensor [B, L], tokens that losses count; None for all.
    """

    x0: Tensor
    cond: Condition = NOTHING
    text: Tensor | None = None
    implied: Tensor | None = None
    supervised: Tensor | None = None

    @property
    def size(self) -> int:
        return self.x0.shape[0]

    def halves(self) -> tuple[Batch, Batch]:
        """The two halves of a batch of an even number of samples."""
        masks = ([None, None] if mask is None else mask.chunk(2) for mask in (self.text, self.implied, self.supervised))
        first, second = map(Batch, self.x0.chunk(2), self.cond.split(2), *masks)
        return first, second

    def counted(self, values: Tensor) -> Tensor:
        """Values of tokens [B, L], 0 at implied padding."""
        return values if self.implied is None else values.masked_fill(self.implied, 0.0)

    def tokens(self, where: Tensor | None = None) -> Tensor:
        """Number of text tokens, a scalar, of all or of those in `where` (BoolTensor [B, L])."""
        where = torch.ones_like(self.x0, dtype=torch.bool) if where is None else where
        return (where if self.text is None else where & self.text).sum()

    def counting(self, where: Tensor | None = None) -> Tensor | None:
        """Tokens of `where` that are supervised; None for all tokens."""
        if self.supervised is None:
            return where
        return self.supervised if where is None else where & self.supervised

    def mean(self, values: Tensor, where: Tensor | None = None) -> Tensor:
        """Sum of values [B, L] over the number of text tokens, supervised or not, a scalar; see `StepContext.mean`."""
        if where is None and self.text is None:
            return values.mean()
        values = self.counted(values if where is None else values.masked_fill(~where, 0.0))
        return values.sum() / self.tokens(where).clamp_min(1)


@dataclass(frozen=True)
class LossOutput:
    """A scalar `loss` to minimise (mean over the batch) and detached numbers to log.

    A metric is a scalar (a mean over the batch), or a pair (sum, count) if batches differ in their number of values.
    The log has the mean over all batches since its last line.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor | tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass
class StepContext:
    """Inputs of an objective during a step.

    `generators` holds independent random streams by purpose ("time", "noise", "sample"). In a training they are
    `SampleStreams` of the samples of this call of `loss`, whose numbers depend on the seed and on how many samples were
    trained on before: a resumed run draws the same numbers as an uninterrupted one, however batches are divided. Draws
    for other rows take streams that are selected or repeated in the same way. In `setup` and `after_step` they have a
    single stream.
    """

    roles: Mapping[str, Network]
    process: Process
    generators: Mapping[str, Randomness]
    device: torch.device
    step: int = 0
    """Optimiser steps so far, of the `steps` of the training."""
    steps: int = 1
    folder: Path | None = None
    """Folder for files of the objective."""
    end: int | None = None
    """Symbol that ends the text of a sample and fills what is left of it; None for data without padding."""
    batch: Batch | None = None
    """The batch of this call of `loss`; the trainer sets it."""
    diagnose: bool = False
    """Whether this step should also compute costly diagnostics; the trainer sets it now and then."""
    place: int = 0
    """Place of the first sample of this call of `loss` in the batch of the step, which may be divided."""
    whole: int | None = None
    """Number of samples of that batch; None: as many as in this call."""
    ranks: Ranks = ALONE
    """Processes that share the training, of which each has a part of the batch; losses need not know of them."""
    supervised: Tensor | None = None
    """Tokens [B, L] of this call of `loss` that losses count; None for all. The trainer draws them."""
    dataset: Dataset | None = None
    """Training data, for objectives whose `setup` reads samples; None outside of a training."""
    terms: Tensor | None = None
    """Number of terms of the last `mean`, a scalar, if samples differ in it; None if all samples weigh the same."""

    def denoiser(self, role: str) -> Denoiser:
        """The network of a role that predicts tokens."""
        network = self.roles[role]
        assert isinstance(network, Denoiser), f"role '{role}' predicts no tokens"
        return network

    def select(self, rows: Tensor | slice) -> StepContext:
        """These inputs for the samples in `rows` of the batch (indices, a BoolTensor or a slice) and their numbers."""
        generators = {name: selected(source, rows) for name, source in self.generators.items()}
        return replace(
            self, generators=generators, supervised=None if self.supervised is None else self.supervised[rows]
        )

    def sample_time(self, count: int, *, antithetic: bool = False) -> Tensor:
        """Times ~ U(0, 1) of the samples of a batch, [count].

        `antithetic` spreads them evenly over the whole batch with one shared random shift (MDLM, C.3).
        """
        return self._times(count, 1, antithetic)[:, 0]

    def sample_time_of_blocks(self, count: int, *, antithetic: bool = False) -> Tensor:
        """Times ~ U(0, 1), one for each unit that is denoised at once.

        The unit is a sample: [count]. For block-autoregressive networks it is a block: [count, L], constant within
        blocks. One time for all blocks would estimate the same loss, a sum over blocks, with more noise (BD3-LM, arXiv
        2503.09573).
        """
        student = self.roles["student"]
        if student.block_size is None:
            return self.sample_time(count, antithetic=antithetic)
        blocks = student.length // student.block_size
        return self._times(count, blocks, antithetic).repeat_interleave(student.block_size, 1)

    def _times(self, count: int, per: int, antithetic: bool) -> Tensor:
        """Times ~ U(0, 1), `per` of each sample: [count, per]."""
        source = self.generators["time"]
        if antithetic:
            return spread(count, source, per=per, device=self.device)
        return uniform((count, per), source, device=self.device, dtype=torch.float32)

    def as_batch(self, x0: Tensor, cond: Condition = NOTHING) -> Batch:
        """Clean tokens [B, L] as a batch: data, or samples that a network has drawn."""
        same = self.supervised is not None and self.supervised.shape == x0.shape
        supervised = self.supervised if same else None
        if self.end is None:
            return Batch(x0, cond, supervised=supervised)
        text, block_size = text_mask(x0, self.end), self.roles["student"].block_size
        implied = None if block_size is None else implied_padding(text, block_size)
        return Batch(x0, cond, text, implied, supervised)

    def mean(self, values: Tensor, where: Tensor | None = None, *, batch: Batch | None = None) -> Tensor:
        """Mean over the tokens that this step supervises, a scalar; objectives reduce their losses here or by `sum`.

        Padding is no token of the mean: the sum of values is divided by the number of text tokens, the ends of texts
        among them. In the sum, padding that follows from what the network sees is left out. A network that predicts
        whole samples sees no end when it predicts what is behind it; there the cost of the padding is what the model
        does not know of the length of the text. Without it the loss would bound no likelihood, and samplers could not
        draw where texts end.

        Args:
            values: a loss for each token, float [B, L].
            where: BoolTensor [B, L]; the mean is over its true positions, and 0 if there are none.
            batch: samples that the values belong to; None for those of the step.
        """
        batch = self.batch if batch is None else batch
        batch = Batch(values) if batch is None else batch
        where = batch.counting(where)
        self.terms = None if where is None and batch.text is None else batch.tokens(where)
        return batch.mean(values, where)

    def sum(self, values: Tensor, *, batch: Batch | None = None) -> Tensor:
        """Sum over all tokens [B, L] of the batch, a scalar; estimated from those that this step supervises."""
        batch = self.batch if batch is None else batch
        if batch is None:
            return values.sum()
        total = batch.counted(values)
        if batch.supervised is None:
            return total.sum()
        share = batch.tokens() / batch.tokens(batch.supervised).clamp_min(1)
        return total.masked_fill(~batch.supervised, 0.0).sum() * share


class Objective(Component, ABC):
    """A loss over one or more networks. The role called "student" is the one that is exported and sampled."""

    roles: ClassVar[Mapping[str, RoleSpec]] = {"student": RoleSpec()}
    spaces: ClassVar[frozenset[str]] = frozenset({"discrete"})
    sampler: ClassVar[str | None] = None
    """The only sampler that suits its students; None if others do too."""
    likelihood: ClassVar[bool] = False
    """Whether its student learns p(x | z_t), so that its likelihood has a bound. For students that learn to draw well
    in few steps such a bound means nothing."""
    per_token: ClassVar[bool] = True
    """Whether its loss is a sum or mean of values [B, L] that `StepContext.mean` or `sum` reduces, so that a step may
    supervise fewer tokens. Losses of whole samples are not."""

    needs_logit_noise: ClassVar[bool] = False
    """Whether its student must have noise at its logits (`noise_input: stable`)."""
    shardable: ClassVar[bool] = True
    """Whether its networks may be divided between ranks (`parallel.strategy: fsdp`): it evaluates them by calling them,
    and reads no parameters while it does."""
    divides_setup: ClassVar[bool] = False
    """Whether `setup` divides its work between ranks; else the first rank's runs before that of the others, which
    find the files that it wrote."""

    def __init__(self, config: ComponentConfig | None = None) -> None:
        super().__init__(config)
        roles = {name: role for name, role in self.roles.items() if role.needed(self.config)}
        if len(roles) < len(self.roles):
            self.roles = roles  # type: ignore[misc]  # of this objective; the class has those of all settings

    @classmethod
    def output(cls, config: ComponentConfig) -> Output:
        """What its networks predict for the uniform process, unless the recipe says it (`predictions.evidence`)."""
        return "x_mean"

    def usual_steps(self) -> int | None:
        """Number of sampling steps that the student is trained for, as the default; None if any number suits it."""
        return None

    def setup(self, ctx: StepContext) -> None:
        """Called once, after the roles are built and before the first step."""

    def rehearse(self, ctx: StepContext) -> float:
        """`setup` for a plan: tensors are only shapes, and no file is read or written.

        Returns how many times as much a training computes; an objective may do only a part that is like the rest.
        """
        self.setup(ctx)
        return 1.0

    def phases(self) -> Sequence[Phase]:
        """The cycle of optimiser steps; by default one phase that trains every trained role."""
        return [Phase("train", tuple(name for name, role in self.roles.items() if role.trained))]

    @abstractmethod
    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        """Loss of one (micro-)batch; only the roles in `phase.train` receive gradients."""

    def after_step(self, phase: Phase, ctx: StepContext) -> None:
        """Called after each optimiser step (teacher refresh, rounds)."""

    def state_dict(self) -> dict[str, object]:
        """State for a resumed run (round counters): tensors, numbers, strings, lists and dicts."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


OBJECTIVES: Registry[Objective] = Registry("objective", Objective, "fewstep.objectives")
