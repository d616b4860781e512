"""`Network`, which a role trains, and `Denoiser`, a network that predicts the clean tokens.

Shapes: B batch, L tokens, S tokens a block, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from fewstep.adapters.label import LabelInputConfig
from fewstep.adapters.step import StepInputConfig
from fewstep.backbones.base import Backbone
from fewstep.core.component import ComponentConfig
from fewstep.data.base import Dataset
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition, Prefix
from fewstep.predictions.evidence import Output
from fewstep.processes.base import Process
from fewstep.runtime.streams import Randomness

NOTHING = Condition()
N = TypeVar("N", bound="Network")


@dataclass(frozen=True)
class Blueprint:
    """Inputs of `Network.build`: the process of its noised tokens, the data, and the recipe's settings.

    `noise_input`, `step_input` and `label_input` are None if the recipe has none or the role does not take it.
    `objective` holds the settings of the objective, for networks whose shape depends on them. `output` says what the
    rows of a denoiser's head mean.
    """

    process: Process
    dataset: Dataset
    backbone: ComponentConfig
    objective: ComponentConfig
    noise_input: ComponentConfig | None = None
    step_input: StepInputConfig | None = None
    label_input: LabelInputConfig | None = None
    output: Output = "x_mean"


class Network(nn.Module):
    """Network of a role: the interface that trainer, average, checkpoints and exports use.

    It counts its evaluations: `nfe` is the number of calls, and `evaluated` the number of samples in all calls.
    `computed` is the number of tokens in all calls; a part with other weights than the backbone counts its tokens by
    its share of the backbone's parameters.
    `length` is the number of tokens in a sample. `block_size` is the number of tokens in a block for networks that go
    block by block, and None for all others. Parameters are averaged, exported and loaded by name.
    """

    draws: ClassVar[bool] = False
    """Whether samplers can draw from it."""
    has_clock: bool = False
    """Whether its predictions bring a clock (`Prediction.clock`); samplers must then follow it."""
    takes_logit_noise: ClassVar[bool] = False
    """Whether a noise input may put noise at the logits of its predictions."""
    reads_labels: ClassVar[bool] = False
    """Whether batches carry labels for it, also in a recipe without a label input."""
    evaluated_by: ClassVar[tuple[str, ...]] = ()
    """Methods that evaluate it besides `forward`; they gather the weights of a sharded network."""
    backbone_type: ClassVar[type[nn.Module]] = Backbone
    """Type of its backbone."""
    description: ClassVar[str] = "A network"
    """Noun phrase for the card of an exported model."""
    refusal: ClassVar[str] = "this network draws no samples"
    """Error message for a request for samples."""
    next_step: ClassVar[str] = "fewstep.open_model('{run}') opens it"
    """Suggestion that is printed at the end of a run."""

    def __init__(self, process: Process, length: int, block_size: int | None = None) -> None:
        super().__init__()
        self.process = process
        self.length = length
        self.block_size = block_size
        self.nfe = 0
        self.evaluated = 0
        self.computed = 0.0

    @classmethod
    def build(cls: type[N], blueprint: Blueprint) -> N:
        """A freshly initialised network; the caller seeds torch's global generator for its weights.

        Raises:
            UserError: the recipe's backbone does not fit.
        """
        raise TypeError(f"{cls.__name__} is not built from a recipe")

    def start_from(self, other: Network) -> None:
        """Copy the weights of a trained network."""
        self.load_state_dict(other.state_dict())

    def take_gradients(self, trained: bool) -> None:
        """Let the parameters that a training changes take gradients, or none of them."""
        self.requires_grad_(trained)

    @property
    def conditioned_on_labels(self) -> bool:
        """Whether predictions need `cond.labels`."""
        return False

    @property
    def conditioned_on_steps(self) -> bool:
        """Whether a prediction depends on s, the end of its step."""
        return False

    @property
    def device(self) -> torch.device:
        """Device of its tensors."""
        return next(self.parameters()).device

    def _count(self, tokens: Tensor, computed: float | None = None) -> None:
        """Count a call on states [B, L, ...]; `computed` tokens, or all of them."""
        self.nfe += 1
        self.evaluated += tokens.shape[0]
        self.computed += tokens.shape[0] * tokens.shape[1] if computed is None else computed


class Denoiser(Network, ABC):
    """Predicts x from z_t.

    Masked processes carry over: tokens that are not [MASK] are clean and copied (MDLM's SUBS), unless `cond.everywhere`
    requests a prediction for all tokens. Uniform processes predict every token.
    """

    draws: ClassVar[bool] = True
    evaluated_by: ClassVar[tuple[str, ...]] = ("read",)
    description: ClassVar[str] = "A model"
    next_step: ClassVar[str] = "fewstep sample {run} -n 50   or   fewstep evaluate {run}"

    @property
    def has_latent(self) -> bool:
        """Whether a prediction is a random component of a mixture, for it draws noise of its own (`noise_input`)."""
        return False

    @property
    def takes_token_times(self) -> bool:
        """Whether it may be asked with a time for each token (`t` and `s` [B, L]).

        Known tokens of a sample are then at time 0, and predictions are conditioned on them exactly. A network of one
        time a sample takes them for noise as likely as the others, unless the process shows what is noise.
        """
        return False

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        """The result of `forward`, without counting the evaluation."""

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        s: Tensor | None = None,
        *,
        cond: Condition = NOTHING,
        generator: Randomness = None,
    ) -> Prediction:
        """Predict clean tokens.

        Args:
            x_t: a state of the process: noised ids [B, L], or vectors [B, L, S] of a continuous one.
            t: times [B] in [0, 1]; [B, L] with a time for each block, or for each token (`takes_token_times`).
            s: times, like t, at the end of the step, for denoisers that are conditioned on it (two-time networks).
            cond: further conditions of the prediction.
            generator: random numbers for the noise input, if the denoiser has one.
        """
        self._count(x_t)
        return self.predict(x_t, t, s, cond, generator)

    def read(self, prefix: Prefix, block: Tensor) -> Prefix:
        """`prefix` with one more clean block [B, S]; counted if it takes an evaluation of a network."""
        return Prefix(torch.cat((prefix.ids, block), 1))


class DenoiserAround(Denoiser):
    """Base of wrappers around a denoiser; conditions and device are those of the inner denoiser.

    The wrapper counts evaluations, the inner denoiser does not.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser.process, denoiser.length, denoiser.block_size)
        self.denoiser = denoiser
        self.has_clock = denoiser.has_clock

    @property
    def has_latent(self) -> bool:
        return self.denoiser.has_latent

    @property
    def conditioned_on_labels(self) -> bool:
        return self.denoiser.conditioned_on_labels

    @property
    def conditioned_on_steps(self) -> bool:
        return self.denoiser.conditioned_on_steps

    @property
    def device(self) -> torch.device:
        return self.denoiser.device
