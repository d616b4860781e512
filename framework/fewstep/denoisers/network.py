"""Networks on a backbone, with adapters; `NetworkDenoiser` predicts tokens.

Shapes: B batch, L tokens, S tokens a block, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from fewstep.adapters.label import LabelInput
from fewstep.adapters.noise.base import NOISE_INPUTS, NoiseInput
from fewstep.adapters.step import StepInput
from fewstep.backbones.base import BACKBONES, Backbone, TokenSpace
from fewstep.backbones.blockwise import BlockBackbone
from fewstep.denoisers.base import Blueprint, Denoiser, Network
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition, Prefix
from fewstep.predictions.evidence import Output
from fewstep.predictions.logit_noise import LogitNoise, NoisyPrediction
from fewstep.predictions.network import HeadPrediction
from fewstep.predictions.positions import everywhere
from fewstep.processes.base import Process, discrete
from fewstep.runtime.streams import Randomness

N = TypeVar("N", bound="BackboneNetwork")
D = TypeVar("D", bound="NetworkDenoiser")


class BackboneNetwork(Network):
    """A backbone with adapters that add to its residual stream; a subclass defines the output.

    Further modules and parameters of a subclass are trained, averaged, exported and loaded with it. `start_from`
    copies those that have the same name and shapes in the other network.
    """

    def __init__(
        self,
        backbone: Backbone,
        process: Process,
        noise_input: NoiseInput | None = None,
        step_input: StepInput | None = None,
        label_input: LabelInput | None = None,
    ) -> None:
        block_size = backbone.block_size if isinstance(backbone, BlockBackbone) else None
        super().__init__(process, backbone.tokens.length, block_size)
        self.backbone = backbone
        self.noise_input = noise_input
        self.step_input = step_input
        self.label_input = label_input

    @classmethod
    def build(cls: type[N], blueprint: Blueprint) -> N:
        b, spec = blueprint, blueprint.dataset.spec
        tokens = TokenSpace(b.process.num_states, cls.head_size(b), spec.length, spec.grid)
        backbone = BACKBONES.build(b.backbone, tokens=tokens)
        noise = None
        if b.noise_input:
            width, sites = backbone.width, backbone.residual_sites
            noise = NOISE_INPUTS.build(b.noise_input, tokens=tokens, width=width, sites=sites)
        step = StepInput(b.step_input, backbone.width) if b.step_input else None
        label = LabelInput(b.label_input, b.dataset.classes, backbone.width) if b.label_input else None
        return cls(backbone, b.process, noise, step, label)

    @classmethod
    def head_size(cls, blueprint: Blueprint) -> int:
        """Number of outputs of the backbone's head for each token: one for each symbol."""
        return blueprint.dataset.spec.vocab_size

    def start_from(self, other: Network) -> None:
        """Copy the weights of another network: the backbone, and each module that both have in the same shapes."""
        assert isinstance(other, BackboneNetwork)
        self.backbone.load_state_dict(self._initial_weights(other))
        for name, ours in self.named_children():
            theirs = getattr(other, name, None)
            if name != "backbone" and isinstance(theirs, nn.Module) and _shapes(ours) == _shapes(theirs):
                ours.load_state_dict(theirs.state_dict())
        own = dict(other.named_parameters(recurse=False))
        for name, parameter in self.named_parameters(recurse=False):
            if name in own and own[name].shape == parameter.shape:
                parameter.data.copy_(own[name])

    def _initial_weights(self, other: BackboneNetwork) -> dict[str, Tensor]:
        """Weights of this backbone when it starts from another network."""
        return other.backbone.state_dict()

    @property
    def conditioned_on_labels(self) -> bool:
        return self.label_input is not None

    @property
    def conditioned_on_steps(self) -> bool:
        return self.step_input is not None

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def _residual(
        self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness
    ) -> Tensor | None:
        """Sum of the adapters' residuals, [R, B, L, D]; after a prefix the tokens are the block that follows it."""
        return self._adapted(x_t, t, s, cond, generator)[0]

    def _adapted(
        self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness
    ) -> tuple[Tensor | None, LogitNoise | None]:
        """`_residual`, and the noise at the logits of the same tokens."""
        residual, at_logits = None, None
        if self.noise_input is not None:
            first = 0 if cond.prefix is None else cond.prefix.length
            tokens = slice(first, first + x_t.shape[1])
            residual, at_logits = self.noise_input.draw(x_t.shape[0], generator)
            residual, at_logits = residual[:, :, tokens], at_logits and at_logits.select(tokens)
        for embedding in self._embeddings(t, s, cond):
            first_site = embedding.expand(1, *x_t.shape[:2], -1)
            residual = first_site if residual is None else torch.cat((residual[:1] + first_site, residual[1:]))
        return residual, at_logits

    def _embeddings(self, t: Tensor, s: Tensor | None, cond: Condition) -> list[Tensor]:
        """Embeddings of step and label: one for all tokens of a sample [1, B, 1, D], or one each [1, B, L, D]."""
        parts = []
        if self.step_input is not None:
            if s is None:
                raise ValueError("this denoiser is conditioned on the length of its step: call it with s")
            parts.append(self.step_input(t - s))
        if self.label_input is not None:
            if cond.labels is None:
                raise ValueError("this denoiser is conditioned on a label: call it with cond.labels (-1 for none)")
            parts.append(self.label_input(cond.labels))
        return parts


