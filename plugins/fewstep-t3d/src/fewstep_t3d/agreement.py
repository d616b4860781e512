"""How far blocks of few steps agree with a teacher's roll-outs.

Shapes: B batch, L tokens, S tokens a block, K blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import Denoiser
from fewstep.predictions.condition import Condition
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import Sampler


def redrawn_blocks(sampler: Sampler, network: Denoiser, x: Tensor, *, steps: int, first: int, seed: int = 0) -> Tensor:
    """x with each block from the block `first` on drawn anew, given the blocks of x before it (LongTensor [B, L]).

    Raises:
        ValueError: the network does not go block by block.
    """
    if network.block_size is None:
        raise ValueError("the network predicts whole samples, and has no blocks to draw")
    out = x.clone()
    for start in range(first * network.block_size, x.shape[1], network.block_size):
        prompt, block = x.clone(), slice(start, start + network.block_size)
        prompt[:, start:] = -1
        streams = SampleStreams(seed, range(len(x)))
        drawn = sampler.sample(network, len(x), steps=steps, generator=streams, cond=Condition(prompt=prompt))
        out[:, block] = drawn.x[:, block]
    return out


def agreement(x: Tensor, y: Tensor, size: int, first: int) -> Tensor:
    """Share of equal blocks from the block `first` on, of each sample: float64 [B]."""
    same = (x == y).view(len(x), -1, size).all(2)[:, first:]
    return same.double().mean(1)


def block_log_probs(source: Markov, blocks: Tensor, before: Tensor, size: int, first: int) -> Tensor:
    """log p of each block from the block `first` on in nats, given the tokens of `before` before it: float64 [B, K].

    Args:
        source: a chain of order 1.
        blocks: tokens whose probability is asked, LongTensor [B, L].
        before: tokens that the blocks follow, LongTensor [B, L].
    """
    previous = torch.cat((before[:, :1], blocks[:, :-1]), 1)
    previous[:, size::size] = before[:, size - 1 : -1 : size]
    return source.transition.log()[previous, blocks].view(len(blocks), -1, size).sum(2)[:, first:]
