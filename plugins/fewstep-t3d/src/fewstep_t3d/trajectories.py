"""Roll-outs of a block teacher with the order in which it decoded them, and masks by that order.

Shapes: B batch, L tokens, S tokens a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fewstep.denoisers.base import Denoiser
from fewstep.predictions.condition import Condition
from fewstep.processes.masked import MaskedProcess
from fewstep.processes.masks import ranks
from fewstep.runtime.streams import Randomness, integers, uniform
from fewstep.samplers.base import Sampler, StepState


class DecodingOrder:
    """Callback of a sampler that records the step, from 1, after which each token is no longer a mask.

    Steps count over all blocks, so the numbers rise from block to block. `steps` is LongTensor [B, L].
    """

    def __init__(self, mask_id: int) -> None:
        self.mask_id = mask_id
        self.steps = torch.zeros(0)

    def __call__(self, state: StepState) -> None:
        if not self.steps.numel():
            self.steps = torch.zeros_like(state.x)
        now = (state.x != self.mask_id) & (self.steps == 0)
        self.steps = self.steps.masked_fill(now, state.index + 1)


def roll_out(
    sampler: Sampler, teacher: Denoiser, prompt: Tensor, *, steps: int, generator: Randomness
) -> tuple[Tensor, Tensor]:
    """Samples of a masked process and their order of decoding: two LongTensors [B, L], the order 0 at given tokens.

    Args:
        prompt: given tokens, -1 where the teacher decodes (LongTensor [B, L]).
        steps: steps a block.
    """
    assert isinstance(teacher.process, MaskedProcess), "order of decoding is that of masks"
    order = DecodingOrder(teacher.process.mask_id)
    out = sampler.sample(
        teacher, len(prompt), steps=steps, generator=generator, cond=Condition(prompt=prompt), on_step=order
    )
    return out.x, order.steps.masked_fill(prompt >= 0, 0)


def place_in_block(order: Tensor, size: int, decoded: Tensor) -> Tensor:
    """Place of each token in the decoding of its block, from 0 (LongTensor [B, L]); tokens outside `decoded` are last.

    Tokens of one step keep their order in the text.
    """
    scores = -order.double().masked_fill(~decoded, float("inf"))
    return ranks(scores.view(-1, size)).view(order.shape)


def number_in_block(tokens: Tensor, size: int) -> Tensor:
    """Number of true tokens in the block of each token: LongTensor [B, L] of BoolTensor [B, L]."""
    return tokens.view(len(tokens), -1, size).sum(2).repeat_interleave(size, 1)


def hidden_by_order(order: Tensor, size: int, decoded: Tensor, share: Tensor, *, earliest: bool) -> Tensor:
    """Tokens to mask: of the n decoded tokens of each block floor(share n), at least one (BoolTensor [B, L]).

    Args:
        share: float [B], in (0, 1].
        earliest: mask those that were decoded first, as released code does; else the last ones, as a sampler's states.
    """
    place, count = place_in_block(order, size, decoded), number_in_block(decoded, size)
    masks = (count * share[:, None].double() + 1e-9).long().clamp_min(1)  # rounding may put a third of 3 below 1
    return decoded & ((place < masks) if earliest else (place >= count - masks))


def with_random_tokens(z: Tensor, hidden: Tensor, share: float, vocab_size: int, *, generator: Randomness) -> Tensor:
    """z with random tokens in the place of floor(share n) of the n hidden ones, at least one of each sample."""
    scores = uniform(z.shape, generator, device=z.device).masked_fill(~hidden, -1.0)
    count = (hidden.sum(1) * share + 1e-9).long().clamp_min(1)
    noise = integers(vocab_size, z.shape, generator, device=z.device)
    return torch.where(hidden & (ranks(scores) < count[:, None]), noise, z)


def drawn_shares(
    shares: Sequence[float], power: float, count: int, generator: Randomness, device: torch.device
) -> Tensor:
    """One of `shares` for each sample, with probability in proportion to share^power: float64 [count]."""
    values = torch.tensor(shares, dtype=torch.float64, device=device)
    ends = (values.pow(power) / values.pow(power).sum()).cumsum(0)[:-1]
    return values[torch.bucketize(uniform((count,), generator, device=device), ends, right=True)]
