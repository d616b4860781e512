"""Samplers: turn a denoiser into data in a set number of network evaluations (NFE)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from torch import Tensor

from fewstep.core.component import Component
from fewstep.core.errors import UserError
from fewstep.core.registry import Registry
from fewstep.data.base import Dataset
from fewstep.denoisers.base import NOTHING, Denoiser, Network
from fewstep.predictions.condition import Condition
from fewstep.runtime.streams import Randomness


@dataclass(frozen=True)
class StepState:
    """What a sampler shows its `on_step` callback: step index (from 0), times t -> s, and z_s as tokens [B, L]."""

    index: int
    t: float
    s: float
    x: Tensor


OnStep = Callable[[StepState], None]


@dataclass(frozen=True)
class Samples:
    """Clean tokens `x` (LongTensor [B, L]), and what a sample took on average, counted by the network itself.

    `nfe` is the number of network evaluations, `passes` the tokens that they computed as a multiple of the sample's
    length. Both are equal if every evaluation computes the whole sample.
    """

    x: Tensor
    nfe: float
    passes: float

    @classmethod
    def counted(cls, x: Tensor, network: Network, before: tuple[int, float]) -> Samples:
        """Samples that a network drew since it had counted `before`: its `evaluated` and `computed`."""
        evaluated, computed = network.evaluated - before[0], network.computed - before[1]
        return cls(x, evaluated / len(x), computed / x.numel())


@dataclass(frozen=True)
class SamplerTraits:
    """What a sampler needs and promises, the same for all its settings.

    Args:
        spaces: kinds of states that it knows: "discrete", "continuous" (`Process.space`).
        masks_only: whether it needs a process in which noise is distinguishable from data (`carry_over`).
        exact: whether its samples follow the denoiser's distribution as steps grow; samplers that choose tokens by
            confidence do not.
        gives_context: whether it goes block by block and hands finished blocks to the denoiser; others denoise whole
            samples.
        follows_clock: whether its steps follow the clock that a prediction may bring. One that decides where tokens
            change before it asks the network, or by the process's time alone, does not.
        only_steps: the one number of steps that it can take, or None.
    """

    spaces: frozenset[str] = frozenset({"discrete"})
    masks_only: bool = False
    exact: bool = True
    gives_context: bool = False
    follows_clock: bool = False
    only_steps: int | None = None

    def takes(self, steps: int) -> bool:
        """Whether the sampler can take this number of steps."""
        return self.only_steps in (None, steps)


class Sampler(Component, ABC):
    """Draws samples from a denoiser; all randomness comes from the generator that it is given."""

    traits: ClassVar[SamplerTraits] = SamplerTraits()
    moved: ClassVar[Mapping[str, str]] = {
        **Component.moved,
        **{field.name: "say it in `traits = SamplerTraits(...)`" for field in fields(SamplerTraits)},
    }

    def guide(self, denoiser: Denoiser, dataset: Dataset) -> Denoiser:
        """The denoiser that `sample` is called with: with what the networks that the settings name add to it.

        Raises:
            UserError: there is no such network, or it does not fit the denoiser or the data.
        """
        return denoiser

    def check_clock(self, denoiser: Denoiser) -> None:
        """Refuse a denoiser whose clock this sampler does not follow.

        Raises:
            ValueError: it has one.
        """
        if denoiser.has_clock and not self.traits.follows_clock:
            name = self.config.type
            raise ValueError(f"the denoiser has a clock of its own, and sampler {name} does not follow it")

    def network(self, key: str, denoiser: Denoiser, dataset: Dataset) -> Network:
        """The network that a setting names (`Annotated[str, Ref("run")]`), on the denoiser's device.

        Args:
            key: the setting, dotted below the sampler's section.

        Raises:
            UserError: there is none, or it was trained on other data or labels, or with another process.
        """
        model = self.open_model(key)
        if model.dataset.fingerprint != dataset.fingerprint or not _equal(model.dataset.labels, dataset.labels):
            raise UserError(f"{key}: '{model.path}' was trained on other data; use this run's data section")
        if model.network.process.num_states != denoiser.process.num_states:
            raise UserError(f"{key}: '{model.path}' knows another process; use this run's process section")
        network: Network = model.network.to(denoiser.device)
        return network

    @abstractmethod
    def sample(
        self,
        denoiser: Denoiser,
        count: int,
        *,
        steps: int,
        generator: Randomness,
        cond: Condition = NOTHING,
        on_step: OnStep | None = None,
    ) -> Samples:
        """Draw `count` samples in `steps` steps on the denoiser's device, given `cond`.

        Tokens of `cond.prompt` do not change. With `SampleStreams` as the generator each sample depends on its own
        stream alone.
        """


def _equal(ours: Tensor | None, theirs: Tensor | None) -> bool:
    """Whether the labels of two datasets are the same, or there are none of either."""
    return ours is theirs or (ours is not None and theirs is not None and ours.equal(theirs))


SAMPLERS: Registry[Sampler] = Registry("sampler", Sampler, "fewstep.samplers")
