"""Attention: the implementations agree, masks hide what they say, and xformers is asked rightly."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.backbones import attention as module
from fewstep.backbones.attention import attention, plain_attention, resolve_backend
from fewstep.core.errors import UserError

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="xformers' attention operators exist on CUDA only")


@pytest.fixture(autouse=True)
def _fresh_choices() -> None:
    module._CHOSEN.clear()
    module._FASTEST.clear()


def qkv(length: int = 10, batch: int = 1, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(batch, length, 3, 8, device=device, dtype=dtype).requires_grad_() for _ in range(3)]


def run(backend: str, inputs: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of a loss that weighs its entries differently."""
    out = attention(*inputs, backend=backend)
    weights = torch.linspace(-1, 1, out.numel(), device=out.device).view(out.shape)
    return [out, *torch.autograd.grad((out.float() * weights).sum(), inputs)]


def test_math_is_the_definition() -> None:
    q, k, v = (x.detach() for x in qkv(4))
    out = attention(q, k, v, backend="math")
    for head in range(3):
        for i in range(4):
            weights = [math.exp(float(q[0, i, head] @ k[0, j, head]) / math.sqrt(8)) for j in range(4)]
            mean = sum(w * v[0, j, head] for j, w in enumerate(weights)) / sum(weights)
            torch.testing.assert_close(out[0, i, head], mean)


def test_sdpa_equals_math_with_gradients() -> None:
    inputs = qkv(batch=2)
    torch.testing.assert_close(run("sdpa", inputs), run("math", inputs), rtol=1e-5, atol=1e-5)


def some_mask(rows: int, columns: int) -> Tensor:
    """Half of all pairs, and at least one in each row."""
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[:, 0] |= ~mask.any(1)
    return mask


@pytest.mark.parametrize("asked", [10, 13], ids=["square", "more keys"])
def test_masked_sdpa_equals_masked_math_with_gradients(asked: int) -> None:
    (q, *_), (_, k, v) = qkv(10, batch=2), qkv(asked, batch=2)
    results = []
    for backend in ("sdpa", "math"):
        out = attention(q, k, v, backend=backend, mask=some_mask(10, asked))
        weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
        results.append([out, *torch.autograd.grad((out * weights).sum(), (q, k, v))])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["sdpa", "math"])
def test_a_mask_hides_what_it_says(backend: str) -> None:
    q, k, v = (x.detach() for x in qkv(6))
    mask = some_mask(6, 6)
    base = attention(q, k, v, backend=backend, mask=mask)
    for place in range(6):
        other = v.clone()
        other[:, place] += 1.0
        moved = (attention(q, k, other, backend=backend, mask=mask) - base).abs().amax((0, 2, 3)) > 1e-6
        assert torch.equal(moved, mask[:, place])


