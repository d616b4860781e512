"""Likelihood of autoregressive models: block-autoregressive denoisers of a masked process whose blocks are one token.

Such a denoiser predicts each token from the clean ones before it, so the product of its predictions is a distribution
over whole samples, and its logarithm is exact. Any other denoiser has only a bound. Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.denoisers.base import Denoiser
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import HeadPrediction


def check_autoregressive(denoiser: Denoiser, label: str) -> None:
    """Refuse any other kind of denoiser.

    Args:
        label: name of the denoiser in messages.

    Raises:
        UserError: it predicts more than one token at once, or is conditioned on labels.
    """
    if denoiser.block_size != 1 or not denoiser.process.carry_over:
        raise UserError(
            f"{label} is no autoregressive model; train one with `process: masked` and "
            "`backbone: {type: block_transformer, block_size: 1}`, such as recipe text-ar"
        )
    if denoiser.has_latent:
        raise UserError(f"{label} has a noise input, so its likelihood is no product; train one without `noise_input`")
    if denoiser.conditioned_on_labels:
        raise UserError(
            f"{label} is conditioned on labels, which samples do not carry; train one without `label_input`"
        )


def token_nll(denoiser: Denoiser, x0: Tensor) -> Tensor:
    """-log p(x_i | x_1, ..., x_{i-1}) in nats [B, L], of ids [B, L]; one evaluation, with gradient to the weights."""
    return predict_next(denoiser, x0).nll(x0)


def last_hidden(denoiser: Denoiser, x0: Tensor, last: Tensor | None = None) -> Tensor:
    """The hidden state [B, D] that predicts the last token of the ids [B, L] from all earlier ones.

    Args:
        last: LongTensor [B], number of the token that counts as the last one of each sample; None for that of the row.
    """
    prediction = predict_next(denoiser, x0)
    assert isinstance(prediction, HeadPrediction), "a network of blocks has hidden states"
    return prediction.hidden[:, -1] if last is None else prediction.hidden[torch.arange(len(x0)), last]


def predict_next(denoiser: Denoiser, x0: Tensor, labels: Tensor | None = None) -> Prediction:
    """Prediction of each token of the ids [B, L] from those before it; one evaluation.

    Args:
        labels: LongTensor [B], for a denoiser that is conditioned on them.
    """
    masks = torch.full_like(x0, denoiser.process.vocab_size)
    times = torch.ones(len(x0), device=x0.device)
    return denoiser(masks, times, cond=Condition(context=x0, labels=labels))