class NetworkDenoiser(BackboneNetwork, Denoiser):
    """A denoiser whose prediction comes from a backbone.

    `output` is what the rows of its head mean. Predictions are of p(x | z_t) whatever it is; they convert leave-one-out
    rows exactly (`DiscreteProcess.from_leave_one_out`). It also takes relaxed states of a process of ids, rows of
    probabilities [B, L, S]: the backbone reads them, gradients flow into them, and the likeliest ids stand for them in
    all else.
    """

    takes_logit_noise = True
    output: Output = "x_mean"

    @classmethod
    def build(cls: type[D], blueprint: Blueprint) -> D:
        network = super().build(blueprint)
        network.output = blueprint.output
        return network

    def start_from(self, other: Network) -> None:
        """Copy the weights of another network, and what the rows of its head mean."""
        super().start_from(other)
        self.output = getattr(other, "output", self.output)

    @property
    def has_latent(self) -> bool:
        return self.noise_input is not None

    @property
    def takes_token_times(self) -> bool:
        return self.backbone.takes_token_times

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        blocks = {"context": cond.context, "prefix": cond.prefix} if self.backbone.uses_context else {}
        residual, at_logits = self._adapted(x_t, t, s, cond, generator)
        hidden = self.backbone(x_t, t, residual=residual, **blocks)
        ids, vocab_size = self.process.to_ids(x_t), self.process.vocab_size
        where = self.process.to_predict(ids if self.process.space == "discrete" else x_t)
        if cond.everywhere:
            where = everywhere(where)
        prediction: Prediction = HeadPrediction(hidden, self.backbone.head, vocab_size, ids, where)
        if self.output == "leave_one_out":
            prediction = discrete(self.process).from_leave_one_out(prediction, ids, t)
        return prediction if at_logits is None else NoisyPrediction(prediction, at_logits)

    def read(self, prefix: Prefix, block: Tensor) -> Prefix:
        if not isinstance(self.backbone, BlockBackbone):
            raise ValueError(f"backbone {self.backbone.config.type} has no blocks; block_transformer has")
        self._count(block)
        return self.backbone.read(prefix, block)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Context in which the network is in eval mode (no dropout)."""
    before = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(before)


@contextmanager
def uncounted(network: Denoiser | Network) -> Iterator[None]:
    """Context whose evaluations of the network do not count as the training's."""
    counts = network.nfe, network.evaluated, network.computed
    try:
        yield
    finally:
        network.nfe, network.evaluated, network.computed = counts


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}
