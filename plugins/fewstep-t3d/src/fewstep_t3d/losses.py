"""Losses of sequences: direct discriminative optimisation (DDO), and weights of the path loss.

Shapes: B batch, L tokens, S tokens a block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def ddo_loss(
    real: Tensor, reference_real: Tensor, fake: Tensor, reference_fake: Tensor, *, b: float, a: float
) -> Tensor:
    """softplus(-b (l(real) - l_ref(real))) + a softplus(b (l(fake) - l_ref(fake))), elementwise.

    Args:
        real, fake: log-likelihoods under the student of real sequences and of those that the reference makes.
        reference_real, reference_fake: the same under the reference.
    """
    return softplus(-b * (real - reference_real)) + a * softplus(b * (fake - reference_fake))


def path_weights(place: Tensor, size: int, width: int, counted: Tensor) -> Tensor:
    """Weight of each token's cross entropy in the path loss of its sample: float [B, L], sums of 1.

    Level j = 1 .. ceil(S / width) is the mean over the first j x width decoded tokens of all blocks, and the loss is
    the mean over levels. With S = 8 and width 4 a token has 3/16 of its block if it is among the first four, else 1/16.
    Levels in which a sample has no token do not count for it.

    Args:
        place: place in the decoding of the block (LongTensor [B, L]).
        counted: tokens that have a loss (BoolTensor [B, L]).
    """
    levels = -(-size // width)
    weights, filled = torch.zeros(place.shape, device=place.device), torch.zeros(len(place), 1, device=place.device)
    for level in range(1, levels + 1):
        tokens = counted & (place < level * width)
        count = tokens.sum(1, keepdim=True)
        weights = weights + tokens / count.clamp_min(1)
        filled = filled + (count > 0)
    return weights / filled.clamp_min(1)


def mean_of_sample(values: Tensor, tokens: Tensor) -> Tensor:
    """Mean over the true tokens of each sample (float [B, L] -> [B]); 0 for a sample that has none."""
    return (values * tokens).sum(1) / tokens.sum(1).clamp_min(1)
