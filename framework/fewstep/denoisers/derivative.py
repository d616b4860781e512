"""Exact directional derivatives of a denoiser's log-probabilities with respect to its parameters.

Shapes: B batch, L tokens, V vocabulary, N selected rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from fewstep.backbones.attention import plain_attention
from fewstep.denoisers.base import NOTHING, Denoiser
from fewstep.predictions.base import Prediction, RowMap
from fewstep.predictions.condition import Condition
from fewstep.predictions.positions import everywhere, positions


class Derivative(Prediction):
    """Rows d/de log p(x | z_t; theta + e nu) at e = 0 in the place of log-probabilities; for `rowwise` only.

    Lazy like the prediction itself: the network has run, and the head runs only for the rows that a loss reads, in
    chunks if there are many. Rows carry no gradient.

    Args:
        prediction: prediction of the denoiser; its head and row maps are used.
        source: its `source` at all positions [B, L, ...].
        tangent: the derivative of `source`.
        rows: (prediction, source [N, ...], tangent [N, ...]) -> derivatives [N, V].
    """

    def __init__(
        self,
        prediction: Prediction,
        source: Tensor,
        tangent: Tensor,
        rows: Callable[[Prediction, Tensor, Tensor], Tensor],
    ) -> None:
        super().__init__(prediction.known, prediction.where)
        self._prediction, self._both, self._derive = prediction, torch.stack((source, tangent), 2), rows

    @property
    def vocab_size(self) -> int:
        return self._prediction.vocab_size

    def source(self, where: Tensor) -> Tensor:
        return positions(where).take(self._both)

    def to_log_probs(self, source: Tensor) -> Tensor:
        return self._derive(self._prediction, source[:, 0], source[:, 1])

    def with_shaping(self, shaping: tuple[RowMap, ...]) -> Prediction:
        raise TypeError("a derivative is not shaped; take the derivative of a shaped prediction")


def directional_derivative(
    denoiser: Denoiser, direction: Mapping[str, Tensor], x_t: Tensor, t: Tensor, cond: Condition = NOTHING
) -> Derivative:
    """Exact derivative of the denoiser's prediction along `direction`, in one pass of forward mode.

    Costs about two evaluations and stores nothing for a backward pass. Fused attention has no forward mode, so that
    attention is computed by `plain_attention`, whose memory is of the order of B L^2.

    Args:
        denoiser: a denoiser without noise input.
        direction: a tensor for every parameter, by the parameter's name.
        x_t: noised ids [B, L].
        t: times [B].
        cond: further conditions of the prediction.
    """
    reader = _Reader(denoiser)
    names = {name: f"denoiser.{name}" for name, _ in denoiser.named_parameters()}
    parameters = {names[name]: value.detach() for name, value in denoiser.named_parameters()}
    tangents = {names[name]: direction[name].to(value.dtype) for name, value in denoiser.named_parameters()}
    predictions: list[Prediction] = []  # `jvp` returns tensors only

    def run(values: dict[str, Tensor]) -> Tensor:
        prediction, source = functional_call(reader, values, (_predict, x_t, t, cond))
        predictions.append(prediction)
        return source

    def rows(prediction: Prediction, source: Tensor, tangent: Tensor) -> Tensor:
        def head(values: dict[str, Tensor], source: Tensor) -> Tensor:
            return functional_call(reader, values, (_rows, prediction, source))

        with torch.no_grad():
            return jvp(head, (parameters, source), (tangents, tangent))[1]

    with torch.no_grad(), plain_attention(), warnings.catch_warnings():
        # torch's forward mode compiles its own decompositions with the torch.jit that torch deprecates.
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
        source, tangent = jvp(run, (parameters,), (tangents,))[:2]
    return Derivative(predictions[0], source.unflatten(0, x_t.shape), tangent.unflatten(0, x_t.shape), rows)


class _Reader(nn.Module):
    """Module that calls a function of a denoiser: `functional_call` swaps parameters for a module's forward only."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, read: Callable[..., object], *args: object) -> object:
        return read(self.denoiser, *args)


def _predict(denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Prediction, Tensor]:
    prediction = denoiser(x_t, t, cond=cond)
    return prediction, prediction.source(everywhere(prediction.where))


def _rows(denoiser: Denoiser, prediction: Prediction, source: Tensor) -> Tensor:
    return prediction.rows(source)