def test_xformers_gets_its_layout_and_its_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its operators need a GPU; this one checks on the CPU what it is called with, and is as good as it is exact."""
    fmha = module._import_xformers()
    if fmha is None:
        pytest.skip("xformers is not installed")

    def reference(q: Tensor, k: Tensor, v: Tensor, attn_bias: object) -> Tensor:
        """xformers' contract: [B, L, K, Dh] in and out, the bias added to the scores."""
        scores = torch.einsum("blkd,bmkd->bklm", q, k) / math.sqrt(q.shape[-1])
        if isinstance(attn_bias, Tensor):
            assert (attn_bias.dtype, attn_bias.shape) == (q.dtype, (q.shape[0], q.shape[2], q.shape[1], k.shape[1]))
            assert attn_bias.stride(-1) == 1
            assert all(step % 8 == 0 for step in attn_bias.stride()[:-1]), "its kernels want rows that are aligned"
            scores = scores + attn_bias
        return torch.einsum("bklm,bmkd->blkd", scores.softmax(-1), v)

    monkeypatch.setattr(fmha, "memory_efficient_attention", reference)
    monkeypatch.setattr(Tensor, "is_cuda", True)
    for how in ({}, {"mask": some_mask(10, 10)}):
        inputs = [x.detach() for x in qkv()]
        out = attention(*inputs, backend="xformers", **how)  # type: ignore[arg-type]
        torch.testing.assert_close(out, attention(*inputs, backend="math", **how))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("xformers", "flex", "taken", "masked"),
    [
        (0.5, 0.6, "xformers", "xformers"),
        (0.5, 0.4, "xformers", "flex"),
        (0.95, 0.95, "sdpa", "sdpa"),
        (2.0, 0.8, "sdpa", "flex"),
    ],
)
def test_auto_takes_what_is_fastest_and_measures_once(
    xformers: float,
    flex: float,
    taken: str,
    masked: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A shape is measured once, and logged; another shape, dtype or mask, and a training, are measured anew.

    FlexAttention is measured where there is a mask.
    """
    calls: list[str] = []

    def kernel(name: str) -> Any:
        return lambda q, k, v, mask: calls.append(name) or module._math(q, k, v, mask)

    for name in ("xformers", "flex", "sdpa"):
        monkeypatch.setitem(module._KERNELS, name, kernel(name))
    times = dict(zip(map(module._KERNELS.get, ("xformers", "flex", "sdpa")), (xformers, flex, 1.0), strict=True))
    monkeypatch.setattr(module, "_milliseconds", lambda fn, *rest: times[fn])
    monkeypatch.setattr(module, "_import_xformers", lambda: math)
    inputs = [x.detach() for x in qkv()]
    with caplog.at_level(logging.INFO, logger="fewstep"):
        for how in ({}, {}, {"mask": some_mask(10, 10)}):
            out = attention(*inputs, backend="fastest", **how)
            torch.testing.assert_close(out, attention(*inputs, backend="math", **how))
            assert calls[-1] == (masked if how else taken)
        attention(*qkv(), backend="fastest")
    lines = [record.message for record in caplog.records]
    shape = "attention for 3 heads of 8, 10 queries, 10 keys, torch.float32"
    plain = f"{shape}: xformers {xformers:.3f} ms, sdpa 1.000 ms"
    assert lines == [
        plain,
        f"{shape} with a mask: xformers {xformers:.3f} ms, flex {flex:.3f} ms, sdpa 1.000 ms",
        plain,
    ]


@cuda
@pytest.mark.parametrize("trained", [False, True])
def test_a_call_on_a_gpu_is_timed(trained: bool) -> None:
    inputs = [x.detach() for x in qkv(device="cuda")]
    assert 0 < module._milliseconds(module._sdpa, inputs, None, trained) < 1000


def test_a_missing_operator_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    if module._import_xformers() is None:
        pytest.skip("xformers is not installed")
    # On the CPU xformers itself has no operator, and says so in its own way.
    monkeypatch.setattr(Tensor, "is_cuda", True)
    with pytest.raises(UserError, match="no operator for head dimension 8 in float32; use `attention: sdpa`"):
        attention(*qkv(), backend="xformers")


def test_auto_goes_on_with_sdpa_where_xformers_has_no_operator(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if module._import_xformers() is None or torch.cuda.is_available():
        pytest.skip("xformers is not installed, or has the operators")
    module._warn_once.cache_clear()
    monkeypatch.setattr(Tensor, "is_cuda", True)
    monkeypatch.setattr(module, "has_flex", lambda device: False)
    for how in ({}, {"mask": some_mask(10, 10)}):
        inputs = [x.detach() for x in qkv()]
        out = attention(*inputs, backend="fastest", **how)  # type: ignore[arg-type]
        torch.testing.assert_close(out, attention(*inputs, backend="math", **how))  # type: ignore[arg-type]
    reason = "attention: xformers has no operator for head dimension 8 in float32"
    assert [record.message for record in caplog.records] == [
        f"{reason}; sdpa takes its place",
        f"{reason} with a mask; sdpa takes its place",
    ]


def test_xformers_refuses_no_gpu_because_of_its_extension() -> None:
    """Its wheel is built for one CUDA; beside a PyTorch of another it takes itself for built without any."""
    fmha = module._import_xformers()
    if fmha is None or not torch.version.cuda:
        pytest.skip("xformers is not installed, or PyTorch is without CUDA")
    q = torch.randn(1, 4, 2, 16)
    reasons = fmha.cutlass.FwOp.not_supported_reasons(fmha.Inputs(query=q, key=q, value=q))
    assert reasons == ["device=cpu (supported: {'cuda'})"]
    assert fmha.common._built_with_cuda, "the name that attention.py sets is the one that xformers reads"


@cuda
def test_xformers_has_operators_on_a_gpu() -> None:
    module._warn_once.cache_clear()
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        run(resolve_backend("auto", "cuda"), qkv(device="cuda", dtype=dtype))
        assert module._warn_once.cache_info().currsize == (dtype == torch.float64), dtype


@cuda
@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_xformers_equals_math_on_a_gpu(dtype: torch.dtype, slack: float) -> None:
    assert resolve_backend("xformers", "cuda") == "xformers"
    results = run("xformers", qkv(device="cuda", dtype=dtype))
    exact = run("math", qkv(device="cuda"))
    for got, wanted in zip(results, exact, strict=True):
        torch.testing.assert_close(got.float(), wanted, rtol=slack, atol=slack)


@cuda
@pytest.mark.parametrize("backend", ["xformers", "sdpa"])
@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_masks_on_a_gpu_equal_math(backend: str, dtype: torch.dtype, slack: float) -> None:
    mask, results = some_mask(10, 10).cuda(), []
    for name, inputs in ((backend, qkv(device="cuda", dtype=dtype)), ("math", qkv(device="cuda"))):
        out = attention(*inputs, backend=name, mask=mask)
        results.append([out, *torch.autograd.grad(out.float().square().sum(), inputs)])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got.float(), wanted, rtol=slack, atol=slack)


def test_math_can_be_differentiated_twice() -> None:
    q, k, v = qkv(4)
    (first,) = torch.autograd.grad(attention(q, k, v, backend="math").square().sum(), q, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), k)
    assert second.isfinite().all()
    assert second.any()


@pytest.mark.parametrize(("name", "backend"), [("auto", "sdpa"), ("sdpa", "sdpa"), ("math", "math")])
def test_what_a_cpu_gets(name: str, backend: str) -> None:
    assert resolve_backend(name, "cpu") == backend


@pytest.mark.parametrize(
    ("xformers", "triton", "backend"),
    [(True, True, "fastest"), (True, False, "fastest"), (False, True, "fastest"), (False, False, "sdpa")],
)
def test_auto_measures_on_a_gpu_where_there_is_a_choice(
    xformers: bool, triton: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_import_xformers", lambda: math if xformers else None)
    monkeypatch.setattr(module, "has_flex", lambda device: triton)
    assert resolve_backend("auto", "cuda") == backend


def test_the_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fewstep"):
        for _ in range(3):
            resolve_backend("auto", "cpu")
    assert [record.message for record in caplog.records] == ["attention on cpu: sdpa (chosen by auto)"]


def test_xformers_by_name_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match="xformers has no cpu operator; use `attention: auto` or `sdpa`"):
        resolve_backend("xformers", "cpu")


def test_xformers_by_name_where_it_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_import_xformers", lambda: None)
    with pytest.raises(UserError, match="not installed or cannot be imported"):
        resolve_backend("xformers", "cuda")
    with pytest.raises(UserError, match="cannot run on cpu here"):
        attention(*qkv(), backend="xformers")


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown attention backend 'auto'"):
        attention(*qkv(), backend="auto")


IMPORT = """
import sys, warnings, logging
warnings.simplefilter("error")
logging.basicConfig(level=logging.WARNING)
from fewstep.backbones import attention
assert not any(name.split(".")[0] == "xformers" for name in sys.modules), "imported before it was asked for"
assert attention._import_xformers() is not None
assert logging.getLogger("xformers").level == logging.NOTSET, "its logger stays quiet"
"""


@pytest.mark.medium
def test_xformers_is_imported_late_and_quietly() -> None:
    if find_spec("xformers") is None:
        pytest.skip("xformers is not installed")
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_plain_attention_stands_in_for_every_backend() -> None:
    """And has the forward-mode derivative that fused kernels lack."""
    inputs = [x.detach() for x in qkv()]
    with plain_attention():
        for backend in ("sdpa", "xformers", "math"):
            assert torch.equal(attention(*inputs, backend=backend), attention(*inputs, backend="math"))
        torch.func.jvp(lambda q: attention(q, *inputs[1:], backend="sdpa"), (inputs[0],), (inputs[0],))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="xformers cannot run on cpu"):
            attention(*inputs, backend="xformers")
