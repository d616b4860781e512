"""The block-autoregressive transformer: its mask, its two limits, times of blocks, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.adapters.step import StepInput, StepInputConfig
from fewstep.backbones.base import BACKBONES, Backbone, TokenSpace
from fewstep.backbones.block_transformer import BlockTransformer
from fewstep.backbones.blockwise import block_mask
from fewstep.core.errors import UserError
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import StepContext
from fewstep.predictions.condition import Prefix
from fewstep.processes.base import PROCESSES

TOKENS = TokenSpace(num_states=6, vocab_size=5, length=12)
SMALL = {"width": 32, "depth": 2, "heads": 2}


def build(kind: str = "block_transformer", **options: Any) -> Any:
    torch.manual_seed(0)
    model: Backbone = BACKBONES.build({"type": kind, **SMALL, **options}, tokens=TOKENS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def batch(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randint(6, (count, 12)), torch.randint(5, (count, 12)), torch.rand(count)


def test_the_mask_written_out() -> None:
    """Two blocks of two tokens: noised 0 0 1 1, and the clean ones of block 0 (those of the last one are not read)."""
    blocks = torch.tensor([0, 0, 1, 1])
    mask = block_mask(blocks, blocks[:2])
    assert mask.int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
    ]
    whole = block_mask(blocks, blocks)
    assert whole[4:, 4:].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert whole[:4, 6:].sum() == 0, "clean tokens of the last block reach no noised one"


@pytest.mark.parametrize("options", [{}, {"time_conditioned": True, "qk_norm": True}])
def test_one_block_is_the_plain_transformer_whatever_the_context(options: dict[str, Any]) -> None:
    blocks, plain = build(block_size=12, **options), build("transformer", **options)
    plain.load_state_dict(blocks.state_dict())
    x, context, t = batch()
    residual = torch.randn(2, 3, 12, 32)
    with torch.no_grad():
        wanted = plain(x, t, residual=residual)
        torch.testing.assert_close(blocks(x, t, residual=residual, context=context), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(blocks(x, t, residual=residual, context=x % 5), wanted, rtol=1e-5, atol=1e-5)


def test_no_gradient_flows_against_the_order_of_blocks() -> None:
    """The derivative of each output by each embedded token is zero wherever the token must not matter."""
    model, (x, context, t) = build(block_size=3, time_conditioned=True), batch(1)
    given: list[Tensor] = []
    model.embed = lambda ids: given.append(model.embedding(ids).detach().requires_grad_()) or given[-1]
    hidden = model(x, t, context=context)[0]
    clean = given[1]
    assert clean.shape[1] == 9
    for place in range(12):
        grads = torch.autograd.grad(hidden[place].square().sum(), given, retain_graph=True)
        own, earlier = place // 3 == torch.arange(12) // 3, torch.arange(9) // 3 < place // 3
        assert torch.equal(grads[0][0].abs().sum(-1) > 0, own)
        assert torch.equal(grads[1][0].abs().sum(-1) > 0, earlier)


def test_blocks_may_have_times_of_their_own() -> None:
    model, (x, context, _) = build(time_conditioned=True), batch(2)
    times = torch.tensor([[0.1, 0.5, 0.9], [0.3, 0.2, 0.7]])
    with torch.no_grad():
        mixed = model(x, times.repeat_interleave(4, 1), context=context)
        for block in range(3):
            here = slice(4 * block, 4 * block + 4)
            alone = model(x, times[:, block], context=context)[:, here]
            torch.testing.assert_close(mixed[:, here], alone, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(mixed[:, :4], model(x, times[:, 1], context=context)[:, :4], atol=1e-3)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("size", [None, 4])
def test_times_are_drawn_for_each_block(size: int | None, antithetic: bool, rng: torch.Generator) -> None:
    process = PROCESSES.build("masked", vocab_size=5)
    student = NetworkDenoiser(build() if size else build("transformer"), process)
    ctx = StepContext({"student": student}, process, {"time": rng}, torch.device("cpu"))
    t = ctx.sample_time_of_blocks(50, antithetic=antithetic)
    assert t.shape == ((50, 12) if size else (50,))
    drawn = t.view(50, 3, 4)[..., 0] if size else t
    if size:
        assert torch.equal(t.view(50, 3, 4), drawn[..., None].expand(50, 3, 4))
    assert len(drawn.unique()) == drawn.numel()
    if antithetic:
        spread = drawn.flatten().sort().values.diff()
        torch.testing.assert_close(spread, torch.full_like(spread, 1 / drawn.numel()), atol=1e-5, rtol=0)
        assert abs(drawn.mean(0) - 0.5).max() < 0.05, "every block gets all times"


def test_a_step_input_takes_lengths_of_single_tokens() -> None:
    told = StepInput(StepInputConfig(init_std=0.1), width=8)
    lengths = torch.rand(2, 3)
    each = told(lengths)
    assert each.shape == (1, 2, 3, 8)
    for place in range(3):
        torch.testing.assert_close(each[:, :, place : place + 1], told(lengths[:, place]))


def test_a_size_that_does_not_divide_the_length_is_named() -> None:
    with pytest.raises(UserError, match=r"samples of 12 tokens are no whole number of blocks of 5 \(block_size\)"):
        build(block_size=5)


def misuses(model: BlockTransformer) -> dict[str, Any]:
    x, context, t = batch()
    empty = Prefix(context[:, :0])
    return {
        "call it with `context`": lambda: model(x, t),
        "not with both": lambda: model(x[:, :4], t, context=context, prefix=empty),
        r"context has shape \(3, 11\)": lambda: model(x, t, context=context[:, 1:]),
        "16 tokens is longer than the 12": lambda: model(
            x.repeat(1, 2)[:, :16], t, context=context.repeat(1, 2)[:, :16]
        ),
        "6 tokens are no whole number of blocks of 4": lambda: model(x[:, :6], t, context=context[:, :6]),
        "5 tokens after a prefix of 0": lambda: model(x[:, :5], t, prefix=empty),
        "4 tokens after a prefix of 12": lambda: model(x[:, :4], t, prefix=Prefix(context)),
        "not read by this network": lambda: model(x[:, :4], t, prefix=Prefix(context[:, :4])),
    }


@pytest.mark.parametrize("message", misuses(build()))
def test_misuse_is_explained(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        misuses(build())[message]()


def test_a_prefix_can_be_continued_in_several_ways() -> None:
    """Prefixes of one sample share their keys and values; none changes what another reads."""
    model = build(block_size=4)
    context, x, t = torch.randint(5, (2, 12)), torch.randint(6, (2, 4)), torch.rand(2)
    with torch.no_grad():
        first = model.read(Prefix(context[:, :0]), context[:, :4])
        ways = [model.read(first, context[:, 4:8]), model.read(first, (context[:, 4:8] + 1) % 5)]
        before = [model(x, t, prefix=prefix) for prefix in (first, *ways)]
        model(x, t, prefix=ways[0])
        again = [model(x, t, prefix=prefix) for prefix in (ways[1], first, ways[0])]
    for one, other in zip(before, (again[1], again[2], again[0]), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert not torch.allclose(before[1], before[2], atol=1e-3)


def test_appending_a_block_copies_no_earlier_one() -> None:
    model, context = build(block_size=4), torch.randint(5, (2, 12))
    prefix = Prefix(context[:, :0])
    places = set()
    for first in range(0, 12, 4):
        prefix = model.read(prefix, context[:, first : first + 4])
        places.add(tuple(layer.keys.data_ptr() for layer in prefix.memory))
    assert len(places) == 1
    assert {layer.filled for layer in prefix.memory} == {12}
