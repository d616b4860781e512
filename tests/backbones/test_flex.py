"""FlexAttention: it is SDPA by another way, on a CPU without gradients, and says what it cannot do."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as theirs

from fewstep.backbones import attention as choices
from fewstep.backbones import flex as module
from fewstep.backbones.attention import attention, resolve_backend
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.backbones.blockwise import block_mask
from fewstep.core.errors import UserError
from fewstep.recipe import load_recipe

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has gradients on a GPU only")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="inductor needs a C++ compiler"
)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    choices._CHOSEN.clear()
    choices._FASTEST.clear()
    choices._warn_once.cache_clear()
    module._say_limit.cache_clear()


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plain form, which takes no compiler."""
    monkeypatch.setattr(theirs, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(module, "_compiled", module._flex_attention)


def mask_of_blocks(length: int = 12, size: int = 4, device: str = "cpu") -> Tensor:
    """As `block_transformer` has it: noised tokens, and the clean ones but the last block."""
    blocks = torch.arange(length, device=device) // size
    return block_mask(blocks, blocks[: length - size])


def qkv(length: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, length, 3, 16, generator=generator).to(device, dtype) for _ in range(3)]


def agree(mask: Tensor | None, inputs: list[Tensor]) -> None:
    flex, sdpa = (attention(*inputs, backend=name, mask=mask) for name in ("flex", "sdpa"))
    torch.testing.assert_close(flex, sdpa, rtol=1e-5, atol=1e-5)


@pytest.mark.medium
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("size", [1, 4, 12])
def test_it_equals_sdpa(size: int) -> None:
    mask = mask_of_blocks(size=size)
    agree(mask, qkv(len(mask)))
    agree(None, qkv(7))


@needs_compiler
@pytest.mark.slow
def test_compiled_it_equals_sdpa() -> None:
    """Also for lengths that are no whole number of its tiles, and for another mask without compiling anew."""
    from torch._dynamo.utils import counters

    with torch.no_grad():
        for length, size in ((100, 10), (300, 20)):
            mask = mask_of_blocks(length, size)
            agree(mask, qkv(len(mask)))
        graphs = counters["stats"]["unique_graphs"]
        agree(mask | torch.eye(len(mask), dtype=torch.bool).roll(1, 0), qkv(len(mask)))
    assert counters["stats"]["unique_graphs"] == graphs


@cuda
@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_gradients_equal_those_of_sdpa_on_a_gpu(dtype: torch.dtype, slack: float) -> None:
    mask, results = mask_of_blocks(300, 20, device="cuda"), []
    for name, kind in (("flex", dtype), ("math", torch.float32)):
        inputs = [x.requires_grad_() for x in qkv(len(mask), "cuda", kind)]
        out = attention(*inputs, backend=name, mask=mask)
        results.append([out, *torch.autograd.grad(out.float().square().sum(), inputs)])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got.float(), wanted, rtol=slack, atol=slack)


@cuda
def test_auto_measures_it_for_a_block_model_on_a_gpu(caplog: pytest.LogCaptureFixture) -> None:
    mask = mask_of_blocks(300, 20, device="cuda")
    with caplog.at_level(logging.INFO, logger="fewstep"):
        attention(*qkv(len(mask), "cuda"), backend=resolve_backend("auto", "cuda"), mask=mask)
    assert any("flex" in record.message for record in caplog.records)


@pytest.mark.medium
@pytest.mark.usefixtures("uncompiled")
def test_a_block_model_is_the_same_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And looks at its mask once a forward pass."""
    made: list[torch.Size] = []
    tiles = module._tiles
    monkeypatch.setattr(module, "_tiles", lambda mask: made.append(mask.shape) or tiles(mask))
    x, context, t = torch.randint(6, (2, 16)), torch.randint(5, (2, 16)), torch.rand(2)
    hidden = []
    for name in ("sdpa", "flex"):
        torch.manual_seed(0)
        config = {"type": "block_transformer", "width": 32, "depth": 2, "heads": 2, "attention": name}
        network = BACKBONES.build(config, tokens=TokenSpace(6, 5, 16))
        with torch.no_grad():
            hidden.append(network(x, t, context=context))
    torch.testing.assert_close(*hidden, rtol=1e-5, atol=1e-5)
    assert made == [(28, 28)]


@pytest.mark.medium
def test_it_is_a_part_of_a_compiled_trunk() -> None:
    """One graph, the tiles of the mask included; without inductor, which takes tens of seconds."""
    x, context, t = torch.randint(6, (2, 16)), torch.randint(5, (2, 16)), torch.rand(2)
    config = {"type": "block_transformer", "width": 32, "depth": 2, "heads": 2}
    hidden = []
    for name in ("sdpa", "flex"):
        torch.manual_seed(0)
        network = BACKBONES.build({**config, "attention": name}, tokens=TokenSpace(6, 5, 16))
        network.settled("cpu")
        traced = torch.compile(network._call_impl, backend="eager", fullgraph=True, isolate_recompiles=True)
        with torch.no_grad():
            hidden.append((network if name == "sdpa" else traced)(x, t, context=context))
    torch.testing.assert_close(*hidden, rtol=1e-5, atol=1e-5)


def test_gradients_on_a_cpu_are_refused_in_one_sentence() -> None:
    inputs = [x.requires_grad_() for x in qkv(4)]
    with pytest.raises(UserError, match="FlexAttention has no gradients on a CPU; use `attention: auto` or `sdpa`"):
        attention(*inputs, backend="flex")


def test_a_recipe_that_trains_by_it_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"backbone.attention: FlexAttention has no gradients on a CPU; use auto"):
        load_recipe("markov-teacher", ["backbone.attention=flex", "train.device=cpu"])
    load_recipe("markov-teacher", ["backbone.attention=flex", "train.device=cuda"])


def test_without_triton_a_gpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="FlexAttention needs Triton on cuda; use `attention: auto` or `sdpa`"):
        resolve_backend("flex", "cuda")
    assert resolve_backend("flex", "cpu") == "flex"


def test_after_many_shapes_sdpa_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch._dynamo.exc import FailOnRecompileLimitHit

    monkeypatch.setattr(module, "_compiled", failing(FailOnRecompileLimitHit("")))
    for _ in range(2):
        agree(None, qkv(5))
    assert [record.message for record in caplog.records] == [
        "attention: FlexAttention was compiled for 8 shapes; sdpa takes its place for others"
    ]


def test_what_cannot_be_compiled_is_an_error_by_name_and_a_warning_by_auto(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch._dynamo.exc import TorchDynamoException

    monkeypatch.setattr(module, "_compiled", failing(TorchDynamoException("no\nkernel")))
    inputs, mask = qkv(20), mask_of_blocks()
    with pytest.raises(UserError, match=r"has no code for these tensors here \(no kernel\); use `attention: auto`"):
        attention(*inputs, backend="flex")
    monkeypatch.setattr(choices, "_import_xformers", lambda: None)
    out = attention(*inputs, backend="fastest", mask=mask)
    torch.testing.assert_close(out, attention(*inputs, backend="sdpa", mask=mask))
    assert [record.message for record in caplog.records] == [
        "attention: FlexAttention has no code for these tensors here (no kernel); sdpa takes its place"
    ]


def failing(error: Exception) -> Callable[[], Callable[..., Tensor]]:
    def call(*args: Any, **kwargs: Any) -> Tensor:
        raise error

    return lambda: call
