"""Order of decoding, masks by it, and weights of the path loss."""

from __future__ import annotations

import pytest
import torch
from fewstep_t3d.losses import path_weights
from fewstep_t3d.trajectories import drawn_shares, hidden_by_order, place_in_block, roll_out, with_random_tokens
from torch import Generator

from fewstep import PROCESSES, SAMPLERS
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.runtime.streams import SampleStreams
from fewstep.testing.statistics import assert_same_distribution

ORDER = torch.tensor([[0, 0, 0, 0, 6, 5, 8, 7, 9, 12, 11, 10]])
DECODED = ORDER > 0


def test_a_roll_out_knows_when_each_token_was_decoded() -> None:
    """One token a step; given tokens are step 0. Where the end of a block is given, its tokens have several orders."""
    source = Markov(Markov.Config(vocab_size=8, length=12, size=64))
    oracle = exact_denoiser(source, PROCESSES.build("masked", vocab_size=8), block_size=4)
    sampler = SAMPLERS.build({"type": "block", "inner": "confidence", "temperature": 0.1})
    prompt = source.train[:32].clone()
    prompt[:, 4:7] = prompt[:, 8:] = -1
    x, order = roll_out(sampler, oracle, prompt, steps=4, generator=SampleStreams(0, range(32)))
    assert torch.equal(x[prompt >= 0], prompt[prompt >= 0])
    assert torch.equal(order == 0, prompt >= 0)
    assert torch.equal(order[:, 4:7].sort(1).values, torch.arange(5, 8).expand(32, 3))
    assert torch.equal(order[:, 8:].sort(1).values, torch.arange(9, 13).expand(32, 4))
    assert len(order.unique(dim=0)) > 1
    _, coarse = roll_out(sampler, oracle, prompt, steps=2, generator=SampleStreams(0, range(32)))
    assert torch.equal(coarse[:, 8:].sort(1).values, torch.tensor([5, 5, 6, 6]).expand(32, 4))


@pytest.mark.parametrize(
    ("share", "earliest", "hidden"),
    [
        (1.0, False, [4, 5, 6, 7, 8, 9, 10, 11]),
        (0.5, False, [6, 7, 9, 10]),
        (0.5, True, [4, 5, 8, 11]),
        (0.75, False, [4, 6, 7, 9, 10, 11]),
        (0.1, False, [6, 9]),
        (0.1, True, [5, 8]),
    ],
)
def test_masks_follow_the_order(share: float, earliest: bool, hidden: list[int]) -> None:
    """At least one of each decoded block, whatever the share, and none of the prompt."""
    out = hidden_by_order(ORDER, 4, DECODED, torch.tensor([share]), earliest=earliest)
    assert out[0].nonzero()[:, 0].tolist() == hidden


def test_blocks_that_end_early_have_their_own_count() -> None:
    decoded = DECODED.clone()
    decoded[0, 10:] = False  # the end of a text: two tokens of the last block count
    out = hidden_by_order(ORDER, 4, decoded, torch.tensor([0.5]), earliest=False)
    assert out[0].nonzero()[:, 0].tolist() == [6, 7, 9]


def test_shares_are_drawn_by_their_power() -> None:
    shares = drawn_shares([1.0, 0.75, 0.5, 0.25], 8.0, 100_000, Generator().manual_seed(0), torch.device("cpu"))
    counts = torch.stack([(shares == value).sum() for value in (1.0, 0.75, 0.5, 0.25)])
    assert_same_distribution(counts, torch.tensor([0.90575, 0.09068, 0.003538, 0.0000138]), "shares")


def test_a_share_of_the_masks_is_random_tokens() -> None:
    z, hidden = torch.full((4000, 12), 8), DECODED.expand(4000, 12)
    out = with_random_tokens(z, hidden, 0.25, 8, generator=Generator().manual_seed(0))
    changed = out != 8
    assert not (changed & ~hidden).any()
    assert bool((changed.sum(1) == 2).all())
    assert_same_distribution(torch.bincount(out[changed], minlength=8), torch.full((8,), 1 / 8), "random tokens")
    assert bool(((with_random_tokens(z, hidden, 0.01, 8, generator=None) != 8).sum(1) == 1).all()), "at least one"


def test_weights_of_the_path_are_three_and_one_sixteenth() -> None:
    order = torch.tensor([[3, 1, 8, 2, 7, 6, 4, 5]])
    place = place_in_block(order, 8, order > 0)
    assert torch.equal(place, order - 1)
    weights = path_weights(place, 8, 4, order > 0)
    assert torch.equal(weights, torch.where(order <= 4, 3 / 16, 1 / 16))
    seen = path_weights(place, 8, 4, order > 4)
    assert torch.equal(seen, torch.where(order > 4, 1 / 4, 0.0)), "a level without tokens does not count"
